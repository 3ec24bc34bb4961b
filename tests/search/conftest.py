"""The program, a registry of 8 dimensions with a service, and one with the sample catalogue and the built-in model."""

from __future__ import annotations

from support.catalogue import catalogue, catalogue_template
from support.cli import registry, service, toolbox
from support.registries import carry_out, target

__all__ = ["carry_out", "catalogue", "catalogue_template", "registry", "service", "target", "toolbox"]
