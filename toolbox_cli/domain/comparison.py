"""Two generations side by side on the same questions: the document of ``toolbox compare --json``."""

from __future__ import annotations

from pydantic import Field

from toolbox_cli.domain.models import Frozen, SearchHit


class Latency(Frozen):
    """Milliseconds of one question: through the embedding service, and in the database."""

    embedding_p50: float
    embedding_p95: float
    database_p50: float
    database_p95: float


class Similarities(Frozen):
    """Of the results: how similar the first and the k-th are, and how all of them are spread.

    ``counts`` of the results fall between consecutive ``edges`` (one more than counts).
    """

    first_median: float
    last_median: float
    edges: list[float]
    counts: list[int]


class SideReport(Frozen):
    """One generation. ``index_recall`` is None where there is no index, ``quality`` where nothing is labelled,
    ``suggested_threshold`` with too few vectors.
    """

    role: str
    model: str | None
    dimension: int
    latency: Latency
    similarities: Similarities
    index_recall: float | None
    suggested_threshold: float | None
    quality: dict[str, float] | None


class Difference(Frozen):
    """New minus old, with the 95 % interval of the paired difference; ``verdict`` is better, worse or unclear."""

    measure: str
    old: float
    new: float
    difference: float
    low: float
    high: float
    verdict: str


class Agreement(Frozen):
    """How far both show the same. ``overlap`` is the mean share of the first k that both have, ``histogram`` counts the
    questions by how many results they share, from 0 to k; ``first_same`` is the share of questions with the same first
    result, ``mean_shift`` by how many places a result that both show is moved.
    """

    overlap: float
    histogram: list[int]
    first_same: float
    mean_shift: float


class Threshold(Frozen):
    """A threshold of the old model, the share of its results that it lets through, and the new model's for the same."""

    old: float
    share: float
    new: float | None


class Change(Frozen):
    """A question of which the two show different results."""

    query: str
    relevant: list[str]
    overlap: float
    old: list[SearchHit]
    new: list[SearchHit]


class Comparison(Frozen):
    """``old`` is what search reads now, ``new`` what would take over (or has done so, where nothing is being built).

    ``questions_from`` says whether they came from a file or were made from the tools' own texts.
    """

    limit: int
    questions: int
    labelled: int
    questions_from: str
    old: SideReport
    new: SideReport
    agreement: Agreement
    differences: list[Difference]
    thresholds: list[Threshold]
    changes: list[Change] = Field(default_factory=list)
