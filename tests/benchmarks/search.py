"""Search and verify at size: the index, filters, a whole ``toolbox search``, ``--help`` and a clean ``toolbox verify``.

Each part prints what it measured and what was to be reached, and ends the program with 1 if one was missed. The vectors
are drawn around centres, as embeddings of tools lie: 100,000 × 768 from 2,000 centres.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from toolbox_cli.core.checks.indexes import expected_size
from toolbox_cli.core.recall import share_found
from toolbox_cli.db import search
from toolbox_cli.db.connection import connect
from toolbox_cli.db.embedded import EmbeddedServer
from toolbox_cli.db.search import PostgresSearchStore
from toolbox_cli.db.state import read_state
from toolbox_cli.db.vectors import pack_vectors
from toolbox_cli.domain.models import Generation, Role
from toolbox_cli.domain.searching import SearchFilter

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import world

DIMENSION, CENTRES, CHUNK, QUERIES = 768, 2_000, 2_000, 200
#: Within a centre two vectors have a cosine of about 0.8.
SPREAD = 0.5
BARE = """
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def search(query: str, limit: Annotated[int, typer.Option(help="How many.")] = 10) -> None:
    "Search."


@app.command()
def verify() -> None:
    "Verify."


app()
"""
#: What the packages that this project was asked to use cost by themselves: one connection, one request, one query.
FLOOR = """
import asyncio
import os

import httpx
import pgvector.psycopg
import psycopg
import pydantic_settings
import rich.console
import rich.table
import stamina
import typer

app = typer.Typer()


@app.command()
def search(query: str) -> None:
    asyncio.run(find(query))


async def find(query: str) -> None:
    async with await psycopg.AsyncConnection.connect(os.environ["DATABASE_URL"]) as connection:
        async with httpx.AsyncClient(verify=False) as client:
            body = {"model": os.environ["EMBEDDING_MODEL"], "input": [query]}
            answer = (await client.post(os.environ["EMBEDDING_ENDPOINT_URL"], json=body)).json()
        statement = "SELECT name, embedding <=> %s::vector FROM tools ORDER BY 2 LIMIT 5"
        found = await (await connection.execute(statement, [str(answer["data"][0]["embedding"])])).fetchall()
    table = rich.table.Table()
    for name, distance in found:
        table.add_row(name, str(distance))
    rich.console.Console().print(table)


app()
"""
Array = np.ndarray[Any, np.dtype[np.float32]]
failed: list[str] = []


def report(what: str, found: float, goal: float, *, at_most: bool, unit: str = "") -> None:
    good = found <= goal if at_most else found >= goal
    print(f"{'ok  ' if good else 'MISS'}  {what}: {found:.3f}{unit}, goal {'≤' if at_most else '≥'} {goal:g}{unit}")
    sys.stdout.flush()
    if not good:
        failed.append(what)


def clustered(count: int) -> Iterable[Array]:
    """So many vectors of length 1 in chunks of shape (CHUNK, DIMENSION)."""
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((CENTRES, DIMENSION), dtype=np.float32)
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        noise = rng.standard_normal((size, DIMENSION), dtype=np.float32)
        found = centres[rng.integers(CENTRES, size=size)] + SPREAD * noise
        yield found / np.linalg.norm(found, axis=1, keepdims=True)


def fill(conninfo: str, count: int) -> None:
    """Write vectors without the index, then build it again as it was."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        built = connection.execute("SELECT pg_get_indexdef('ix_tools_embedding'::regclass)").fetchone()
        oids = connection.execute("SELECT 'vector'::regtype::oid").fetchone()
        assert built is not None
        assert oids is not None
        connection.execute("DROP INDEX ix_tools_embedding")
        for number, chunk in enumerate(clustered(count)):
            packed = bytes(pack_vectors([chunk], oids[0]))
            ids = list(range(number * CHUNK + 1, number * CHUNK + 1 + len(chunk)))
            with connection.cursor() as cursor:
                pgconn = cursor.connection.pgconn
                result = pgconn.exec_params(
                    b"UPDATE tools t SET embedding = v.vector"
                    b" FROM unnest($1::bigint[], $2::vector[]) AS v (id, vector) WHERE t.id = v.id",
                    [("{" + ",".join(map(str, ids)) + "}").encode(), packed],
                    param_formats=[0, 1],
                )
                assert result.error_message == b"", result.error_message
        # One tool in twenty, and the tools that bear two rare tags.
        connection.execute("UPDATE tools SET category = 'rare' WHERE id % 20 = 0")
        connection.execute("""UPDATE tools SET tags = '["bench", "red", "round"]' WHERE id % 500 = 0""")
        connection.execute("SET maintenance_work_mem = '1GB'")
        connection.execute("SET max_parallel_maintenance_workers = 1")
        connection.execute("VACUUM ANALYZE tools")
        started = time.perf_counter()
        connection.execute(built[0])
        print(f"      index of {count:,} x {DIMENSION} built in {time.perf_counter() - started:.0f} s", flush=True)
        connection.execute("VACUUM ANALYZE tools")


async def searches(conninfo: str) -> None:
    """Times in the database: counting the candidates, the settings of the transaction, and the search."""
    connection = await connect(conninfo)
    try:
        state = await read_state(connection)
        generation = state.generations[Role.CURRENT]
        store = PostgresSearchStore(connection)
        rng = np.random.default_rng(2)
        asked = [_near(store, rng, text) for text in await store.sample_vectors(generation, QUERIES)]
        cases = {
            "all": SearchFilter(),
            "a category of 5 %": SearchFilter(category="rare"),
            "a category of 19 %": SearchFilter(category="data"),
            "two rare tags": SearchFilter(tags=["red", "round"]),
        }
        for name, where in cases.items():
            p50, recall, path = await _measured(store, generation, asked, where)
            if name == "all":
                report("index search, p50", p50 * 1000, 5, at_most=True, unit=" ms")
            else:
                print(f"      {name} ({path}), p50: {p50 * 1000:.1f} ms")
            report(f"recall@10, {name}", recall, 0.95, at_most=False)
    finally:
        await connection.close()


def _near(store: PostgresSearchStore, rng: np.random.Generator, text: str) -> str:
    """A question close to a stored vector, as a user's is to the right tool."""
    stored = np.array(text.strip("[]").split(","), dtype=np.float32)
    asked = stored + 0.6 / np.sqrt(DIMENSION) * rng.standard_normal(DIMENSION, dtype=np.float32)
    return store.text_of(asked)


async def _measured(
    store: PostgresSearchStore, generation: Generation, asked: list[str], where: SearchFilter
) -> tuple[float, float, str]:
    seconds, shares, paths = [], [], set()
    for text in asked[:20]:
        await store.find(generation, text, where, 10)
    for text in asked:
        started = time.perf_counter()
        found = await store.find(generation, text, where, 10)
        seconds.append(time.perf_counter() - started)
        paths.add(found.path)
        usual, search.EXACT_UP_TO = search.EXACT_UP_TO, 1 << 60
        exact = await store.find(generation, text, where, 10)
        search.EXACT_UP_TO = usual
        assert exact.path == "exact"
        shares.append(share_found(found.hits, exact.hits))
    return statistics.median(seconds), statistics.fmean(shares), " and ".join(sorted(paths))


def processes(env: dict[str, str], latency: float) -> None:
    """Whole processes, the service's own time taken off, with bytecode as an installed wheel has it."""
    env = {name: value for name, value in env.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as folder:
        bare, floor = Path(folder) / "bare.py", Path(folder) / "floor.py"
        bare.write_text(BARE)
        floor.write_text(FLOOR)
        question = "send the invoice"
        ours, least = _timed([[*world.TOOLBOX, "search", question], [sys.executable, str(floor), question]], env)
        report("toolbox search, the whole process less the service", ours - latency, 0.35, at_most=True, unit=" s")
        print(f"      the packages alone, for the same request and query, take {least - latency:.3f} s:", end=" ")
        print(f"{(ours - latency) / (least - latency):.2f} x that", flush=True)
        ours, theirs = _timed([[*world.TOOLBOX, "--help"], [sys.executable, str(bare), "--help"]], env)
    print(f"      toolbox --help {ours:.3f} s, a bare Typer program's {theirs:.3f} s")
    report("toolbox --help against a bare Typer program's", ours / theirs, 1.5, at_most=True, unit=" x")


def _timed(commands: list[list[str]], env: dict[str, str], rounds: int = 11) -> list[float]:
    """The median seconds of each command, run in turn, after one run of each that warms up."""
    seconds: list[list[float]] = [[] for _ in commands]
    for _ in range(rounds + 1):
        for command, taken in zip(commands, seconds, strict=True):
            started = time.perf_counter()
            subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
            taken.append(time.perf_counter() - started)
    return [statistics.median(taken[1:]) for taken in seconds]


def verified(server: EmbeddedServer, tools: int) -> None:
    """A clean registry of the built-in model."""
    model = {"url": "builtin", "model": "wordllama"}
    world.make_template(server, "clean", tools=tools, dimension=256, index="hnsw", **model)
    env = world.environment(server, "clean", **model)
    world.toolbox(["reindex"], env)
    started = time.perf_counter()
    found = world.toolbox(["verify"], env)
    seconds = time.perf_counter() - started
    assert found["ok"] is True, found
    report(f"toolbox verify of {tools:,} clean tools, the whole process", seconds, 10, at_most=True, unit=" s")


def size(conninfo: str, tools: int) -> None:
    with psycopg.connect(conninfo) as connection:
        row = connection.execute("SELECT pg_relation_size('ix_tools_embedding')").fetchone()
    assert row is not None
    ratio = row[0] / expected_size("vector", DIMENSION, tools)
    report("size of a new index against what verify expects", ratio, 1.3, at_most=True, unit=" x")
    report("size of a new index against what verify expects", ratio, 0.7, at_most=False, unit=" x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tools", type=int, default=100_000)
    chosen = parser.parse_args()
    latency = 0.02
    with (
        # All of the registry in memory, as a production server has it: what is measured is the search, not a disk.
        world.database_server(shared_buffers="2GB") as server,
        world.service("--dimension", str(DIMENSION), "--latency", str(latency)) as url,
    ):
        verified(server, 5_000)
        world.make_template(server, "large", tools=chosen.tools, dimension=DIMENSION, url=url, index="hnsw")
        fill(server.conninfo("large"), chosen.tools)
        size(server.conninfo("large"), chosen.tools)
        asyncio.run(searches(server.conninfo("large")))
        processes(world.environment(server, "large", url), latency)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
