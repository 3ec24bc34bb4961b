"""How well a registry's search answers questions whose answers are known: the document of ``toolbox eval --json``."""

from __future__ import annotations

from toolbox_cli.domain.models import Frozen


class Miss(Frozen):
    """A question that a mode answers badly: what it shows first, and where the first right answer is (None: nowhere
    among the first ten).
    """

    query: str
    mode: str
    relevant: list[str]
    found: list[str]
    place: int | None


class Evaluation(Frozen):
    """``modes`` holds, by mode, recall@1, recall@5, recall@10 and mrr@10; ``intervals`` the 95 % interval of each.

    ``skipped`` are questions none of whose right answers is an active tool of the registry. ``unknown`` names, at most
    ten, tools that the questions name and the registry does not have.
    """

    queries: int
    model: str | None
    modes: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, tuple[float, float]]]
    misses: list[Miss]
    skipped: int
    unknown: list[str]
