"""The whole way to a new model and back, while somebody searches without pause and the server goes on writing."""

from __future__ import annotations

import pytest
from support.cli import Service, finish, run_process, start
from support.registries import rows, value
from support.reindexing import add_tools
from support.traffic import found, searching, writing
from support.vectors import vectors_of

STABLE = "tool_7"


@pytest.mark.slow
@pytest.mark.parametrize("dimension", [8, 16], ids=["same dimension", "another dimension"])
def test_no_failed_search_no_lost_write(
    registry: str, old_service: Service, new_service: Service, dimension: int
) -> None:
    new_service.behaviour.dimension = dimension
    add_tools(registry, 300)
    assert run_process("reindex").code == 0
    text = value(
        registry,
        "SELECT toolbox_tool_text(name::text, description, input_schema) FROM tools WHERE name = %s",
        [STABLE],
    )
    online = ("migrate", "--online", "--model", "new-model", "--dimension", str(dimension))
    # Some thirty writes a second: a cutover needs a moment, as long as it takes to embed a few tools, without one.
    with searching(registry, text, STABLE) as searches, writing(registry, pause=0.02) as writes:
        for command in (
            (*online, "--endpoint-url", new_service.url),
            ("reindex",),
            ("cutover",),
            ("reindex", "--generation", "current", "--generation", "previous"),
            ("rollback",),
            ("reindex", "--generation", "current", "--generation", "building"),
            ("cutover",),
            ("prune", "--yes"),
        ):
            outcome = finish(start(*command), timeout=90)
            for _ in range(5):
                # On a slow machine more is written before the next command begins than a cutover catches up by itself.
                if command != ("cutover",) or outcome.code != 1 or "missing or stale" not in outcome.out:
                    break
                assert run_process("reindex", "--generation", "current", "--generation", "building").code == 0
                outcome = finish(start(*command), timeout=90)
            assert outcome.code == 0, (command, outcome)
            assert searches.wrong == [], command
            assert writes.wrong == [], command
    assert searches.models == {"test-model", "new-model"}
    assert searches.answered > 200
    assert writes.done > 200
    assert found(registry) == writes.expected
    assert run_process("reindex").code == 0
    stored = rows(
        registry,
        "SELECT toolbox_tool_text(name, description, input_schema), embedding::text FROM tools WHERE is_active",
    )
    expected = vectors_of("new-model", [text for text, _ in stored], dimension)
    for (_, sent), wanted in zip(stored, expected, strict=True):
        assert [float(number) for number in sent.strip("[]").split(",")] == pytest.approx(wanted, abs=1e-6)
