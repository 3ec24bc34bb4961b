"""The program, and a registry of 8 dimensions with a service."""

from __future__ import annotations

from support.cli import registry, service, toolbox

__all__ = ["registry", "service", "toolbox"]
