"""Questions to a registry, as a user would ask them."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from toolbox_cli.domain.models import Frozen


class Question(Frozen):
    """A question, and the names of the tools that answer it; empty where nobody has said. Other fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    query: str = Field(min_length=1)
    relevant: tuple[str, ...] = ()
