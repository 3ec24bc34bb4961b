"""Green checks over wrong vectors were the field's worst defects: each kind is made by hand here, found, and mended by
the commands that the failing checks name.

The fingerprints are left as they were unless they are the corruption: nothing that is *recorded* tells of it.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import psycopg
import pytest
from support.cli import Outcome, Toolbox
from support.registries import execute, literal, rows, value

from toolbox_cli.embedding.local import LocalEmbedder

Array = np.ndarray[Any, np.dtype[np.float32]]


def stored(conninfo: str) -> tuple[list[int], list[str], Array]:
    """Ids, texts and vectors, shape (tools, dimension), of all tools."""
    found = rows(
        conninfo,
        "SELECT id, toolbox_tool_text(name::text, description, input_schema), embedding::real[] FROM tools ORDER BY id",
    )
    return [row[0] for row in found], [row[1] for row in found], np.array([row[2] for row in found], dtype=np.float32)


def write(conninfo: str, ids: Sequence[int], vectors: Array) -> None:
    """Put vectors under the fingerprints that are there."""
    with psycopg.connect(conninfo) as connection, connection.cursor() as cursor:
        cursor.executemany(
            "UPDATE tools SET embedding = %s::vector WHERE id = %s",
            [(literal(vector), tool_id) for tool_id, vector in zip(ids, vectors, strict=True)],
        )


def rotated(vectors: Array, seed: int = 1) -> Array:
    """The same distances in another space: what another model of equal dimension and equal quality makes."""
    square = np.random.default_rng(seed).standard_normal((vectors.shape[1],) * 2)
    return np.asarray(vectors @ np.linalg.qr(square)[0], dtype=np.float32)


def a_twentieth(ids: Sequence[int]) -> Array:
    return np.random.default_rng(2).permutation(len(ids))[: len(ids) // 20]


def other_model(conninfo: str) -> None:
    ids, _, vectors = stored(conninfo)
    write(conninfo, ids, rotated(vectors))


def another_prefix(conninfo: str) -> None:
    ids, texts, vectors = stored(conninfo)
    write(conninfo, ids, made([f"search_document: {text}" for text in texts], vectors.shape[1]))


def a_twentieth_random(conninfo: str) -> None:
    ids, _, vectors = stored(conninfo)
    places = a_twentieth(ids)
    noise = np.random.default_rng(3).standard_normal((len(places), vectors.shape[1]))
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    write(conninfo, [ids[place] for place in places], noise.astype(np.float32))


def a_twentieth_of_the_old_space(conninfo: str) -> None:
    ids, _, vectors = stored(conninfo)
    places = a_twentieth(ids)
    write(conninfo, [ids[place] for place in places], rotated(vectors)[places])


def zeros(conninfo: str) -> None:
    ids, _, vectors = stored(conninfo)
    write(conninfo, ids[7:10], np.zeros((3, vectors.shape[1]), dtype=np.float32))


def shuffled(conninfo: str) -> None:
    """An answer that was taken in the order in which it came."""
    ids, _, vectors = stored(conninfo)
    write(conninfo, ids, np.roll(vectors, 1, axis=0))


def vectors_of_earlier_texts(conninfo: str) -> None:
    """The texts changed, and whoever changed them wrote fingerprints to match."""
    ids, texts, vectors = stored(conninfo)
    write(conninfo, ids, made([text[: len(text) // 4] for text in texts], vectors.shape[1]))


def made(texts: list[str], dimension: int) -> Array:
    embedder = LocalEmbedder(dimension=dimension)
    return np.asarray(asyncio.run(embedder.embed_documents(texts)), dtype=np.float32)


def sql(statement: str) -> Callable[[str], None]:
    return lambda conninfo: execute(conninfo, statement)


#: What is done, and the checks that find it.
CORRUPTIONS: dict[str, tuple[Callable[[str], None], set[str]]] = {
    "another model of the same dimension": (other_model, {"drift"}),
    "missing or other prefix": (another_prefix, {"drift"}),
    "5 % random vectors": (a_twentieth_random, {"drift"}),
    "5 % of the old space": (a_twentieth_of_the_old_space, {"drift"}),
    "vectors of length zero": (zeros, {"vectors", "drift"}),
    "shuffled rows": (shuffled, {"drift"}),
    "vectors of earlier texts": (vectors_of_earlier_texts, {"drift"}),
    "stale texts": (
        sql("UPDATE tools SET description = 'Was something else: ' || description WHERE id % 10 = 0"),
        {"fingerprints"},
    ),
    "wrong operator class": (
        sql(
            "DROP INDEX ix_tools_embedding;"
            "CREATE INDEX ix_tools_embedding ON tools USING hnsw (embedding vector_ip_ops)"
        ),
        {"index"},
    ),
    "invalid index": (
        sql("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_tools_embedding'::regclass"),
        {"index"},
    ),
    "index of a part of the rows": (
        sql(
            "DROP INDEX ix_tools_embedding;"
            "CREATE INDEX ix_tools_embedding ON tools USING hnsw (embedding vector_cosine_ops) WHERE id % 2 = 0"
        ),
        {"planner"},
    ),
    "stamps without vectors": (sql("UPDATE tools SET embedding = NULL WHERE id % 10 = 0"), {"coverage"}),
}


def checks(outcome: Outcome) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in outcome.json["checks"]}


@pytest.mark.parametrize(("corrupt", "names"), CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_corruption_is_found_and_its_remedy_mends_it(
    toolbox: Toolbox, catalogue: str, corrupt: Callable[[str], None], names: set[str]
) -> None:
    toolbox("verify").ok()
    corrupt(catalogue)
    first = toolbox("verify", "--json")
    assert first.code == 1
    assert first.err == ""
    failed = {name: check for name, check in checks(first).items() if check["status"] == "fail"}
    # The one tool that the search check looks for may be one of the broken ones.
    assert names <= set(failed) <= names | {"search"}
    assert checks(toolbox("verify", "--json")) == checks(first), "two runs on an unchanged registry agree"
    for check in failed.values():
        program, *arguments = shlex.split(check["remedy"])
        assert program == "toolbox"
        toolbox(*arguments).ok()
    mended = toolbox("verify", "--json").ok()
    assert {name for name, check in checks(mended).items() if check["status"] != "pass"} == set()


def test_a_changed_quantisation_warns(toolbox: Toolbox, catalogue: str) -> None:
    ids, _, vectors = stored(catalogue)
    noise = np.random.default_rng(4).standard_normal(vectors.shape).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    # The cosine of v + 0.1 n with v is about 1 / sqrt(1.01) = 0.995.
    write(catalogue, ids, vectors + np.float32(0.1) * noise)
    drift = checks(toolbox("verify", "--json").ok())["drift"]
    assert drift["status"] == "warn"
    assert "another quantisation, or a changed server" in drift["detail"]


def test_the_drifted_tools_are_named(toolbox: Toolbox, catalogue: str) -> None:
    ids, _, vectors = stored(catalogue)
    write(catalogue, ids[:1], -vectors[:1])
    name = value(catalogue, "SELECT name FROM tools WHERE id = %s", [ids[0]])
    detail = checks(toolbox("verify", "--json", "--sample", "1000"))["drift"]["detail"]
    assert f"1 are not this model's of this text: {name}" in detail
    assert detail.startswith(f"{len(ids)} vectors were made again")


def test_the_sample_covers_a_part_of_the_rows_and_of_all_ages(toolbox: Toolbox, catalogue: str) -> None:
    """With one fault in twenty rows, wherever they are, the default sample meets one nearly always."""
    ids, _, vectors = stored(catalogue)
    met = 0
    for start in range(0, 200, 50):
        block = ids[start : start + 12]
        write(catalogue, block, -vectors[start : start + 12])
        met += checks(toolbox("verify", "--json"))["drift"]["status"] == "fail"
        write(catalogue, block, vectors[start : start + 12])
    assert met == 4
