"""``toolbox reindex`` against the embedding service alone, the least program that could do it, and the usual script.

Everything is measured in one run, on one machine, and quoted as a ratio: (a) one request and one database session a
tool, ten in flight; (b) the service alone, with our own client, batch and concurrency, vectors thrown away; (c)
``toolbox reindex`` end to end, as a process; (p) a bare prototype: every text read at once, the same client, batch and
concurrency, joined binary writes, and nothing else: no fingerprints, no check that a text is still the same, no locks,
no second worker, no bad answers. (b), (p) and (c) take turns, so that a machine that slows down slows all.

Where service, client and server share two cores, (c)/(b) tells how many cores there are; (p)/(b) is what they allow,
and (c)/(p) what this program costs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psycopg
import uvloop

from toolbox_cli.core.pipeline import ROWS_A_COMMIT
from toolbox_cli.db.embedded import EmbeddedServer
from toolbox_cli.db.vectors import IdArray, VectorArray, register_arrays
from toolbox_cli.embedding import build_embedder

if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import world

if TYPE_CHECKING:
    from toolbox_cli.domain.ports import Embedder, Vectors
    from toolbox_cli.embedding.http import HttpEmbedder
    from toolbox_cli.embedding.local import LocalEmbedder


@dataclass(frozen=True)
class Case:
    """One line of the table; ``service`` are options of the service process."""

    name: str
    service: tuple[str, ...]
    tools: int
    dimension: int
    floats: bool
    batch: int
    concurrency: int
    #: The ratio (c)/(b) that is to be reached.
    goal: float


WRITE = """
UPDATE tools t SET embedding = v.embedding
FROM unnest(%s::bigint[], %s) AS v(id, embedding) WHERE t.id = v.id
"""
SLOW = ("--capacity", "2000")
FAST = ("--latency", "0.02", "--latency-per-input", "0.0002")
CASES = (
    Case("2,000 tools/s", SLOW, 20_000, 768, False, 64, 8, 0.97),
    Case("2,000 tools/s", SLOW, 20_000, 768, True, 64, 8, 0.97),
    Case("2,000 tools/s", SLOW, 20_000, 1536, False, 64, 8, 0.97),
    Case("20 ms + 0.2 ms", FAST, 20_000, 768, False, 64, 8, 0.0),
    Case("20 ms + 0.2 ms", FAST, 20_000, 1536, False, 64, 8, 0.0),
    Case("20 ms + 0.2 ms", FAST, 50_000, 768, False, 64, 8, 0.95),
    Case("20 ms + 0.2 ms", FAST, 50_000, 768, True, 64, 8, 0.80),
    Case("20 ms + 0.2 ms", FAST, 50_000, 768, False, 128, 16, 0.75),
    Case("20 ms + 0.2 ms", FAST, 50_000, 1536, False, 64, 8, 0.0),
)


@dataclass(frozen=True)
class Result:
    """Tools per second of (b), (p) and (c), medians, and the median ratios of what was measured together."""

    case: Case
    alone: float
    prototype: float
    reindex: float
    to_service: float
    to_prototype: float
    prototype_to_service: float
    #: Of each round: tools per second of (b), (p) and (c).
    rounds: list[tuple[float, float, float]]


def client(case: Case, url: str) -> HttpEmbedder | LocalEmbedder:
    return build_embedder(
        model=world.MODEL,
        dimension=case.dimension,
        document_prefix="",
        query_prefix="",
        endpoint_url=url,
        api_key=None,
        request_timeout=60,
        retry_timeout=30,
        max_batch=case.batch,
    )


async def embed_all(
    embedder: Embedder, texts: list[str], case: Case, use: Callable[[int, Vectors], Awaitable[None]]
) -> None:
    """Hand the vectors of each batch on, with the number of its first text."""
    slots = asyncio.Semaphore(case.concurrency)

    async def one(start: int) -> None:
        try:
            await use(start, await embedder.embed_documents(texts[start : start + case.batch]))
        finally:
            slots.release()

    async with asyncio.TaskGroup() as group:
        for start in range(0, len(texts), case.batch):
            await slots.acquire()
            group.create_task(one(start))


async def service_alone(texts: list[str], case: Case, url: str) -> float:
    """Tools per second of the service with our client; the vectors are thrown away."""

    async def throw_away(start: int, vectors: Vectors) -> None:
        pass

    async with aclosing(client(case, url)) as embedder:
        started = time.perf_counter()
        await embed_all(embedder, texts, case, throw_away)
        return len(texts) / (time.perf_counter() - started)


async def prototype(conninfo: str, case: Case, url: str) -> float:
    """Tools per second of the least that could do it, from the first read to the last commit."""
    answers: asyncio.Queue[tuple[int, Vectors] | None] = asyncio.Queue(2 * ROWS_A_COMMIT // case.batch)

    async def keep(start: int, vectors: Vectors) -> None:
        await answers.put((start, vectors))

    async with (
        await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection,
        aclosing(client(case, url)) as embedder,
    ):
        await register_arrays(connection)
        started = time.perf_counter()
        rows = await (await connection.execute(world.TEXTS)).fetchall()
        writer = asyncio.create_task(write_all(connection, [row[0] for row in rows], answers))
        await embed_all(embedder, [row[1] for row in rows], case, keep)
        await answers.put(None)
        await writer
        return len(rows) / (time.perf_counter() - started)


async def write_all(
    connection: psycopg.AsyncConnection, ids: list[int], answers: asyncio.Queue[tuple[int, Vectors] | None]
) -> None:
    ended = False
    while not ended:
        collected: list[Vectors] = []
        written: list[int] = []
        while len(written) < ROWS_A_COMMIT and not ended:
            answer = await answers.get()
            if answer is None:
                ended = True
            else:
                collected.append(answer[1])
                written += ids[answer[0] : answer[0] + len(answer[1])]
        if written:
            await connection.execute(WRITE, (IdArray(written), VectorArray(*collected)), prepare=True)


async def usual_script(server: EmbeddedServer, database: str, url: str, tools: int) -> float:
    """The shape of the guide's own script: a request and a database session for every tool, ten in flight."""
    slots = asyncio.Semaphore(10)
    with psycopg.connect(server.conninfo(database)) as connection:
        rows = connection.execute("SELECT id, name, description FROM tools ORDER BY id LIMIT %s", (tools,)).fetchall()

    async def one(client: httpx.AsyncClient, row: tuple[int, str, str]) -> None:
        async with slots:
            body = {"model": world.MODEL, "input": f"{row[1]}: {row[2]}"}
            vector = (await client.post(url, json=body)).json()["data"][0]["embedding"]
            async with await psycopg.AsyncConnection.connect(server.conninfo(database)) as connection:
                await connection.execute("UPDATE tools SET embedding = %s WHERE id = %s", (str(vector), row[0]))

    started = time.perf_counter()
    async with httpx.AsyncClient() as client, asyncio.TaskGroup() as group:
        for row in rows:
            group.create_task(one(client, row))
    return len(rows) / (time.perf_counter() - started)


def measure(server: EmbeddedServer, template: str, case: Case, repeats: int) -> Result:
    floats = ("--base64", "ignored") if case.floats else ()
    how = ["--concurrency", str(case.concurrency), "--batch-size", str(case.batch)]
    rounds: list[tuple[float, float, float]] = []
    with world.service("--dimension", str(case.dimension), *case.service, *floats) as url:
        texts = world.texts(server, template)
        # The service computes a text's vector once and then knows it: the first round warms it for all.
        asyncio.run(service_alone(texts, case, url))
        for _ in range(repeats):
            alone = uvloop.run(service_alone(texts, case, url))
            with world.clone(server, template) as database:
                bare = uvloop.run(prototype(server.conninfo(database), case, url))
            with world.clone(server, template) as database:
                summary = world.toolbox(["reindex", *how], world.environment(server, database, url))
                if summary["embedded"] != case.tools:
                    raise RuntimeError(f"expected {case.tools} embedded, found {summary}")
            rounds.append((alone, bare, case.tools / float(str(summary["seconds"]))))
    return Result(
        case,
        *(statistics.median(column) for column in zip(*rounds, strict=True)),
        to_service=statistics.median(c / b for b, _, c in rounds),
        to_prototype=statistics.median(c / p for _, p, c in rounds),
        prototype_to_service=statistics.median(p / b for b, p, _ in rounds),
        rounds=rounds,
    )


def table(results: list[Result], script: tuple[float, float] | None) -> str:
    lines = [
        "service          tools  dim    answer  batch  (b) tools/s  (p) tools/s  (c) tools/s"
        "  (c)/(b)  goal    (p)/(b)  (c)/(p)"
    ]
    for result in results:
        case = result.case
        answer = "floats" if case.floats else "base64"
        goal = f"≥ {case.goal:.2f}" if case.goal else "-"
        lines.append(
            f"{case.name:<15} {case.tools:>6}  {case.dimension:>4}  {answer:>6}  {case.batch:>3}×{case.concurrency:<3}"
            f" {result.alone:>11,.0f}  {result.prototype:>11,.0f}  {result.reindex:>11,.0f}  {result.to_service:>7.2f}"
            f"  {goal:<6}  {result.prototype_to_service:>7.2f}  {result.to_prototype:>7.2f}"
        )
    if script:
        lines.append(f"script of one request a tool: {script[0]:,.0f} tools/s; (c)/(a) = {script[1]:.1f}, goal ≥ 35")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", default="", help="numbers of cases, e.g. 0,3,5; all unless given")
    parser.add_argument("--script-tools", type=int, default=1000, help="tools for (a); 0 leaves it out")
    parser.add_argument("--json", metavar="FILE", default=None)
    chosen = parser.parse_args()
    cases = [CASES[int(number)] for number in chosen.cases.split(",")] if chosen.cases else list(CASES)
    results: list[Result] = []
    script: tuple[float, float] | None = None
    with world.database_server() as server:
        for shape in sorted({(case.tools, case.dimension) for case in cases}):
            name = f"bench_{shape[0]}_{shape[1]}"
            with world.service("--dimension", str(shape[1]), *FAST) as url:
                world.make_template(server, name, tools=shape[0], dimension=shape[1], url=url, index="none")
                if chosen.script_tools and script is None:
                    with world.clone(server, name) as database:
                        script = (asyncio.run(usual_script(server, database, url, chosen.script_tools)), 0.0)
                    with world.clone(server, name) as database:
                        summary = world.toolbox(
                            ["reindex", "--concurrency", "10"], world.environment(server, database, url)
                        )
                        script = (script[0], float(str(summary["tools_per_second"])) / script[0])
            for case in cases:
                if (case.tools, case.dimension) == shape:
                    results.append(measure(server, name, case, chosen.repeats))
                    print(table(results[-1:], None).splitlines()[-1], flush=True)
            world.drop(server, name)
    print(table(results, script))
    if chosen.json:
        document = {"results": [asdict(result) for result in results], "script": script}
        Path(chosen.json).write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
