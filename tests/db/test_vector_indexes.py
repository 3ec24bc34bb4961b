"""DESIGN 4.3: which index fits which dimension, with real inserts and real searches through it."""

from __future__ import annotations

import numpy as np
import pytest
from support.registries import (
    execute,
    fill,
    indexes,
    literal,
    migrate,
    opened,
    random_vectors,
    rollback,
    rows,
    server_insert,
    target,
    value,
)

from toolbox_cli.db import search as search_module
from toolbox_cli.db.registry import Registry
from toolbox_cli.db.search import PostgresSearchStore
from toolbox_cli.domain.models import IndexMethod, Role, SearchHit
from toolbox_cli.domain.searching import SearchFilter

HNSW = "CREATE INDEX ix_tools_embedding ON tools USING hnsw (embedding vector_cosine_ops)"

#: Dimension, rows, and the index expression as PostgreSQL spells it.
CASES = [
    (64, 400, "(embedding vector_cosine_ops)"),
    (768, 300, "(embedding vector_cosine_ops)"),
    (1536, 150, "(embedding vector_cosine_ops)"),
    (2000, 100, "(embedding vector_cosine_ops)"),
    (2001, 100, "(((embedding)::halfvec(2001)) halfvec_cosine_ops)"),
    (3072, 60, "(((embedding)::halfvec(3072)) halfvec_cosine_ops)"),
    (4000, 50, "(((embedding)::halfvec(4000)) halfvec_cosine_ops)"),
    (4096, 50, "(((binary_quantize(embedding))::bit(4096)) bit_hamming_ops)"),
    (16000, 30, "(((binary_quantize(embedding))::bit(16000)) bit_hamming_ops)"),
]


async def nearest(registry: Registry, vector: np.ndarray, limit: int = 10, **where: object) -> list[SearchHit]:
    generation = (await registry.state()).require_generation(Role.CURRENT)
    store = PostgresSearchStore(registry.connection)
    return await store.nearest(generation, vector, SearchFilter.model_validate(where), limit)


async def index_scans(registry: Registry) -> int:
    """How often the vector index was read; this session's counts are brought to the statistics first."""
    await registry.connection.execute("SELECT pg_stat_force_next_flush()")
    name = "SELECT coalesce(sum(idx_scan), 0) FROM pg_stat_user_indexes WHERE indexrelname = 'ix_tools_embedding'"
    return int(value(registry.conninfo, name))


def force_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "EXACT_UP_TO", 0)


def cosines(stored: np.ndarray, vector: np.ndarray) -> np.ndarray:
    return np.sort(stored.astype(np.float64) @ vector.astype(np.float64))[::-1]


@pytest.mark.parametrize(("dimension", "count", "expression"), CASES, ids=[str(case[0]) for case in CASES])
async def test_every_dimension_has_an_index_that_answers(
    registry_database: str, monkeypatch: pytest.MonkeyPatch, dimension: int, count: int, expression: str
) -> None:
    await migrate(registry_database, target(dimension))
    definition = f"CREATE INDEX ix_tools_embedding ON tools USING hnsw {expression}"
    assert indexes(registry_database) == {"ix_tools_embedding": definition}
    fill(registry_database, count, seed=1)
    stored, strangers = random_vectors(count, dimension, seed=1), random_vectors(3, dimension, seed=2)
    async with opened(registry_database) as registry:
        scans = await index_scans(registry)
        exact = [await nearest(registry, vector) for vector in strangers]
        assert await index_scans(registry) == scans, "few candidates are measured one by one"
        for vector, hits in zip(strangers, exact, strict=True):
            assert [hit.similarity for hit in hits] == pytest.approx(cosines(stored, vector)[:10], abs=2e-6)
        force_index(monkeypatch)
        by_index = [await nearest(registry, vector) for vector in strangers]
        assert await index_scans(registry) == scans + 3
        found = sum(hit in one for one, other in zip(by_index, exact, strict=True) for hit in other)
        assert found >= 27, "recall of the index is under 0.9"
        for number in (0, count // 2, count - 1):
            first = (await nearest(registry, stored[number], 3))[0]
            assert first.name == f"tool_{number}"
            assert first.similarity == pytest.approx(1, abs=1e-5)
    # The index is the fit one: a second look finds nothing to do.
    assert (await migrate(registry_database, target(dimension))).empty


@pytest.mark.parametrize("dimension", [64, 2500, 4500])
async def test_ivfflat_at_every_shape(registry_database: str, monkeypatch: pytest.MonkeyPatch, dimension: int) -> None:
    await migrate(registry_database, target(dimension, index_method="ivfflat"))
    fill(registry_database, 60, seed=1)
    await migrate(registry_database, target(dimension))
    assert "USING ivfflat" in indexes(registry_database)["ix_tools_embedding"]
    force_index(monkeypatch)
    async with opened(registry_database) as registry:
        hits = await nearest(registry, random_vectors(60, dimension, seed=1)[17], 3)
        assert await index_scans(registry) == 1
    assert hits[0].name == "tool_17"
    assert (await migrate(registry_database, target(dimension))).empty
    # An ivfflat index takes inserts as well.
    server_insert(registry_database, "one more")


async def test_no_index_is_searched_too(registry_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await migrate(registry_database, target(64, index_method="none"))
    fill(registry_database, 30, seed=1)
    force_index(monkeypatch)
    async with opened(registry_database) as registry:
        assert (await nearest(registry, random_vectors(30, 64, seed=1)[4]))[0].name == "tool_4"
    assert indexes(registry_database) == {}


async def test_filters_that_leave_the_index_short_are_filled_up(
    registry_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five of 400 tools pass: the exact way finds them all where the index gives up."""
    await migrate(registry_database, target(64))
    fill(registry_database, 400, seed=1)
    execute(registry_database, "UPDATE tools SET category = 'rare', tags = '[\"a\", \"b\"]' WHERE id % 80 = 0")
    execute(registry_database, "UPDATE tools SET is_active = false WHERE name = 'tool_7'")
    force_index(monkeypatch)
    vectors = random_vectors(400, 64, seed=1)
    async with opened(registry_database) as registry:
        assert len(await nearest(registry, vectors[0], 10, category="rare")) == 5
        assert len(await nearest(registry, vectors[0], 10, tags=("b", "a"))) == 5
        assert await nearest(registry, vectors[0], 10, tags=("a", "c")) == []
        assert "tool_7" not in [hit.name for hit in await nearest(registry, vectors[7])]
        assert (await nearest(registry, vectors[7], include_inactive=True))[0].name == "tool_7"


async def test_searching_leaves_no_setting_behind(registry_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(registry_database, 20)
    force_index(monkeypatch)
    async with opened(registry_database) as registry:
        await nearest(registry, random_vectors(1, 8)[0])
        found = await (await registry.connection.execute("SHOW enable_seqscan")).fetchone()
    assert found == ("on",)


async def test_vectors_without_a_direction_are_never_found(
    registry_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cosine of a vector of length zero is NaN, which PostgreSQL sorts before nothing and pgvector after all."""
    fill(registry_database, 5)
    execute(registry_database, "UPDATE tools SET embedding = %s WHERE name = 'tool_3'", [literal([0.0] * 8)])
    async with opened(registry_database) as registry:
        exact = await nearest(registry, random_vectors(1, 8, seed=9)[0])
        force_index(monkeypatch)
        by_index = await nearest(registry, random_vectors(1, 8, seed=9)[0])
    assert len(exact) == 4
    assert exact == by_index


@pytest.mark.parametrize("method", ["hnsw", "none"])
async def test_index_follows_the_dimension(registry_database: str, method: IndexMethod) -> None:
    """Over the borders between the shapes and back: the index is never that of the former column."""
    for dimension in (64, 2001, 4001, 64):
        await migrate(registry_database, target(dimension, index_method=method))
        server_insert(registry_database, f"at {dimension} {value(registry_database, 'SELECT count(*) FROM tools')}")
        found = indexes(registry_database)
        assert len(found) == (1 if method == "hnsw" else 0)
        columns = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'tools'::regclass AND attname LIKE 'embedding%%'"
        assert rows(registry_database, columns + " AND NOT attisdropped AND %s", [True]) == [(4,)]


async def test_index_method_is_inherited_and_can_be_changed(registry_database: str) -> None:
    recorded = "SELECT index_method FROM embedding_generations WHERE role = 'current'"
    await migrate(registry_database, target(8, index_method="none"))
    assert indexes(registry_database) == {}
    await migrate(registry_database, target(16))
    assert indexes(registry_database) == {}
    assert value(registry_database, recorded) == "none"
    await migrate(registry_database, target(16, index_method="ivfflat"))
    assert indexes(registry_database) == {}, "an ivfflat index learns nothing from an empty column"
    fill(registry_database, 50)
    await migrate(registry_database, target(16))
    assert (
        "USING ivfflat (embedding vector_cosine_ops) WITH (lists='10')"
        in indexes(registry_database)["ix_tools_embedding"]
    )
    await migrate(registry_database, target(16, index_method="hnsw"))
    assert indexes(registry_database) == {"ix_tools_embedding": HNSW}
    assert value(registry_database, recorded) == "hnsw"


async def test_several_indexes_on_the_column(registry_database: str) -> None:
    """An operator's own second index must not stop a roll back: both would get the one name."""
    await migrate(registry_database, target(16))
    execute(registry_database, "CREATE INDEX second ON tools USING hnsw (embedding vector_cosine_ops)")
    await rollback(registry_database)
    assert sorted(indexes(registry_database)) == ["ix_tools_embedding", "ix_tools_embedding_next"]


async def test_invalid_index_is_replaced(registry_database: str) -> None:
    """What a cancelled CREATE INDEX CONCURRENTLY leaves behind."""
    fill(registry_database, 2)
    execute(
        registry_database,
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass",
        ["ix_tools_embedding"],
    )
    assert indexes(registry_database)["ix_tools_embedding"].startswith("!")
    outline = await migrate(registry_database)
    assert "it is invalid" in outline.steps[-1].statements[0].purpose
    assert indexes(registry_database) == {"ix_tools_embedding": HNSW}


async def test_lost_index_is_built_again(registry_database: str) -> None:
    execute(registry_database, "DROP INDEX ix_tools_embedding")
    await migrate(registry_database)
    assert indexes(registry_database) == {"ix_tools_embedding": HNSW}
