"""The files that import reads and export writes, the standard streams among them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from toolbox_cli.domain.errors import InvalidUsageError


@contextmanager
def source(name: str | None, *, sample: bool) -> Iterator[BinaryIO]:
    """The bytes to import; InvalidUsageError where nothing, or nothing readable, was named."""
    from toolbox_cli.core.catalog_data import open_sample

    if sample == (name is not None):
        raise InvalidUsageError(
            "expected either a FILE or --sample", hint="toolbox import tools.json, or toolbox import --sample"
        )
    if sample:
        with open_sample() as stream:
            yield stream
        return
    if name == "-":
        yield sys.stdin.buffer
        return
    path = Path(str(name))
    if path.is_dir():
        raise InvalidUsageError(f"{path} is a directory, expected a file", hint="Name one file, or - to read a pipe.")
    try:
        stream = path.open("rb")
    except OSError as exc:
        raise InvalidUsageError(
            f"{path} cannot be read: {exc.strerror}", hint="Name a file, or - to read a pipe."
        ) from exc
    with stream:
        yield stream


@contextmanager
def sink(name: str | None) -> Iterator[BinaryIO]:
    """Where to export to: standard output, or a file that appears whole or not at all."""
    if name in (None, "-"):
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(str(name))
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            yield stream
        partial.replace(path)
    except OSError as exc:
        raise InvalidUsageError(f"{path} cannot be written: {exc.strerror}", hint="Name another file.") from exc
    finally:
        partial.unlink(missing_ok=True)
