"""Texts into requests: by number, by estimated tokens, cut to what a model reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolbox_cli.core.batches import TOKENS_A_REQUEST, batches, estimated_tokens, truncated
from toolbox_cli.domain.models import PendingTool


def tool(number: int, text: str = "text", *, failed: bool = False) -> PendingTool:
    return PendingTool(number, f"tool_{number}", text, b"", failed)


def ids(found: list[list[PendingTool]]) -> list[list[int]]:
    return [[one.id for one in batch] for batch in found]


def test_batches_by_number() -> None:
    assert ids(list(batches([tool(n) for n in range(5)], 2))) == [[0, 1], [2, 3], [4]]
    assert list(batches([], 2)) == []


def test_batches_by_tokens() -> None:
    long = "x" * (TOKENS_A_REQUEST * 2)  # half of what a request may hold
    found = list(batches([tool(0, long), tool(1, long), tool(2), tool(3, long * 4), tool(4)], 64))
    assert ids(found) == [[0], [1, 2], [3], [4]]


def test_tools_that_failed_before_go_last_and_alone() -> None:
    tools = [tool(0, failed=True), tool(1), tool(2, failed=True), tool(3)]
    assert ids(list(batches(tools, 64))) == [[1, 3], [0], [2]]


@given(st.lists(st.tuples(st.text(max_size=50), st.booleans()), max_size=40), st.integers(1, 9))
def test_every_tool_is_in_exactly_one_batch(texts: list[tuple[str, bool]], size: int) -> None:
    tools = [tool(number, text, failed=failed) for number, (text, failed) in enumerate(texts)]
    found = list(batches(tools, size))
    assert sorted(one.id for batch in found for one in batch) == list(range(len(tools)))
    assert all(1 <= len(batch) <= size for batch in found)


@pytest.mark.parametrize(("text", "tokens"), [("", 1), ("x" * 400, 101), ("字" * 400, 401), ("ab字字", 3)])
def test_estimates(text: str, tokens: int) -> None:
    assert estimated_tokens(text) == tokens


@given(st.text(max_size=400), st.integers(1, 60))
def test_a_cut_text_is_a_beginning_that_fits_and_a_short_one_stays(text: str, limit: int) -> None:
    cut = truncated(text, limit)
    assert text.startswith(cut)
    if estimated_tokens(text) <= limit:
        assert cut == text
    else:
        assert estimated_tokens(cut) <= limit + 1
        assert len(cut) < len(text)
