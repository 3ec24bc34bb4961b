"""The catalogue of sample tools that comes with the package."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from typing import BinaryIO


def open_sample() -> BinaryIO:
    """The bundled catalogue, one tool a line (JSONL, UTF-8), for ``import_tools``. The caller closes it."""
    opened = resources.files("toolbox_cli").joinpath("data", "catalog.jsonl").open("rb")
    return cast("BinaryIO", opened)  # typeshed says IO[bytes], of which BinaryIO is the only kind
