"""What one entry means: MCP tools, OpenAI functions and our own shape, to and from ``NewTool``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from toolbox_cli.domain.transfer import TOOL_FIELDS, NewTool

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails

    from toolbox_cli.domain.models import Tool
    from toolbox_cli.domain.transfer import ExportFormat, ExportTool, ImportFormat

#: Fields for which null can only mean "not given".
_NEVER_NULL = frozenset(TOOL_FIELDS) - {"output_schema", "implementation_code", "metadata"}
_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
}
_WANTED = {
    "string_type": "a string",
    "list_type": "a list",
    "dict_type": "an object",
    "bool_type": "true or false",
}


class UnusableEntryError(ValueError):
    """An entry that is no tool, or one that a registry cannot hold; the message says why, in one line."""


def new_tool(payload: Mapping[str, Any], *, file_format: ImportFormat = "auto", category: str | None = None) -> NewTool:
    """The tool that an entry describes. Raises UnusableEntryError.

    Shapes: ours; MCP (``inputSchema``, ``outputSchema``, ``annotations``, ``title``); OpenAI (``function``
    within, or flat with ``parameters``). ``category`` is the operator's, for an entry without one.
    """
    body, spelled = _unwrap(payload, file_format)
    fields = {key: body[key] for key in TOOL_FIELDS if key in body}
    spelled = {field: spelling for field, spelling in spelled.items() if spelling in body}
    fields |= {field: body[spelling] for field, spelling in spelled.items()}
    for key in _NEVER_NULL & fields.keys():
        if fields[key] is None:
            del fields[key]
    _take_annotations(body, fields)
    if "name" in fields and not fields.keys() & {"description", "input_schema"}:
        raise UnusableEntryError("has neither a description nor a schema: not a tool")
    if category is not None:
        fields.setdefault("category", category)
    try:
        return NewTool.model_validate(fields)
    except ValidationError as exc:
        raise UnusableEntryError(explain(exc, spelled)) from exc


def entry_name(payload: Mapping[str, Any]) -> str | None:
    """The name in an entry that may be unusable otherwise."""
    function = payload.get("function")
    for holder in (payload, function):
        if isinstance(holder, dict) and isinstance(holder.get("name"), str):
            return str(holder["name"])
    return None


def _unwrap(payload: Mapping[str, Any], file_format: ImportFormat) -> tuple[Mapping[str, Any], dict[str, str]]:
    """The object that holds the fields, and how this shape spells those that it calls by another name."""
    if "jsonrpc" in payload and isinstance(payload.get("error"), dict):
        said = str(payload["error"].get("message", "no message"))[:200]
        raise UnusableEntryError(f"the answer of an MCP server that refused: {said}")
    function = payload.get("function")
    nested = isinstance(function, dict)
    kind = payload.get("type")
    if not nested and isinstance(kind, str) and kind != "function" and "name" not in payload:
        raise UnusableEntryError(f"a built-in tool of type {kind[:50]!r}, which is no function")
    is_mcp = "inputSchema" in payload
    is_openai = nested or (not is_mcp and ("parameters" in payload or kind == "function"))
    if file_format == "mcp" and is_openai:
        raise UnusableEntryError("an OpenAI function, expected an MCP tool")
    if file_format == "openai" and not is_openai:
        raise UnusableEntryError("not an OpenAI function: neither `function` nor `parameters`")
    if isinstance(function, dict):
        return {**payload, **function}, {"input_schema": "parameters"}
    if is_openai:
        return payload, {"input_schema": "parameters"}
    return payload, {"input_schema": "inputSchema", "output_schema": "outputSchema"}


def _take_annotations(body: Mapping[str, Any], fields: dict[str, Any]) -> None:
    """MCP's ``annotations`` and ``title`` go to the metadata; a title stands in for a missing description."""
    annotations = body.get("annotations")
    title = body.get("title")
    noted: dict[str, Any] = {}
    if isinstance(annotations, dict):
        noted["annotations"] = annotations
    if isinstance(title, str):
        noted["title"] = title
    elif isinstance(annotations, dict):
        title = annotations.get("title")
    if isinstance(title, str) and title.strip() and not str(fields.get("description", "")).strip():
        fields["description"] = title
    if noted and "metadata" not in fields:
        fields["metadata"] = noted
        fields["merge_metadata"] = True
    elif noted and isinstance(fields["metadata"], dict):
        fields["metadata"] = {**noted, **fields["metadata"]}


def explain(exc: ValidationError, spelled: Mapping[str, str] | None = None) -> str:
    """A pydantic error in one line, in the words of the file: at most three reasons."""
    errors = exc.errors(include_url=False, include_input=True)
    reasons = [_reason(error, spelled or {}) for error in errors[:3]]
    if len(errors) > len(reasons):
        reasons.append(f"and {len(errors) - len(reasons)} more")
    return "; ".join(reasons)


def _reason(error: ErrorDetails, spelled: Mapping[str, str]) -> str:
    field = str(error["loc"][0]) if error["loc"] else ""
    where = spelled.get(field, field) + "".join(f"[{part}]" for part in error["loc"][1:])
    found = error["input"]
    context = error.get("ctx", {})
    match error["type"]:
        case "missing":
            return f"{where} is missing"
        case "string_too_long":
            return f"{where} has {len(found)} characters, at most {context['max_length']} are possible"
        case "string_too_short":
            return f"{where} is empty"
        case "value_error":
            return f"{where} {context['error']}"
        case kind if kind in _WANTED:
            return f"{where}: expected {_WANTED[kind]}, found {_KINDS.get(type(found), 'null')}"
    return f"{where}: {error['msg']}"


def record(tool: ExportTool, file_format: ExportFormat, *, with_embedding: bool = False) -> dict[str, Any]:
    """A tool in one of the shapes of an export, ready for JSON."""
    match file_format:
        case "jsonl":
            ours: dict[str, Any] = {field: getattr(tool, field) for field in TOOL_FIELDS}
            if with_embedding:
                ours |= {"embedding": tool.embedding, "embedding_model": tool.embedding_model}
            return ours
        case "mcp":
            return _mcp(tool)
        case "openai":
            schema = _object_schema(tool.input_schema)
            schema.setdefault("properties", {})
            function = {"name": tool.name, "description": tool.description, "parameters": schema}
            return {"type": "function", "function": function}


def _mcp(tool: Tool) -> dict[str, Any]:
    said = tool.metadata if isinstance(tool.metadata, dict) else {}
    shaped: dict[str, Any] = {"name": tool.name}
    if isinstance(said.get("title"), str):
        shaped["title"] = said["title"]
    shaped |= {"description": tool.description, "inputSchema": _object_schema(tool.input_schema)}
    if isinstance(tool.output_schema, dict):
        shaped["outputSchema"] = _object_schema(tool.output_schema)
    if isinstance(said.get("annotations"), dict):
        shaped["annotations"] = said["annotations"]
    return shaped


def _object_schema(schema: object) -> dict[str, Any]:
    """MCP and OpenAI want an object schema that says so; a registry may hold anything."""
    if not isinstance(schema, dict):
        return {"type": "object"}
    return {"type": "object", **schema} if "type" not in schema else dict(schema)
