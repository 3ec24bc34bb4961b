"""A search as it is asked for, and what a store must be able to do for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from toolbox_cli.domain.errors import StateError
from toolbox_cli.domain.models import Frozen, Generation, SearchHit

if TYPE_CHECKING:
    from toolbox_cli.domain.ports import Vectors
    from toolbox_cli.domain.verification import Sample


class GenerationMovedError(StateError):
    """A generation has another column than a moment ago, or none: a cutover or a roll back has just ended."""


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


class Recall(Frozen):
    """The share of the ``k`` nearest that an index finds, on average over so many queries."""

    recall: float
    k: int
    queries: int


class QualityStore(SearchStore, Protocol):
    """Both ways of searching one generation, whatever a search would choose. Vectors are in pgvector's text form."""

    async def sample_vectors(self, generation: Generation, count: int) -> list[str]: ...

    async def by_index(self, generation: Generation, vector: str, limit: int) -> list[SearchHit]: ...

    async def exact(self, generation: Generation, vector: str, limit: int) -> list[SearchHit]: ...

    async def sample_tools(self, generation: Generation, count: int) -> list[Sample]: ...

    async def has_index(self, generation: Generation) -> bool: ...

    def text_of(self, vector: Vectors) -> str: ...
