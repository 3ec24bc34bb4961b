"""The files that import reads and export writes, the standard streams and the bundled catalogue among them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, BinaryIO

from toolbox_cli.domain.errors import InvalidUsageError

if TYPE_CHECKING:
    from toolbox_cli.core.json_stream import ByteSource
    from toolbox_cli.domain.questions import Question


@contextmanager
def source(name: str | None, *, sample: bool) -> Iterator[ByteSource]:
    """The bytes to import; InvalidUsageError where nothing, or nothing readable, was named."""
    from toolbox_cli.core.catalog_data import open_sample
    from toolbox_cli.core.tool_files import open_tool_file

    if sample == (name is not None):
        raise InvalidUsageError(
            "expected either a FILE or --sample", hint="toolbox import tools.json, or toolbox import --sample"
        )
    with open_sample() if sample else open_tool_file(str(name)) as stream:
        yield stream


def questions(name: str) -> list[Question]:
    """The questions of a file, or of standard input for ``-``; InvalidUsageError for what is none."""
    from toolbox_cli.core.questions import EXPECTED, read_questions
    from toolbox_cli.core.tool_files import open_tool_file

    with open_tool_file(name, what="questions", expected=EXPECTED) as stream:
        return read_questions(stream, "standard input" if name == "-" else name)


def labelled_questions(name: str | None, *, sample: bool) -> list[Question]:
    """Questions whose answers are known, of a file or of the bundled set; InvalidUsageError where none is labelled."""
    from toolbox_cli.core.catalog_data import open_sample_questions
    from toolbox_cli.core.questions import EXPECTED, labelled, read_questions

    if sample == (name is not None):
        raise InvalidUsageError(
            "expected either a FILE or --sample", hint="toolbox eval questions.jsonl, or toolbox eval --sample"
        )
    if sample:
        with open_sample_questions() as stream:
            return labelled(read_questions(stream, "the bundled questions"))
    found = labelled(questions(str(name)))
    if not found:
        raise InvalidUsageError(f"no question in {name} says which tools answer it", hint=EXPECTED)
    return found


def sink(name: str | None) -> AbstractContextManager[BinaryIO]:
    """Where to export to: standard output, or a file that appears whole or not at all."""
    from toolbox_cli.core.tool_files import create_export_file

    return create_export_file(name or "-")
