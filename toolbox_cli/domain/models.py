"""The nouns of the product. Field names are those of the JSON that scripts rely on."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

#: pgvector's ``vector`` type stores at most 16,000 dimensions (VECTOR_MAX_DIM in pgvector's src/vector.h).
MAX_DIMENSION = 16_000

#: The text template that the SQL function ``toolbox_tool_text`` builds. Part of every fingerprint.
TEMPLATE_VERSION = 1

#: The variable that holds the key of a service unless another one is named.
DEFAULT_KEY_VARIABLE = "EMBEDDING_API_KEY"

IndexMethod = Literal["hnsw", "ivfflat", "none"]


class Frozen(BaseModel):
    # Built at their first use: a command uses a few of some eighty, and building them all costs a tenth of a search.
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), defer_build=True)


class Role(StrEnum):
    """What a generation is to the registry; each of the three live roles has one vector column."""

    CURRENT = "current"
    BUILDING = "building"
    PREVIOUS = "previous"

    @property
    def column(self) -> str:
        return _VECTOR_COLUMNS[self]

    @property
    def fingerprint_column(self) -> str:
        return f"{self.column}_fingerprint"

    @property
    def index_name(self) -> str:
        return f"ix_tools_{self.column}"


_VECTOR_COLUMNS = {
    Role.CURRENT: "embedding",
    Role.BUILDING: "embedding_next",
    Role.PREVIOUS: "embedding_previous",
}


class EmbeddingSpace(Frozen):
    """One embedding space. Two vectors are comparable only if all five fields are equal.

    ``model`` is None where vectors were found in an adopted registry and nothing says who made them.
    """

    model: str | None
    dimension: int
    document_prefix: str = ""
    query_prefix: str = ""
    template_version: int = TEMPLATE_VERSION


class Generation(Frozen):
    """A row of ``embedding_generations`` in a live role."""

    id: int
    role: Role
    #: The name as the service spells it; None for vectors found in an adopted registry.
    model: str | None
    #: The name that fingerprints are made with: one per model, whatever a service calls it. Stored, so that a
    #: later catalogue cannot turn fresh vectors stale.
    canonical_model: str | None
    dimension: int
    document_prefix: str
    query_prefix: str
    template_version: int
    endpoint_url: str | None
    api_key_env: str | None
    index_method: IndexMethod
    created_at: datetime
    activated_at: datetime | None
    rolled_back_at: datetime | None

    @property
    def space(self) -> EmbeddingSpace:
        return EmbeddingSpace(
            model=self.model,
            dimension=self.dimension,
            document_prefix=self.document_prefix,
            query_prefix=self.query_prefix,
            template_version=self.template_version,
        )


class Target(Frozen):
    """The embedding space that an operator asks for, and the service that makes it.

    ``api_key_env`` and ``index_method`` are None where nobody asked: a generation that is there keeps its own.
    """

    space: EmbeddingSpace
    endpoint_url: str
    api_key_env: str | None = None
    index_method: IndexMethod | None = None


class VectorIndex(Frozen):
    """An index on a vector column, as PostgreSQL's catalogue describes it.

    ``element`` is the indexed type: ``vector`` for a plain column index, ``halfvec`` or ``bit`` for an
    expression index. ``dimension`` is that of the indexed expression.
    """

    name: str
    column: str
    method: str
    element: str
    operator_class: str
    dimension: int | None
    valid: bool
    size_bytes: int = 0


class Census(Frozen):
    """The one way to count: a partition of the active tools of one generation.

    ``active == fresh + stale + missing + failed``; a tool is *failed* when its present text was refused by the
    service, *stale* when its vector has no or another fingerprint, *missing* when it has no vector.
    """

    active: int
    fresh: int
    stale: int
    missing: int
    failed: int


class ServerInfo(Frozen):
    server_version: str
    server_version_number: int
    pgvector_version: str | None
    embedded: bool = False


class Tool(Frozen):
    """One row of ``tools`` without its vectors."""

    id: int
    name: str
    description: str
    category: str
    tags: Any = Field(default_factory=list)
    input_schema: Any = Field(default_factory=dict)
    output_schema: Any = None
    implementation_type: str
    implementation_code: str | None = None
    is_active: bool
    version: str
    created_at: datetime
    updated_at: datetime
    metadata: Any = None


class ToolSummary(Frozen):
    id: int
    name: str
    description: str
    category: str
    tags: Any
    is_active: bool


class PendingTool(NamedTuple):
    """A tool whose vector has to be made: its text as SQL built it, and what is to be stored beside the vector.

    No pydantic model: there is one for every tool, and building those cost more than fetching the rows.
    """

    id: int
    name: str
    text: str
    fingerprint: bytes
    failed_before: bool = False


class ToolFailure(Frozen):
    """A tool that was not embedded, with the service's words."""

    id: int
    name: str
    error: str


class ReindexSummary(Frozen):
    """``selected == embedded + unchanged + failed`` unless the run was interrupted. Times are in seconds."""

    generation: Role
    model: str | None
    selected: int
    embedded: int
    unchanged: int
    failed: int
    failures: list[ToolFailure]
    seconds: float
    tools_per_second: float
    index_seconds: float


class SearchHit(Frozen):
    """``similarity`` is the cosine, 1 − distance, in [−1, 1]; None for a tool that was found by its words alone.

    ``score`` is what the results are ordered by where that is not the similarity, else None; ``coverage`` the share of
    the question's words that the tool has, rare words counting more, None where words were not looked at.
    """

    id: int
    name: str
    description: str
    category: str
    similarity: float | None
    score: float | None = None
    coverage: float | None = None

    @property
    def cosine(self) -> float:
        """The similarity of a tool that was found by its vector."""
        if self.similarity is None:
            raise RuntimeError(f"{self.name} was not found by its vector")
        return self.similarity


class Explanation(Frozen):
    """How a search was done. ``path`` is ``exact`` (every vector read), ``index`` or ``text index``.

    ``candidates`` is how many tools the filters left, counted no further than the choice of the path needed. Times are
    in seconds; the rest of ``total`` is connecting and this program.
    """

    mode: str
    model: str | None
    path: str
    index: str | None
    candidates: int
    ef_search: int | None
    embedding_seconds: float
    database_seconds: float
    total_seconds: float


class SearchResult(Frozen):
    query: str
    mode: str
    model: str | None
    threshold: float | None
    results: list[SearchHit]
    #: Why there are no results, in words; None where there are some.
    reason: str | None = None
    explanation: Explanation | None = None


class CheckStatus(StrEnum):
    PASS = "pass"  # noqa: S105 - a verdict, no password
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


class Check(Frozen):
    """One line of ``toolbox verify``; ``remedy`` is the one command that mends it."""

    name: str
    status: CheckStatus
    detail: str
    remedy: str | None = None
