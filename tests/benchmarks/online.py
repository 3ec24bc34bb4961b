"""How long a change holds the table, at 2,000 and at 200,000 tools, and how long readers and writers wait meanwhile.

Each change is made and undone several times. First alone: the time of the transaction is then how long it holds the
lock. Then beside a client that searches, one that reads and one that writes, all without pause: the longest that one of
the last two waited, whatever for. Ends with 1 if a goal was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from toolbox_cli.core.generation import Consent, change
from toolbox_cli.db.changes import RegistryCutover, Session
from toolbox_cli.db.connection import connect
from toolbox_cli.db.embedded import EmbeddedServer
from toolbox_cli.db.registry import Registry
from toolbox_cli.domain.models import EmbeddingSpace, Target
from toolbox_cli.domain.ports import SilentProgress
from toolbox_cli.domain.settings import load_settings

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import world

DIMENSION = 32
#: Vectors of the tools, and their fingerprints, made by the database: what is measured does not depend on them.
EMBED = """
UPDATE tools SET
    {column} = (SELECT array_agg(sin(tools.id * k * 0.37)::real ORDER BY k)
                FROM generate_series(1, {dimension}) k)::vector,
    {fingerprint} = toolbox_seal({model}, {dimension}, '', 1, name::text, description, input_schema)
"""
INDEX = "CREATE INDEX {name} ON tools USING hnsw ({column} vector_cosine_ops)"
failed: list[str] = []


@dataclass
class Waits:
    """The longest single wait of a client in seconds, since the last ``reset``."""

    longest: float = 0.0
    statements: int = 0

    def saw(self, seconds: float) -> None:
        self.longest = max(self.longest, seconds)
        self.statements += 1


@dataclass
class Measured:
    """Seconds of each repetition: of the transaction, and the longest waits of the reader and the writer around it."""

    locked: list[float] = field(default_factory=list)
    reader: list[float] = field(default_factory=list)
    writer: list[float] = field(default_factory=list)


def target(model: str) -> Target:
    space = EmbeddingSpace(model=model, dimension=DIMENSION)
    return Target(space=space, endpoint_url="http://127.0.0.1:9", index_method="none")


@contextmanager
def clients(conninfo: str) -> Iterator[tuple[Waits, Waits]]:
    """A client that searches by the index, one that reads rows and one that writes rows, each without pause."""
    reader, writer, stop = Waits(), Waits(), threading.Event()
    vector = "[" + ",".join(["0.1"] * DIMENSION) + "]"
    statements = (
        ("SELECT id FROM tools ORDER BY embedding <=> %(vector)s::vector LIMIT 5", Waits()),
        ("SELECT name, description FROM tools WHERE id = %(id)s", reader),
        ("UPDATE tools SET version = '1.0.' || (random() * 9)::int WHERE id = %(id)s", writer),
    )

    def run(statement: str, waits: Waits) -> None:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute("SET enable_seqscan = off; SET enable_sort = off")
            while not stop.is_set():
                started = time.perf_counter()
                connection.execute(statement, {"vector": vector, "id": random.randint(1, 1000)})
                waits.saw(time.perf_counter() - started)
                time.sleep(0.002)

    threads = [threading.Thread(target=run, args=pair) for pair in statements]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.3)
        yield reader, writer
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def prepare(server: EmbeddedServer, database: str, tools: int) -> None:
    """A registry with two complete generations of one dimension, both indexed."""
    world.administer(server, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
    conninfo = server.conninfo(database)

    async def migrate(*, online: bool, model: str) -> None:
        connection = await connect(conninfo)
        registry = Registry(conninfo, connection, lock_timeout_ms=1000, wait_timeout=10, embedded=True)
        await change(
            registry,
            lambda: registry.plan_migrate(target(model), online=online),
            consent=Consent(yes=True),
            dry_run=False,
            progress=SilentProgress(),
            settings=load_settings(),
        )
        await connection.close()

    asyncio.run(migrate(online=False, model="old"))
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(world.FILL, {"count": tools})
        connection.execute("SET maintenance_work_mem = '1GB'")
        for column, model in (("embedding", "old"), ("embedding_next", "new")):
            if model == "new":
                asyncio.run(migrate(online=True, model="new"))
            parts = {
                "column": sql.Identifier(column),
                "fingerprint": sql.Identifier(f"{column}_fingerprint"),
                "name": sql.Identifier(f"ix_tools_{column}"),
                "dimension": sql.Literal(DIMENSION),
                "model": sql.Literal(model),
            }
            connection.execute(sql.SQL(EMBED).format(**parts))
            connection.execute("VACUUM ANALYZE tools")
        for column in ("embedding", "embedding_next"):
            connection.execute(
                sql.SQL(INDEX).format(name=sql.Identifier(f"ix_tools_{column}"), column=sql.Identifier(column))
            )


async def measure(conninfo: str, repeats: int, waits: tuple[Waits, Waits] | None) -> dict[str, Measured]:
    """Cutover and roll back, over and over; then the change at once, where nobody searches: it leaves no index."""
    found = {name: Measured() for name in ("cutover", "rollback", "change at once")}
    connection = await connect(conninfo)
    registry = Registry(conninfo, connection, lock_timeout_ms=30, wait_timeout=60, embedded=True)
    original = Session.run
    took: list[float] = []

    async def timed(self: Session, *arguments: Any) -> None:
        started = time.perf_counter()
        await original(self, *arguments)
        took.append(time.perf_counter() - started)

    Session.run = timed  # type: ignore[method-assign]

    async def one(name: str, work: Coroutine[Any, Any, None]) -> None:
        for client in waits or ():
            client.longest = 0.0
        took.clear()
        await work
        await asyncio.sleep(0.05)
        # Of several transactions the last one swaps; before it comes the log of the cutover.
        found[name].locked.append(took[-1])
        if waits is not None:
            found[name].reader.append(waits[0].longest)
            found[name].writer.append(waits[1].longest)

    async def swap() -> None:
        planned = await registry.plan_cutover()
        assert isinstance(planned, RegistryCutover)
        await planned.watch_changes(SilentProgress())
        await planned.execute(SilentProgress())

    async def back() -> None:
        await (await registry.plan_rollback(None)).execute(SilentProgress())

    async def at_once(number: int) -> None:
        await (await registry.plan_migrate(target(f"third {number}"))).execute(SilentProgress())

    for _ in range(repeats):
        await one("cutover", swap())
        await one("rollback", back())
    if waits is None:
        await (await registry.plan_prune()).execute(SilentProgress())
        for number in range(repeats):
            await one("change at once", at_once(number))
            # The former generation comes back, and what was set aside goes: the next change has something to retire.
            await back()
            await (await registry.plan_prune()).execute(SilentProgress())
    Session.run = original  # type: ignore[method-assign]
    await connection.close()
    return found


def milliseconds(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1e3:.1f} ms (at most {max(seconds) * 1e3:.1f})"


def report(what: str, found: float, goal: float, unit: str) -> None:
    good = found <= goal
    print(f"{'ok  ' if good else 'MISS'}  {what}: {found:.2f}{unit}, goal ≤ {goal:g}{unit}", flush=True)
    if not good:
        failed.append(what)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--tools", type=int, nargs=2, default=[2_000, 200_000])
    chosen = parser.parse_args()
    alone: dict[int, dict[str, Measured]] = {}
    beside: dict[int, dict[str, Measured]] = {}
    with world.database_server() as server:
        for tools in chosen.tools:
            database = f"online_{tools}"
            conninfo = server.conninfo(database)
            prepare(server, database, tools)
            with clients(conninfo) as waits:
                beside[tools] = asyncio.run(measure(conninfo, chosen.repeats, waits))
            alone[tools] = asyncio.run(measure(conninfo, chosen.repeats, None))
            world.drop(server, database)
            for name in ("cutover", "rollback", "change at once"):
                print(f"      {tools:>7} tools, {name:<14} holds {milliseconds(alone[tools][name].locked)}", flush=True)
                if beside[tools][name].reader:
                    print(
                        f"               longest wait of a reader {milliseconds(beside[tools][name].reader)}, of a"
                        f" writer {milliseconds(beside[tools][name].writer)}",
                        flush=True,
                    )
    few, many = chosen.tools
    for name, measured in alone[many].items():
        ratio = statistics.median(measured.locked) / statistics.median(alone[few][name].locked)
        report(f"{name}: lock at {many:,} tools against {few:,}", ratio, 2, " ×")
    for name in ("cutover", "rollback"):
        for client in ("reader", "writer"):
            longest = statistics.median(getattr(beside[many][name], client)) * 1e3
            report(f"{name}: wait of a {client} at {many:,} tools", longest, 50, " ms")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
