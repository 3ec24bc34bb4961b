"""What the tests of reindex share: tools to embed, and how a run is read."""

from __future__ import annotations

from typing import Any

import numpy as np
from support.cli import DIMENSION, Outcome, Toolbox
from support.registries import execute, rows
from support.vectors import vectors_of

FRESH = "SELECT count(*) FROM tools WHERE embedding IS NOT NULL"

#: How many tools a registry has that is built for a cutover.
TOOLS = 60


def add_tools(conninfo: str, count: int, *, category: str = "test", active: bool = True, prefix: str = "tool") -> None:
    """Register tools without a vector. Their texts end in their number: ``does thing 17.``"""
    execute(
        conninfo,
        "INSERT INTO tools (name, description, category, tags, input_schema, implementation_type, is_active, version,"
        " created_at, updated_at)"
        " SELECT %(prefix)s || '_' || n, 'does thing ' || n || '.', %(category)s, '[]', '{}', 'external', %(active)s,"
        " '1.0.0', '2020-01-01', '2020-01-01' FROM generate_series(1, %(count)s) n",
        {"prefix": prefix, "count": count, "category": category, "active": active},  # type: ignore[arg-type]
    )


def reindexed(outcome: Outcome, code: int = 0) -> dict[str, Any]:
    assert outcome.code == code, outcome
    summary: dict[str, Any] = outcome.json
    return summary


def counts(summary: dict[str, Any]) -> tuple[int, int, int, int]:
    return summary["selected"], summary["embedded"], summary["unchanged"], summary["failed"]


def census(toolbox: Toolbox) -> dict[str, int]:
    found: dict[str, int] = toolbox("status", "--json").ok().json["generations"]["current"]["census"]
    return found


def stored_right(conninfo: str) -> None:
    """Every stored vector is the one that the service makes of the tool's text."""
    found = rows(
        conninfo,
        "SELECT toolbox_tool_text(name, description, input_schema), vector_send(embedding) FROM tools"
        " WHERE embedding IS NOT NULL",
    )
    assert found
    texts = [text for text, _ in found]
    stored = np.array([np.frombuffer(bytes(sent)[4:], dtype=">f4") for _, sent in found])
    np.testing.assert_allclose(stored, vectors_of("test-model", texts, DIMENSION), atol=1e-6)
