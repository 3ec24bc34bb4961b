"""The catalogue of sample tools that comes with the package."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from typing import BinaryIO


def open_sample() -> BinaryIO:
    """The bundled catalogue, one tool a line (JSONL, UTF-8), for ``import_tools``. The caller closes it."""
    return _open("catalog.jsonl")


def open_sample_questions() -> BinaryIO:
    """Questions to the bundled catalogue with the names of the right tools, for ``read_questions``. The caller closes
    it.
    """
    return _open("questions.jsonl")


def _open(name: str) -> BinaryIO:
    opened = resources.files("toolbox_cli").joinpath("data", name).open("rb")
    return cast("BinaryIO", opened)  # typeshed says IO[bytes], of which BinaryIO is the only kind
