"""The program, a service and a registry for it."""

from support.cli import registry, service, toolbox

__all__ = ["registry", "service", "toolbox"]
