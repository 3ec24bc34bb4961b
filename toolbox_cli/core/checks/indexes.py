"""The vector index and the text index: there, fit, used, and finding what they should."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolbox_cli.core.gates import MIN_RECALL
from toolbox_cli.core.recall import index_recall
from toolbox_cli.domain.models import CheckStatus, Generation

if TYPE_CHECKING:
    from toolbox_cli.core.checks.verification import Verification
    from toolbox_cli.domain.searching import QualityStore
    from toolbox_cli.domain.verification import SchemaFacts

REBUILD = "toolbox reindex --rebuild-index"
#: Pages of 8 kB of an HNSW index: an element (vector and header) and its neighbours do not cross them (pgvector,
#: src/hnsw.h). A page is filled with whole elements, so one of 3 kB leaves a quarter of it empty.
PAGE, ELEMENT_HEADER, NEIGHBOURS = 8_168, 88, 6 * 3 * 16 + 16
BYTES_A_COMPONENT = {"vector": 4.0, "halfvec": 2.0, "bit": 0.125}
#: Above so many times the size that its rows need, an index is mostly what updates have left.
BLOATED = 2.0
MEGABYTE = 1 << 20


async def check_indexes(
    verification: Verification, store: QualityStore, facts: SchemaFacts, generation: Generation
) -> None:
    if _check_vector_index(verification, facts, generation):
        await _check_recall(verification, store, generation)
        await _check_planner(verification, store, generation)
        await _check_size(verification, store, facts, generation)
    good = facts.text_index is True
    state = "valid" if good else "invalid" if facts.text_index is False else "there is none"
    verification.wish("text_index", good, f"ix_tools_text: {state}", "toolbox migrate")


def _check_vector_index(verification: Verification, facts: SchemaFacts, generation: Generation) -> bool:
    """Whether there is one to look at more closely."""
    if generation.index_method == "none":
        verification.add("index", CheckStatus.WARN, "none, as asked for: every search reads all vectors")
        return False
    names = ", ".join(f"{index.name} ({index.method}, {index.element})" for index in facts.indexes)
    fault = facts.index_faults.get(generation.role)
    if fault is None:
        verification.add("index", CheckStatus.PASS, f"{names}: valid, fits {generation.dimension} dimensions")
        return True
    if generation.index_method == "ivfflat" and not facts.indexes:
        detail = "no ivfflat index yet: it is built when there are vectors to learn its lists from"
        verification.add("index", CheckStatus.WARN, detail, "toolbox reindex")
        return False
    detail = f"{names}: {fault}" if names else "there is no vector index: every search reads all vectors"
    remedy = "toolbox migrate" if generation.model is None else "toolbox reindex"
    verification.add("index", CheckStatus.FAIL, detail, remedy)
    return False


async def _check_recall(verification: Verification, store: QualityStore, generation: Generation) -> None:
    found = await index_recall(store, generation)
    if found is None:
        verification.add("recall", CheckStatus.SKIP, "there are not two vectors to look for")
        return
    detail = (
        f"the index finds {found.recall:.3f} of what an exact search finds (recall@{found.k}, {found.queries} queries)"
    )
    good = found.recall >= MIN_RECALL
    verification.require("recall", good, detail if good else f"{detail}, expected {MIN_RECALL:g}", REBUILD)


async def _check_planner(verification: Verification, store: QualityStore, generation: Generation) -> None:
    """That a search of ours really goes through the index, and whether one without our settings would."""
    plan = await store.planned(generation)
    if plan is None:
        verification.add("planner", CheckStatus.SKIP, "there is no vector to plan a search for")
        return
    if plan.ours is None:
        verification.add("planner", CheckStatus.FAIL, "PostgreSQL does not use the index for a search", REBUILD)
        return
    few = plan.vectors <= store.exact_up_to
    detail = f"a search goes through {plan.ours}"
    if few:
        detail = f"{plan.vectors} vectors are searched exactly; beyond {store.exact_up_to}, {detail}"
    if plan.plain is None and not few:
        verification.add(
            "planner",
            CheckStatus.WARN,
            f"{detail}, but a plain query, as the ToolBox server's, reads every vector: the planner does not know what"
            " they cost",
            "ALTER DATABASE … SET random_page_cost = 1.1, then ANALYZE tools",
        )
        return
    verification.add("planner", CheckStatus.PASS, detail)


async def _check_size(
    verification: Verification, store: QualityStore, facts: SchemaFacts, generation: Generation
) -> None:
    plan = await store.planned(generation)
    index = next((index for index in facts.indexes if index.valid), None)
    if plan is None or index is None:
        return
    detail = f"{index.name} has {index.size_bytes / MEGABYTE:.1f} MB for {plan.vectors} vectors"
    if index.method != "hnsw":
        verification.add("index_size", CheckStatus.PASS, detail)
        return
    needed = expected_size(index.element, generation.dimension, plan.vectors)
    bloated = index.size_bytes > BLOATED * needed and index.size_bytes > 10 * MEGABYTE
    if bloated:
        detail += f", {index.size_bytes / needed:.1f} times what they need: updates have left the rest"
    verification.wish("index_size", not bloated, detail, REBUILD)


def expected_size(element: str, dimension: int, rows: int) -> float:
    """About how many bytes an HNSW index of m = 16 takes that was just built."""
    one = ELEMENT_HEADER + BYTES_A_COMPONENT[element] * dimension + NEIGHBOURS
    a_page = max(1, int(PAGE // one))
    return (rows / a_page + 1) * 8_192
