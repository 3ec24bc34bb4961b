"""kill -9 at every statement of every command that changes something, then the same command again.

A few statements of each in the usual run, chosen anew from a printed seed; all of them with ``make faults``.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from support.cli import Service
from support.killing import MOMENTS, Zygote, zygote
from support.postgres import clone, create_database, drop_database
from support.registries import (
    applied,
    column_type,
    execute,
    indexes,
    load_alembic,
    roles,
    rows,
    schema_of,
    value,
    vectors,
)
from support.reindexing import add_tools
from support.service import Behaviour

from toolbox_cli.db.embedded import EmbeddedServer

TOOLS = 40
EVERYTHING = os.environ.get("FAULTS") == "all"
SEED = int(os.environ.get("FAULTS_SEED", random.randrange(10_000)))
#: To look at some again: "297 during,12 before".
POINTS = os.environ.get("FAULTS_AT", "")
#: Statements of each command in the usual run.
A_FEW = 5
LEFTOVERS = (
    "SELECT to_regclass('embedding_changes') IS NOT NULL OR EXISTS (SELECT FROM pg_trigger WHERE NOT tgisinternal)"
)

SERVED = Behaviour(dimension=16)


@pytest.fixture(scope="module")
def forked() -> Iterator[Zygote]:
    with zygote() as made:
        yield made


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Service, Service]]:
    with Service(Behaviour(dimension=8)) as old, Service(Behaviour(dimension=16)) as new:
        monkeypatch.setenv("EMBEDDING_MODEL", "test-model")
        monkeypatch.setenv("EMBEDDING_ENDPOINT_URL", old.url)
        monkeypatch.setenv("TOOLBOX_WAIT_TIMEOUT", "20")
        yield old, new


@dataclass(frozen=True)
class Case:
    """A command, what comes before it, and what must hold when it has been run to its end."""

    command: tuple[str, ...]
    before: tuple[tuple[str, ...], ...]
    holds: Callable[[str, dict[str, bytes]], None]
    legacy: bool = False


def no_leftovers(conninfo: str) -> None:
    assert not value(conninfo, LEFTOVERS)
    assert not [name for name, definition in indexes(conninfo).items() if definition.startswith("!")]


def changed_at_once(conninfo: str, old: dict[str, bytes]) -> None:
    assert roles(conninfo) == {"current": ("new-model", 16), "previous": ("test-model", 8)}
    assert vectors(conninfo, "embedding_previous") == old
    assert list(indexes(conninfo)) == ["ix_tools_embedding"]


def adopted(conninfo: str, old: dict[str, bytes]) -> None:
    assert applied(conninfo)[-1].startswith("003_")
    assert column_type(conninfo) == "vector(16)"
    assert roles(conninfo) == {"current": ("new-model", 16), "previous": (None, 1024)}
    assert vectors(conninfo, "embedding_previous") == old


def building(conninfo: str, old: dict[str, bytes]) -> None:
    assert roles(conninfo) == {"current": ("test-model", 8), "building": ("new-model", 16)}
    assert vectors(conninfo) == old
    assert vectors(conninfo, "embedding_next") == {}


def built(conninfo: str, old: dict[str, bytes]) -> None:
    assert vectors(conninfo) == old
    assert len(vectors(conninfo, "embedding_next")) == TOOLS
    assert "ix_tools_embedding_next" in indexes(conninfo)


def cut_over(conninfo: str, old: dict[str, bytes]) -> None:
    assert roles(conninfo) == {"current": ("new-model", 16), "previous": ("test-model", 8)}
    assert vectors(conninfo, "embedding_previous") == old
    assert len(vectors(conninfo)) == TOOLS
    assert sorted(indexes(conninfo)) == ["ix_tools_embedding", "ix_tools_embedding_previous"]


def rolled_back(conninfo: str, old: dict[str, bytes]) -> None:
    assert roles(conninfo) == {"current": ("test-model", 8), "building": ("new-model", 16)}
    assert vectors(conninfo) == old
    assert sorted(indexes(conninfo)) == ["ix_tools_embedding", "ix_tools_embedding_next"]


def abandoned(conninfo: str, old: dict[str, bytes]) -> None:
    assert roles(conninfo) == {"current": ("test-model", 8)}
    assert vectors(conninfo) == old
    assert list(indexes(conninfo)) == ["ix_tools_embedding"]


def changed_back(conninfo: str, old: dict[str, bytes]) -> None:
    assert roles(conninfo) == {"current": ("test-model", 8), "previous": ("new-model", 16)}
    assert vectors(conninfo) == old
    assert len(vectors(conninfo, "embedding_previous")) == TOOLS
    assert sorted(indexes(conninfo)) == ["ix_tools_embedding", "ix_tools_embedding_previous"]


def set_aside(conninfo: str, old: dict[str, bytes]) -> None:
    assert roles(conninfo) == {"current": ("new-model", 16), "building": ("test-model", 8)}
    assert vectors(conninfo, "embedding_next") == old
    assert value(conninfo, "SELECT rolled_back_at IS NOT NULL FROM embedding_generations WHERE role = 'building'")


def made_anew(conninfo: str, old: dict[str, bytes]) -> None:
    assert roles(conninfo) == {"current": ("test-model", 8)}
    assert vectors(conninfo) == old
    assert list(indexes(conninfo)) == ["ix_tools_embedding"]


def pruned(conninfo: str, old: dict[str, bytes]) -> None:
    assert roles(conninfo) == {"current": ("new-model", 16)}
    assert len(vectors(conninfo)) == TOOLS
    assert list(indexes(conninfo)) == ["ix_tools_embedding"]


ONLINE = ("migrate", "--online", "--model", "new-model", "--dimension", "16", "--endpoint-url", "{new}")
AT_ONCE = ("migrate", "--model", "new-model", "--dimension", "16", "--endpoint-url", "{new}")
BACK = ("migrate", "--model", "test-model", "--dimension", "8")
BACK_ONLINE = (*BACK, "--online")
REINDEX, CUTOVER, ROLLBACK, PRUNE = ("reindex",), ("cutover",), ("rollback", "--yes"), ("prune", "--yes")
CASES = {
    "migrate at once": Case(AT_ONCE, (), changed_at_once),
    "migrate from Alembic": Case(AT_ONCE, (), adopted, legacy=True),
    "migrate --online": Case(ONLINE, (), building),
    "reindex": Case(REINDEX, (ONLINE,), built),
    "cutover": Case(CUTOVER, (ONLINE, REINDEX), cut_over),
    "reindex --cutover": Case((*REINDEX, "--cutover"), (ONLINE,), cut_over),
    "rollback": Case(ROLLBACK, (ONLINE, REINDEX, CUTOVER), rolled_back),
    "rollback before the cutover": Case(ROLLBACK, (ONLINE, REINDEX), abandoned),
    "migrate back": Case(BACK, (AT_ONCE, REINDEX), changed_back),
    "rollback of a former generation": Case(ROLLBACK, (ONLINE, REINDEX, CUTOVER, BACK_ONLINE), set_aside),
    "reindex --all": Case((*REINDEX, "--all"), (), made_anew),
    "prune": Case(PRUNE, (ONLINE, REINDEX, CUTOVER), pruned),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_killed_at_any_statement_and_run_again(
    server: EmbeddedServer,
    registry_template: str,
    forked: Zygote,
    services: tuple[Service, Service],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    case = CASES[name]
    new = services[1]

    def run(command: tuple[str, ...], kill_at: int | None = None, moment: str = "before") -> tuple[int, int, str]:
        run = forked.run(*(word.format(new=new.url) for word in command), kill_at=kill_at, moment=moment)
        return run.code, run.statements, run.out + run.err

    prepared = create_database(server) if case.legacy else clone(server, registry_template)
    monkeypatch.setenv("DATABASE_URL", prepared)
    if case.legacy:
        load_alembic(prepared)
    else:
        add_tools(prepared, TOOLS)
        execute(prepared, "UPDATE embedding_generations SET endpoint_url = %s", [services[0].url])
        assert run(("reindex",))[0] == 0
    old = vectors(prepared)
    for command in case.before:
        assert run(command)[0] == 0, command
    template = prepared.split("dbname='")[1].split("'")[0]

    whole = clone(server, template)
    monkeypatch.setenv("DATABASE_URL", whole)
    code, statements, err = run(case.command)
    assert code == 0, err
    case.holds(whole, old)
    no_leftovers(whole)
    schema = schema_of(whole)
    drop_database(server, whole)
    assert statements > 10

    points = [(at, moment) for at in range(1, statements + 1) for moment in MOMENTS]
    if POINTS:
        points = [(int(at), moment) for at, moment in (point.split() for point in POINTS.split(","))]
    elif not EVERYTHING:
        points = random.Random(SEED).sample(points, A_FEW)
    for at, moment in points:
        killed = clone(server, template)
        monkeypatch.setenv("DATABASE_URL", killed)
        where = f"{name}, {moment} statement {at} of {statements}, seed {SEED}"
        code, made, err = run(case.command, kill_at=at, moment=moment)
        # Where the work is shared among coroutines a run may need a statement less than the one before it.
        assert code == -9 or (code == 0 and made < at), (where, code, err)
        code, _, err = run(case.command)
        assert code == 0, (where, err)
        try:
            case.holds(killed, old)
            no_leftovers(killed)
            assert schema_of(killed) == schema
        except AssertionError as exc:
            raise AssertionError(where) from exc
        drop_database(server, killed)
    drop_database(server, prepared)
    assert rows(server.conninfo(), "SELECT 1 FROM pg_prepared_xacts") == []
