"""What one entry means, and what a registry cannot hold."""

from __future__ import annotations

import json
from typing import Any

import pytest

from toolbox_cli.core.tool_shapes import UnusableEntryError, new_tool
from toolbox_cli.domain.transfer import MAX_JSON_DEPTH

OURS = {"name": "add", "description": "Add numbers", "input_schema": {"type": "object"}}
MCP = {"name": "add", "description": "Add numbers", "inputSchema": {"type": "object"}}


def test_mcp_extras() -> None:
    annotations = {"title": "Adds", "readOnlyHint": True}
    tool = new_tool({"name": "a", "title": "T", "inputSchema": {}, "annotations": annotations, "icons": []})
    assert tool.description == "T"
    assert tool.metadata == {"annotations": annotations, "title": "T"}
    assert new_tool({"name": "a", "inputSchema": {}, "annotations": annotations}).description == "Adds"
    bare = new_tool({"name": "a", "inputSchema": {"x": 1}, "outputSchema": {"y": 2}, "description": None})
    assert (bare.description, bare.input_schema, bare.output_schema) == ("", {"x": 1}, {"y": 2})
    assert (bare.category, bare.implementation_type, bare.version) == ("general", "external", "1.0.0")
    assert "description" not in bare.model_fields_set
    assert new_tool(MCP, category="math").category == "math"
    assert new_tool({**MCP, "category": "own"}, category="math").category == "own"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "n" * 256}, "name has 256 characters, at most 255 are possible"),
        ({"name": ""}, "name is empty"),
        ({"name": " \t"}, "name is blank"),
        ({"name": 7}, "name: expected a string, found a number"),
        ({"name": None}, "name is missing"),
        ({"name": "a\0b"}, "name holds a NUL character"),
        ({"description": "\ud800"}, "description holds half of a surrogate pair"),
        ({"category": "c" * 101}, "category has 101 characters"),
        ({"tags": "a,b"}, "tags: expected a list, found a string"),
        ({"tags": ["a", 3]}, "tags[1]: expected a string, found a number"),
        ({"is_active": "yes"}, "is_active: expected true or false, found a string"),
        ({"version": "1" * 51}, "version has 51 characters"),
        ({"input_schema": [1]}, "input_schema: expected an object, found a list"),
        ({"inputSchema": "x"}, "inputSchema: expected an object, found a string"),
        ({"input_schema": {"a": [{"b\0": 1}]}}, "input_schema holds a NUL character"),
        ({"metadata": {"x": ["\udfff"]}}, "metadata holds half of a surrogate pair"),
        ({"output_schema": {"x": 1e999}}, "output_schema holds a number that is too large"),
        ({"input_schema": json.loads('{"a":' * 201 + "1" + "}" * 201)}, f"more than {MAX_JSON_DEPTH} levels"),
    ],
)
def test_entries_that_a_registry_cannot_hold(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UnusableEntryError) as caught:
        new_tool({**OURS, **change})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"name": "John", "age": 30}, "not a tool"),
        ({"type": "web_search"}, "built-in tool of type 'web_search'"),
        (
            {"jsonrpc": "2.0", "id": 1, "error": {"code": -32601, "message": "no such method"}},
            "no such method",
        ),
    ],
)
def test_objects_that_are_no_tools(payload: dict[str, Any], said: str) -> None:
    with pytest.raises(UnusableEntryError, match=said):
        new_tool(payload)


def test_longest_name_counts_characters() -> None:
    assert len(new_tool({**OURS, "name": "𝒯" * 255}).name) == 255
