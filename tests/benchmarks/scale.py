"""Reindex at size: memory, a run with nothing to do, two processes, the index, and kills at random moments.

Each part prints what it measured and what was to be reached, and ends the program with 1 if one was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import uvloop

from toolbox_cli.core.pipeline import PHASES_BESIDE_AN_INDEX, Pipeline, PipelineOptions
from toolbox_cli.db.embedded import EmbeddedServer
from toolbox_cli.db.embeddings import PostgresEmbeddingStore
from toolbox_cli.db.state import read_state
from toolbox_cli.domain.models import Role
from toolbox_cli.domain.ports import SilentProgress
from toolbox_cli.domain.reindexing import Selection
from toolbox_cli.embedding import build_embedder

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import world

NEXT = """
ALTER TABLE tools ADD COLUMN embedding_next vector(768), ADD COLUMN embedding_next_fingerprint bytea;
INSERT INTO embedding_generations (role, model, canonical_model, dimension, endpoint_url, index_method)
VALUES ('building', 'bench-model-2', 'bench-model-2', 768, 'http://localhost', 'none')
"""
REINDEX = [*world.TOOLBOX, "reindex", "--concurrency", "8", "--json"]
failed: list[str] = []


def report(what: str, found: float, goal: float, *, at_most: bool, unit: str = "") -> None:
    good = found <= goal if at_most else found >= goal
    sign = "≤" if at_most else "≥"
    print(f"{'ok  ' if good else 'MISS'}  {what}: {found:.2f}{unit}, goal {sign} {goal:g}{unit}", flush=True)
    if not good:
        failed.append(what)


def peak_memory(env: dict[str, str]) -> float:
    """Peak resident memory of one whole run, in MB, from the operating system's own accounting."""
    process = subprocess.Popen(REINDEX, env=env, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"reindex ended with {process.returncode}")
    return usage.ru_maxrss / 1024


def memory_and_nothing_to_do(server: EmbeddedServer, large: int) -> None:
    """Memory must not grow with the registry; a fresh registry costs one census."""
    peaks: dict[int, float] = {}
    with world.service("--dimension", "768") as url:
        for tools in (20_000, large):
            world.make_template(server, f"memory_{tools}", tools=tools, dimension=768, url=url, index="none")
            env = world.environment(server, f"memory_{tools}", url)
            peaks[tools] = peak_memory(env)
            if tools == large:
                nothing_to_do(server, f"memory_{tools}", env)
            world.drop(server, f"memory_{tools}")
    print(f"      peak at 20,000 tools {peaks[20_000]:.0f} MB, at {large} {peaks[large]:.0f} MB")
    report("memory ratio", peaks[large] / peaks[20_000], 1.2, at_most=True)
    report("memory", peaks[large], 250, at_most=True, unit=" MB")


def nothing_to_do(server: EmbeddedServer, database: str, env: dict[str, str]) -> None:
    times: list[float] = []
    for _ in range(3):
        started = time.perf_counter()
        summary = world.toolbox(["reindex"], env)
        times.append(time.perf_counter() - started)
        assert summary["embedded"] == 0, summary
    report("a run with nothing to do, the whole process", sorted(times)[1], 4, at_most=True, unit=" s")
    with psycopg.connect(server.conninfo(database), autocommit=True) as connection:
        connection.execute("UPDATE tools SET description = 'edited by the server' WHERE id = 4711")
    summary = world.toolbox(["reindex"], env)
    report("tools embedded after one was edited", float(str(summary["embedded"])), 1, at_most=True)
    report("tools embedded after one was edited", float(str(summary["embedded"])), 1, at_most=False)


def two_processes(server: EmbeddedServer) -> None:
    """Against a service that scales with the requests in flight, two processes do nearly twice the work."""
    tools = 60_000
    options = ("--dimension", "256", "--latency", "0.1")
    seconds: dict[int, float] = {}
    with world.service(*options) as url:
        world.make_template(server, "pair", tools=tools, dimension=256, url=url, index="none")
        for processes in (1, 2):
            before = world.stats(url)["inputs"]
            with world.clone(server, "pair") as database:
                env = world.environment(server, database, url)
                command = [*world.TOOLBOX, "reindex", "--concurrency", "4", "--json"]
                started = time.perf_counter()
                running = [subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) for _ in range(processes)]
                for process in running:
                    assert process.wait() == 0
                seconds[processes] = time.perf_counter() - started
                fresh = world.census(env)["fresh"]
            sent = world.stats(url)["inputs"] - before
            report(f"inputs sent by {processes}, beyond {tools}", sent - tools, 0, at_most=True)
            report(f"fresh after {processes}", fresh, tools, at_most=False)
    world.drop(server, "pair")
    report("two processes against one", seconds[1] / seconds[2], 1.8, at_most=False)


def index_deferred(server: EmbeddedServer, tools: int) -> None:
    """Fill and build after, against fill under the index."""
    with world.service("--dimension", "768") as url:
        world.make_template(server, "deferred", tools=tools, dimension=768, url=url, index="hnsw")
        with world.clone(server, "deferred") as database:
            summary = world.toolbox(["reindex"], world.environment(server, database, url))
            deferred = float(str(summary["seconds"])) + float(str(summary["index_seconds"]))
            print(f"      fill {summary['seconds']} s, index {summary['index_seconds']} s")
        with world.clone(server, "deferred") as database:
            env = world.environment(server, database, url)
            kept = float(str(world.toolbox(["reindex", "--keep-index"], env)["seconds"]))
    world.drop(server, "deferred")
    report(
        f"fill + index ({deferred:.1f} s) against fill under the index ({kept:.1f} s)",
        deferred / kept,
        0.4,
        at_most=True,
    )


async def fill_next(server: EmbeddedServer, database: str, url: str) -> float:
    """Fill a second vector column through our own store and client; returns tools per second."""
    conninfo = server.conninfo(database)
    async with (
        await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as reader,
        await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as writer,
    ):
        generation = (await read_state(reader)).generations[Role.BUILDING]
        store = await PostgresEmbeddingStore.create(conninfo, reader, writer, 10)
        embedder = build_embedder(
            model=world.MODEL,
            dimension=768,
            document_prefix="",
            query_prefix="",
            endpoint_url=url,
            api_key=None,
            request_timeout=60,
            retry_timeout=30,
        )
        scope = await store.scope(generation, Selection())
        options = PipelineOptions(phases=PHASES_BESIDE_AN_INDEX if await store.beside_an_index(generation) else 1)
        pipeline = Pipeline(store, embedder, generation, Selection(), options, SilentProgress(), asyncio.Event())
        started = time.perf_counter()
        await pipeline.run(scope)
        seconds = time.perf_counter() - started
        await embedder.aclose()
        return pipeline.tally.embedded / seconds


def second_column(server: EmbeddedServer, tools: int) -> None:
    """Fill ``embedding_next`` beside a live HNSW index on ``embedding``, and without that index."""
    speeds: dict[str, list[float]] = {"with": [], "without": []}
    with world.service("--dimension", "768") as url:
        world.make_template(server, "second", tools=tools, dimension=768, url=url, index="hnsw")
        world.toolbox(["reindex"], world.environment(server, "second", url))
        with psycopg.connect(server.conninfo("second"), autocommit=True) as connection:
            connection.execute(NEXT)
            connection.execute("VACUUM ANALYZE tools")
        for index in ("with", "without") * 2:
            with world.clone(server, "second") as database:
                if index == "without":
                    with psycopg.connect(server.conninfo(database), autocommit=True) as connection:
                        connection.execute("DROP INDEX ix_tools_embedding")
                speeds[index].append(uvloop.run(fill_next(server, database, url)))
        world.drop(server, "second")
    print("      " + ", ".join(f"{k} {v[0]:,.0f} and {v[1]:,.0f} tools/s" for k, v in speeds.items()))
    ratio = sum(speeds["with"]) / sum(speeds["without"])
    report("filling embedding_next beside a live index", ratio, 0.8, at_most=False)


def kills(server: EmbeddedServer, seed: int) -> None:
    """kill -9 at twenty random moments, then one run to the end: nothing lost, nothing paid for twice."""
    tools, concurrency, batch = 20_000, 8, 64
    chance = random.Random(seed)
    # The service's vectors have no neighbourhoods: of 256 dimensions an index finds two thirds of the nearest, which
    # verify rightly complains of.
    with world.service("--dimension", "16", "--capacity", "2500") as url:
        world.make_template(server, "kills", tools=tools, dimension=16, url=url, index="hnsw")
        env = world.environment(server, "kills", url)
        lost = 0
        for _ in range(20):
            process = subprocess.Popen(REINDEX, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            at_least = world.stats(url)["inputs"] + 1
            while process.poll() is None and world.stats(url)["inputs"] < at_least:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.2))
            lost += world.stats(url)["in_flight"] * batch
            process.send_signal(signal.SIGKILL)
            process.wait()
        world.toolbox(["reindex", "--concurrency", str(concurrency)], env)
        sent = world.stats(url)["inputs"]
        print(f"      in flight at the kills: {lost} inputs, sent twice: {sent - tools}")
        report("fresh after 20 kills", world.census(env)["fresh"], tools, at_most=False)
        # An answer that was not committed yet when the process died was in flight as well.
        report("inputs sent twice after 20 kills", sent - tools, lost + 20 * 2 * batch, at_most=True)
        checks = world.toolbox(["verify"], env)
        report("verify after 20 kills", float(bool(checks["ok"])), 1, at_most=False)
        world.drop(server, "kills")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="comma-separated: memory, pair, index, second, kills")
    parser.add_argument("--large", type=int, default=300_000)
    parser.add_argument("--index-tools", type=int, default=50_000)
    parser.add_argument("--second-tools", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=7)
    chosen = parser.parse_args()
    with world.database_server() as server:
        parts: dict[str, Callable[[], None]] = {
            "memory": lambda: memory_and_nothing_to_do(server, chosen.large),
            "pair": lambda: two_processes(server),
            "index": lambda: index_deferred(server, chosen.index_tools),
            "second": lambda: second_column(server, chosen.second_tools),
            "kills": lambda: kills(server, chosen.seed),
        }
        for name, part in parts.items():
            if not chosen.only or name in chosen.only.split(","):
                print(f"{name}:", flush=True)
                part()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
