"""A search as it is asked for, and what a store must be able to do for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from toolbox_cli.domain.errors import StateError
from toolbox_cli.domain.models import Frozen, Generation, SearchHit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from toolbox_cli.domain.ports import Vectors
    from toolbox_cli.domain.verification import Sample


class GenerationMovedError(StateError):
    """A generation has another column than a moment ago, or none: a cutover or a roll back has just ended."""


SearchMode = Literal["vector", "text", "hybrid"]


class SearchFilter(Frozen):
    """None and empty mean no restriction; a tool must have all of ``tags``."""

    category: str | None = None
    tags: tuple[str, ...] = ()
    include_inactive: bool = False


class Found(NamedTuple):
    """Results of a search by vector, and how they were found: see ``models.Explanation``."""

    hits: list[SearchHit]
    path: str
    candidates: int
    ef_search: int | None


class SearchStore(Protocol):
    async def find(self, generation: Generation, vector: str, where: SearchFilter, limit: int) -> Found: ...

    async def nearest(
        self, generation: Generation, vector: Vectors, where: SearchFilter, limit: int
    ) -> list[SearchHit]: ...

    async def has_text_index(self) -> bool: ...

    async def coverage(
        self, question: str, where: SearchFilter, limit: int, also: Sequence[int] = (), *, alone: bool = False
    ) -> dict[int, float]:
        """Which share of a question's words tools have, rare words counting more: the ``limit`` best, best first, and
        those of ``also`` that have any. ``alone``: there is no other way to find them.
        """

    async def categories(self, *, include_inactive: bool) -> list[str]: ...

    async def active_names(self, names: Iterable[str]) -> set[str]:
        """Those of the names that are active tools."""

    async def described(self, ids: Sequence[int]) -> list[SearchHit]: ...

    async def measured(self, generation: Generation, vector: str, ids: Sequence[int]) -> list[SearchHit]: ...

    async def stored_vector(self, generation: Generation, tool_id: int) -> str | None: ...

    def text_of(self, vector: Vectors) -> str: ...


class Recall(Frozen):
    """The share of the ``k`` nearest that an index finds, on average over so many queries."""

    recall: float
    k: int
    queries: int


class SearchPlan(NamedTuple):
    """Which index PostgreSQL goes through for a search of ours, and for the plain query of a server; None: none.

    ``vectors`` is how many there are, estimated where they are many.
    """

    ours: str | None
    plain: str | None
    vectors: int


class QualityStore(SearchStore, Protocol):
    """Both ways of searching one generation, whatever a search would choose. Vectors are in pgvector's text form."""

    async def sample_vectors(self, generation: Generation, count: int) -> list[str]: ...

    async def by_index(self, generation: Generation, vector: str, limit: int) -> list[SearchHit]: ...

    async def exact(self, generation: Generation, vector: str, limit: int) -> list[SearchHit]: ...

    async def sample_tools(self, generation: Generation, count: int) -> list[Sample]: ...

    @property
    def exact_up_to(self) -> int:
        """Up to so many candidates a search reads every vector."""

    async def planned(self, generation: Generation) -> SearchPlan | None: ...

    async def has_index(self, generation: Generation) -> bool: ...
