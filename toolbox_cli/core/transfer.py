"""Tools into a registry and out of it, in bounded memory both ways."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from toolbox_cli.core.tool_files import BadEntry, read_entries
from toolbox_cli.core.tool_shapes import UnusableEntryError, entry_name, explain, new_tool, record
from toolbox_cli.domain.errors import InvalidUsageError
from toolbox_cli.domain.ports import SilentProgress
from toolbox_cli.domain.transfer import (
    BatchRefusedError,
    ExportFailure,
    ExportSummary,
    ImportFailure,
    ImportSummary,
    NewTool,
    Outcome,
    is_unicode,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from toolbox_cli.core.json_stream import ByteSource
    from toolbox_cli.domain.ports import Progress
    from toolbox_cli.domain.transfer import ExportFormat, ExportTool, ImportFormat, OnConflict, TransferStore

BATCH_TOOLS = 500
#: A batch of large tools is cut short here, so that it stays far from what one statement may carry (1 GB).
BATCH_BYTES = 8 * 1024 * 1024
MAX_FAILURES_LISTED = 10_000
_MAX_ERROR = 300
_OPENAI_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(slots=True)
class _Tally:
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    failed: int = 0
    failures: list[ImportFailure] = field(default_factory=list)

    def fail(self, line: int, name: str | None, error: str) -> None:
        self.failed += 1
        if len(self.failures) < MAX_FAILURES_LISTED:
            shown = None if name is None else printable(name, limit=300)
            self.failures.append(ImportFailure(line=line, name=shown, error=printable(error, limit=_MAX_ERROR)))

    def summary(self) -> ImportSummary:
        return ImportSummary(
            created=self.outcomes[Outcome.CREATED],
            updated=self.outcomes[Outcome.UPDATED],
            unchanged=self.outcomes[Outcome.UNCHANGED],
            skipped=self.outcomes[Outcome.SKIPPED],
            failed=self.failed,
            failures=sorted(self.failures, key=lambda failure: failure.line or 0),
        )


@dataclass(frozen=True, slots=True)
class _Candidate:
    line: int
    tool: NewTool


def printable(text: str, *, limit: int) -> str:
    """``text`` fit for a terminal: control characters and surrogates escaped, cut to ``limit``."""
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    if shown.isprintable():
        return shown
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in shown
    )


async def import_tools(
    source: ByteSource,
    store: TransferStore,
    *,
    file_format: ImportFormat = "auto",
    category: str | None = None,
    on_conflict: OnConflict = "update",
    dry_run: bool = False,
    progress: Progress | None = None,
) -> ImportSummary:
    """Bring the tools of a binary stream into the registry, in batches that are each committed at once.

    ``category`` goes to the entries that have none of their own, also to those already registered. With
    ``update`` only what the file gives and what differs is written. Of two entries of one name the later is a
    failure. ``dry_run`` counts without writing. Raises InvalidUsageError for a stream that is no file of
    tools, before anything is written; and as the store does, after what was committed before.
    """
    progress = progress or SilentProgress()
    _check_category(category)
    tally = _Tally()
    progress.start("Checking tools" if dry_run else "Importing tools", None)
    try:
        for batch, seen in _batches(source, file_format, category, tally):
            await _store_batch(batch, store, on_conflict, dry_run, tally)
            progress.advance(seen)
    finally:
        progress.finish()
    return tally.summary()


def _check_category(category: str | None) -> None:
    if category is None:
        return
    try:
        NewTool(name="any", category=category)
    except ValidationError as exc:
        raise InvalidUsageError(f"--category cannot be used: {explain(exc)}") from exc


def _batches(
    source: ByteSource, file_format: ImportFormat, category: str | None, tally: _Tally
) -> Iterator[tuple[list[_Candidate], int]]:
    """Valid tools of distinct names, and how many entries were read for them; failures go to the tally."""
    first_lines: dict[str, int] = {}
    batch: list[_Candidate] = []
    seen = size = 0
    for entry in read_entries(source, file_format=file_format):
        seen += 1
        if isinstance(entry, BadEntry):
            tally.fail(entry.line, entry.name, entry.error)
        else:
            try:
                tool = new_tool(entry.payload, file_format=file_format, category=category)
            except UnusableEntryError as exc:
                tally.fail(entry.line, entry_name(entry.payload), str(exc))
            else:
                if tool.name in first_lines:
                    tally.fail(entry.line, tool.name, f"duplicate of line {first_lines[tool.name]}")
                else:
                    first_lines[tool.name] = entry.line
                    batch.append(_Candidate(entry.line, tool))
                    size += entry.size
        if seen >= BATCH_TOOLS or size >= BATCH_BYTES:
            yield batch, seen
            batch, seen, size = [], 0, 0
    yield batch, seen


async def _store_batch(
    batch: list[_Candidate], store: TransferStore, on_conflict: OnConflict, dry_run: bool, tally: _Tally
) -> None:
    if not batch:
        return
    try:
        outcomes = await store.upsert([one.tool for one in batch], on_conflict=on_conflict, dry_run=dry_run)
    except BatchRefusedError as exc:
        if len(batch) == 1:
            tally.fail(batch[0].line, batch[0].tool.name, f"the database refused it: {exc.message}")
            return
        # One value spoils the statement; alone, the others go through.
        for one in batch:
            await _store_batch([one], store, on_conflict, dry_run, tally)
        return
    for one, outcome in zip(batch, outcomes, strict=True):
        if outcome is Outcome.EXISTS:
            tally.fail(one.line, one.tool.name, "already exists")
        else:
            tally.outcomes[outcome] += 1


async def export_tools(
    sink: BinaryIO,
    store: TransferStore,
    *,
    file_format: ExportFormat = "jsonl",
    with_embeddings: bool = False,
    progress: Progress | None = None,
) -> ExportSummary:
    """Write the registry's tools to a binary stream, UTF-8, one tool a line in every format.

    JSONL holds every tool, and ``import_tools`` makes the same rows of it (ids and times are the registry's
    own). The other formats cannot say that a tool is inactive, so they hold the active ones. Raises
    InvalidUsageError for embeddings in another format than JSONL, and as the store does.
    """
    progress = progress or SilentProgress()
    if with_embeddings and file_format != "jsonl":
        raise InvalidUsageError(
            f"the format {file_format} has no place for embeddings",
            hint="Use --format jsonl with --with-embeddings.",
        )
    opening, separator, closing = {
        "jsonl": (b"", b"\n", b"\n"),
        "mcp": (b'{"tools": [\n', b",\n", b"\n]}\n"),
        "openai": (b"[\n", b",\n", b"\n]\n"),
    }[file_format]
    exported = left_out = 0
    failures: list[ExportFailure] = []
    one_way = _Names("not to be imported again as they are (see `toolbox import --dry-run`)")
    refused_names = _Names("with names that OpenAI's API does not take (letters, digits, _ and -, at most 64)")
    progress.start("Exporting tools", None)
    try:
        async for tool in store.tools(with_embeddings=with_embeddings):
            progress.advance(1)
            if file_format != "jsonl" and not tool.is_active:
                left_out += 1
                continue
            try:
                encoded = _encoded(record(tool, file_format, with_embedding=with_embeddings))
            except (ValueError, RecursionError):
                error = "holds a number or a depth that JSON cannot carry"
                failures.append(ExportFailure(id=tool.id, name=printable(tool.name, limit=300), error=error))
                continue
            if file_format == "jsonl" and not _can_return(tool):
                one_way.add(tool.name)
            if file_format == "openai" and not _OPENAI_NAME.fullmatch(tool.name):
                refused_names.add(tool.name)
            sink.write((separator if exported else opening) + encoded)
            exported += 1
        if exported:
            sink.write(closing)
        elif file_format != "jsonl":
            sink.write(opening.rstrip() + closing.lstrip())
        sink.flush()
    finally:
        progress.finish()
    for names in (one_way, refused_names):
        if names.count:
            progress.note(names.sentence())
    if left_out:
        progress.note(f"{left_out} inactive tools left out: {file_format} cannot mark them, jsonl can")
    return ExportSummary(exported=exported, left_out=left_out, failed=len(failures), failures=failures)


@dataclass(slots=True)
class _Names:
    """How many tools share a peculiarity, and the first few of them."""

    what: str
    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.first) < 5:
            self.first.append(printable(name, limit=60))

    def sentence(self) -> str:
        more = ", …" if self.count > len(self.first) else ""
        tools = "1 tool" if self.count == 1 else f"{self.count} tools"
        return f"{tools} {self.what}: {', '.join(self.first)}{more}"


def _encoded(value: dict[str, Any]) -> bytes:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    # Half a surrogate pair can stand in a json column, as an escape; it leaves as one.
    return text.encode("utf-8") if is_unicode(text) else json.dumps(value, allow_nan=False).encode("ascii")


def _can_return(tool: ExportTool) -> bool:
    try:
        new_tool(record(tool, "jsonl"))
    except UnusableEntryError:
        return False
    return True
