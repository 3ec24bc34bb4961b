"""A search as it is asked for, and what a store must be able to do for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from toolbox_cli.domain.models import Frozen, Generation, SearchHit

if TYPE_CHECKING:
    from toolbox_cli.domain.ports import Vectors

SearchMode = Literal["vector"]


class SearchFilter(Frozen):
    """None and empty mean no restriction; a tool must have all of ``tags``."""

    category: str | None = None
    tags: tuple[str, ...] = ()
    include_inactive: bool = False


class SearchStore(Protocol):
    async def nearest(
        self, generation: Generation, vector: Vectors, where: SearchFilter, limit: int
    ) -> list[SearchHit]: ...
