"""How the process of a command begins and ends."""

from __future__ import annotations

import asyncio
import gc
import re
import subprocess
import sys

import pytest
from support.cli import Service, Toolbox, finish, start
from support.registries import execute

from toolbox_cli.cli import runtime

#: What a search has no use for, and would pay for with every question.
NOT_FOR_SEARCH = ("click", "pygments", "yoyo", "wordllama", "tokenizers", "plotly", "uvloop", "toolbox_cli.core.verify")


def test_a_search_loads_only_what_it_needs(registry: str, toolbox: Toolbox, service: Service) -> None:
    execute(registry, "INSERT INTO tools (name, description) VALUES ('add', 'Adds two numbers')")
    toolbox("reindex").ok()
    command = [sys.executable, "-X", "importtime", "-m", "toolbox_cli", "search", "numbers"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "add" in done.stdout
    loaded = set(re.findall(r"^import time: [\d |]+ (\S+)$", done.stderr, re.MULTILINE))
    assert {"psycopg", "httpx", "toolbox_cli.core.search"} <= loaded
    assert loaded.isdisjoint(NOT_FOR_SEARCH)


def test_all_of_a_long_output_has_left_when_the_process_ends(registry: str) -> None:
    execute(
        registry,
        "INSERT INTO tools (name, description) SELECT 'tool_' || g, repeat('x', 2000) FROM generate_series(1, 1000) g",
    )
    done = finish(start("list", "--limit", "1000", "--json")).ok()
    assert len(done.json["tools"]) == 1000
    assert len(done.out) > 2_000_000
    assert finish(start("show", "nosuch")).code == 1


def test_a_command_that_lasts_collects_its_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "LOADED_AFTER", 0.01)

    async def lasting(_: runtime.Services) -> tuple[bool, bool]:
        before = gc.isenabled()
        await asyncio.sleep(0.1)
        return before, gc.isenabled()

    gc.disable()
    try:
        assert runtime.run("search", lasting) == (False, True)
    finally:
        gc.enable()
