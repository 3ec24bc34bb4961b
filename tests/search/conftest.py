"""The program, and a registry of 8 dimensions with a service."""

from __future__ import annotations

from support.cli import registry, service, toolbox
from support.registries import carry_out, target

__all__ = ["carry_out", "registry", "service", "target", "toolbox"]
