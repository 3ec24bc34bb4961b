"""Two operators at once: any two of the commands that change a generation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.cli import Service, Toolbox, finish, start
from support.registries import column_type, roles, rows, value
from support.reindexing import add_tools

PAIRS = [
    ("cutover", "rollback"),
    ("cutover", "cutover"),
    ("cutover", "reindex"),
    ("cutover", "migrate"),
    ("cutover", "prune"),
    ("rollback", "rollback"),
    ("rollback", "reindex"),
    ("rollback", "migrate"),
    ("rollback", "prune"),
    ("reindex", "reindex"),
    ("reindex", "migrate"),
    ("reindex", "prune"),
    ("migrate", "prune"),
    ("prune", "prune"),
    ("migrate", "migrate"),
]


@pytest.fixture
def settled(built: str, toolbox: Toolbox) -> Iterator[str]:
    """Built, with some tools to catch up, so that every command has something to do."""
    add_tools(built, 3, prefix="newer")
    return built


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS, ids=[" and ".join(pair) for pair in PAIRS])
def test_any_two_commands_at_once(
    settled: str, new_service: Service, monkeypatch: pytest.MonkeyPatch, pair: tuple[str, str]
) -> None:
    """One waits or is refused with one clear line; what is left is a state that the next command understands."""
    commands: dict[str, tuple[str, ...]] = {
        "cutover": ("cutover",),
        "rollback": ("rollback", "--yes"),
        "reindex": ("reindex",),
        "prune": ("prune", "--yes"),
        "migrate": (
            "migrate", "--online", "--model", "third", "--dimension", "16", "--endpoint-url", new_service.url,
        ),
    }  # fmt: skip
    monkeypatch.setenv("TOOLBOX_WAIT_TIMEOUT", "15")
    if pair == ("migrate", "migrate"):
        # Beside one that is being built no other can begin, alone or not.
        assert finish(start("rollback", "--yes")).code == 0
    running = [start(*commands[name]) for name in pair]
    outcomes = [finish(process, timeout=60) for process in running]
    for name, outcome in zip(pair, outcomes, strict=True):
        assert outcome.code in (0, 1, 5), (name, outcome)
        assert "Traceback" not in outcome.err
        if outcome.code == 5:
            errors = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
            assert len(errors) == 1, outcome
    assert any(outcome.code == 0 for outcome in outcomes), outcomes
    check_consistent(settled)


def check_consistent(conninfo: str) -> None:
    """Columns, generations and fingerprints tell the same story, and no vector has got into another's column."""
    columns: dict[str, Any] = {
        "current": "embedding",
        "building": "embedding_next",
        "previous": "embedding_previous",
    }
    found = roles(conninfo)
    assert "current" in found
    for role, column in columns.items():
        kind = column_type(conninfo, column)
        assert (kind is not None) == (role in found), (role, kind, found)
        if kind is not None:
            model, dimension = found[role]
            assert kind == f"vector({dimension})"
            wrong = rows(
                conninfo,
                f"SELECT name FROM tools WHERE {column} IS NOT NULL AND NOT"
                f" toolbox_matches({column}_fingerprint, %s, %s, '', 1, name, description, input_schema)",
                [model, dimension],
            )
            assert wrong == []
    assert value(conninfo, "SELECT to_regclass('embedding_changes') IS NULL")
    assert value(conninfo, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 1953460076") == 0
