"""Traffic as a registry has it: somebody who searches without pause, and a ToolBox server that registers and edits."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
from support.registries import SERVER_INSERT, dimension_of, literal, random_vectors, rows

from toolbox_cli.core.search import SearchRequest, search
from toolbox_cli.db.connection import connect
from toolbox_cli.db.search import PostgresSearchStore
from toolbox_cli.db.state import read_state
from toolbox_cli.domain.models import Generation, Role
from toolbox_cli.embedding.http import HttpEmbedder

LIMIT = 5


@dataclass
class Searches:
    """What the searcher saw: how many answers, the longest wait (s), and everything that was wrong."""

    answered: int = 0
    longest: float = 0.0
    models: set[str | None] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)


@dataclass
class Writes:
    """What the server wrote, and what must be in the table in the end: id to (description, is_active)."""

    done: int = 0
    longest: float = 0.0
    expected: dict[int, tuple[str, bool]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


@contextmanager
def searching(conninfo: str, text: str, name: str) -> Iterator[Searches]:
    """Ask for ``text``, the text of the tool ``name``, again and again: it must come first among five, always."""
    seen, stop = Searches(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_search(conninfo, text, name, seen, stop)))
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join(30)


async def _search(conninfo: str, text: str, name: str, seen: Searches, stop: threading.Event) -> None:
    connection = await connect(conninfo)
    store = PostgresSearchStore(connection)

    async def current() -> Generation:
        return (await read_state(connection)).require_generation(Role.CURRENT)

    def embedder(generation: Generation) -> HttpEmbedder:
        assert generation.endpoint_url is not None
        return HttpEmbedder(
            endpoint_url=generation.endpoint_url, model=generation.model or "", dimension=generation.dimension
        )

    try:
        while not stop.is_set():
            started = time.monotonic()
            found = await search(store, current, embedder, SearchRequest(text, limit=LIMIT))
            seen.longest = max(seen.longest, time.monotonic() - started)
            seen.answered += 1
            seen.models.add(found.model)
            if len(found.results) != LIMIT:
                seen.wrong.append(f"{len(found.results)} results")
            elif (found.results[0].name, found.results[0].cosine > 0.999) != (name, True):
                seen.wrong.append(f"{found.results[0]} by {found.model}")
    except Exception as exc:  # whatever it is, the test is to show it
        seen.wrong.append(repr(exc))
    finally:
        await connection.close()


@contextmanager
def writing(conninfo: str, *, seed: int = 0, pause: float = 0.005) -> Iterator[Writes]:
    """Insert, edit, switch off and on, and delete tools, one after the other, as the server does."""
    seen, stop = Writes(), threading.Event()
    thread = threading.Thread(target=lambda: _write(conninfo, seen, stop, random.Random(seed), pause))
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join(30)


def _write(conninfo: str, seen: Writes, stop: threading.Event, chance: random.Random, pause: float) -> None:
    numbers = itertools.count()
    try:
        with psycopg.connect(conninfo, autocommit=True, prepare_threshold=2) as connection:
            while not stop.is_set():
                started = time.monotonic()
                _one_write(conninfo, connection, seen, chance, next(numbers))
                seen.longest = max(seen.longest, time.monotonic() - started)
                seen.done += 1
                stop.wait(pause)
    except Exception as exc:  # whatever it is, the test is to show it
        seen.wrong.append(repr(exc))


def _one_write(conninfo: str, connection: psycopg.Connection, seen: Writes, chance: random.Random, number: int) -> None:
    kind = chance.choice(("insert", "insert", "edit", "switch", "delete")) if seen.expected else "insert"
    if kind == "insert":
        tool_id = _insert(conninfo, connection, f"written_{number}")
        seen.expected[tool_id] = ("Test", True)
        return
    tool_id = chance.choice(sorted(seen.expected))
    description, active = seen.expected[tool_id]
    if kind == "edit":
        description = f"edited at {number}"
        connection.execute(
            "UPDATE tools SET description = %s, updated_at = now() WHERE id = %s", (description, tool_id)
        )
    elif kind == "switch":
        active = not active
        connection.execute("UPDATE tools SET is_active = %s, updated_at = now() WHERE id = %s", (active, tool_id))
    else:
        connection.execute("DELETE FROM tools WHERE id = %s", (tool_id,))
        del seen.expected[tool_id]
        return
    seen.expected[tool_id] = (description, active)


def _insert(conninfo: str, connection: psycopg.Connection, name: str) -> int:
    """With a vector of the dimension that the column has: after a cutover the server has new settings."""
    for _ in range(5):
        vector = random_vectors(1, dimension_of(conninfo), seed=sum(name.encode()))[0]
        try:
            row = connection.execute(f"{SERVER_INSERT} RETURNING id", (name, literal(vector))).fetchone()
        except psycopg.DataError as exc:
            if "dimensions" not in str(exc):
                raise
            continue
        assert row is not None
        return int(row[0])
    raise AssertionError("the dimension changed five times under one insert")


def found(conninfo: str) -> dict[int, tuple[str, bool]]:
    """What the writer's tools are now."""
    return {
        tool_id: (description, active)
        for tool_id, description, active in rows(
            conninfo, "SELECT id, description, is_active FROM tools WHERE name LIKE 'written\\_%%'", []
        )
    }
