"""Tools on their way in or out of a registry: what a file may hold, and what became of it."""

from __future__ import annotations

import json
import math
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, field_validator

from toolbox_cli.domain.errors import ToolboxError
from toolbox_cli.domain.models import Frozen, Tool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

OnConflict = Literal["update", "skip", "error"]
ImportFormat = Literal["auto", "mcp", "openai", "jsonl"]
ExportFormat = Literal["jsonl", "mcp", "openai"]

DEFAULT_CATEGORY = "general"

#: Real schemas nest less than 20 levels. Python's JSON reader gives up near 1,000, PostgreSQL's above that.
MAX_JSON_DEPTH = 200


class NewTool(BaseModel):
    """A tool as a file describes it, before it has a row.

    ``model_fields_set`` matters: an import that updates leaves alone what the file did not give. Keys that
    are not fields are ignored. Lengths are in characters, as PostgreSQL counts them.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    name: str = Field(min_length=1, max_length=255)
    description: str = ""
    category: str = Field(default=DEFAULT_CATEGORY, min_length=1, max_length=100)
    tags: list[str] = Field(default_factory=list)
    input_schema: dict[str, Any] = Field(default_factory=dict)
    output_schema: dict[str, Any] | None = None
    implementation_type: str = Field(default="external", min_length=1, max_length=50)
    implementation_code: str | None = None
    is_active: bool = True
    version: str = Field(default="1.0.0", min_length=1, max_length=50)
    metadata: dict[str, Any] | None = None
    #: True where ``metadata`` holds only what a tool list says about itself (annotations, title): an update
    #: lays it over the metadata that the registry has, which may be an operator's own.
    merge_metadata: bool = Field(default=False, exclude=True)

    @field_validator("*")
    @classmethod
    def _storable(cls, value: object) -> object:
        reason = why_not_storable(value)
        if reason is not None:
            raise ValueError(reason)
        return value

    @field_validator("name", "category")
    @classmethod
    def _not_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("is blank")
        return value


#: The columns of ``tools`` that a file can give, in the order of the export.
TOOL_FIELDS = tuple(name for name in NewTool.model_fields if name != "merge_metadata")


def why_not_storable(value: object) -> str | None:
    """Why PostgreSQL cannot store a value parsed from JSON, or None if it can."""
    pending: list[tuple[object, int]] = [(value, 0)]
    while pending:
        item, depth = pending.pop()
        if depth > MAX_JSON_DEPTH:
            return f"is nested more than {MAX_JSON_DEPTH} levels deep"
        if isinstance(item, str):
            if "\0" in item:
                return "holds a NUL character (U+0000), which PostgreSQL cannot store"
            if not is_unicode(item):
                return "holds half of a surrogate pair (U+D800 to U+DFFF), which is no character"
        elif isinstance(item, float):
            if not math.isfinite(item):
                return "holds a number that is too large"
        elif isinstance(item, dict):
            for key, inner in item.items():
                pending.append((key, depth + 1))
                pending.append((inner, depth + 1))
        elif isinstance(item, list):
            pending.extend((inner, depth + 1) for inner in item)
    return None


def is_unicode(text: str) -> bool:
    """False if the text holds a lone surrogate, which no encoding can carry."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def changes(tool: Tool, new: NewTool) -> dict[str, Any]:
    """What an import changes in a row: the columns that the file gives and that differ, with the new values.

    JSON is compared as JSON: the order of keys and the spacing do not count, 1 and true do.
    """
    changed: dict[str, Any] = {}
    for field in TOOL_FIELDS:
        if field == "name" or field not in new.model_fields_set:
            continue
        value = getattr(new, field)
        stored = getattr(tool, field)
        if field == "metadata" and new.merge_metadata and isinstance(stored, dict):
            value = {**stored, **(value or {})}
        if _canonical(value) != _canonical(stored):
            changed[field] = value
    return changed


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True)


class ImportFailure(Frozen):
    """An entry that was not imported. ``line`` is where it begins in the file, from 1."""

    line: int | None
    name: str | None
    error: str


class ImportSummary(Frozen):
    """What became of a file's entries: there were ``created + updated + unchanged + skipped + failed``.

    ``failures`` is in the order of the file and lists at most the first 10,000 of ``failed``.
    """

    created: int
    updated: int
    unchanged: int
    skipped: int
    failed: int
    failures: list[ImportFailure]


class ExportFailure(Frozen):
    """A tool that could not be written."""

    id: int
    name: str
    error: str


class ExportSummary(Frozen):
    """``exported`` tools were written. ``left_out`` are inactive ones, which only JSONL can express."""

    exported: int
    left_out: int
    failed: int
    failures: list[ExportFailure]


class ExportTool(Tool):
    """A tool on its way out; ``embedding`` has the shape (dimension,), None where there is no vector."""

    embedding: list[float] | None = None
    embedding_model: str | None = None


class Outcome(StrEnum):
    """What became of one tool of a batch."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    SKIPPED = "skipped"
    EXISTS = "exists"


class BatchRefusedError(ToolboxError):
    """The database refuses a value in a batch; nothing of the batch was written. Others may well be accepted.

    ``message`` holds the server's words. The import answers by trying the tools of the batch one by one.
    """

    exit_code = 4


class TransferStore(Protocol):
    """Where tools are imported to and exported from."""

    async def upsert(
        self, tools: Sequence[NewTool], *, on_conflict: OnConflict, dry_run: bool = False
    ) -> list[Outcome]:
        """Bring tools of distinct names into the registry, all or none; outcomes in the order of ``tools``.

        Never touches a vector. With ``dry_run`` the same outcomes and no write. Raises BatchRefusedError when
        the database refuses one of the values, and DatabaseError or StateError when it cannot be used at all.
        """

    def tools(self, *, with_embeddings: bool = False) -> AsyncIterator[ExportTool]:
        """All tools in the order of their ids, read page by page. Raises DatabaseError or StateError."""
