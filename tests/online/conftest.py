"""The program, a registry, and two services: that of the present model and that of the new one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.cli import Service, registry, toolbox
from support.registries import execute
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
