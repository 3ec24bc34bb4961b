"""The program, a registry, and two services: that of the present model and that of the new one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.cli import Service, Toolbox, registry, toolbox
from support.registries import execute
from support.reindexing import TOOLS, add_tools
from support.service import Behaviour

__all__ = ["registry", "toolbox"]


@pytest.fixture
def old_service(registry: str) -> Iterator[Service]:
    """The service of the current generation, of 8 dimensions."""
    with Service(Behaviour(dimension=8)) as running:
        execute(registry, "UPDATE embedding_generations SET endpoint_url = %s", [running.url])
        yield running


@pytest.fixture
def new_service() -> Iterator[Service]:
    """The service of the new model, of 16 dimensions unless changed."""
    with Service(Behaviour(dimension=16)) as running:
        yield running


@pytest.fixture
def built(toolbox: Toolbox, registry: str, old_service: Service, new_service: Service) -> str:
    """Two complete generations: the second is ready to be cut over to."""
    add_tools(registry, TOOLS)
    toolbox("reindex").ok()
    toolbox("migrate", "--online", "--model", "new-model", "--dimension", "16", "--endpoint-url", new_service.url).ok()
    toolbox("reindex").ok()
    return registry
