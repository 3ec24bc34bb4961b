"""Texts into requests: by number, by estimated tokens, and cut to what the model can read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from toolbox_cli.domain.catalog import find_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from toolbox_cli.domain.models import Generation, PendingTool
    from toolbox_cli.domain.reindexing import Learned

LongTexts = Literal["truncate", "refuse"]

#: OpenAI takes 300,000 tokens in one request; a third of it leaves room for a bad estimate.
TOKENS_A_REQUEST = 100_000
#: English prose has about four characters a token in every usual vocabulary; other scripts have about one.
ASCII_CHARACTERS_A_TOKEN = 4


def estimated_tokens(text: str) -> int:
    """A model-independent estimate of a text's tokens, at least 1."""
    if text.isascii():
        return len(text) // ASCII_CHARACTERS_A_TOKEN + 1
    others = sum(1 for character in text if not character.isascii())
    return (len(text) - others) // ASCII_CHARACTERS_A_TOKEN + others + 1


def longest_text(generation: Generation, learned: Learned | None) -> int | None:
    """The tokens that a generation's model reads: what the catalogue knows, else what a probe of its service found."""
    known = find_model(generation.model)
    return known.max_tokens if known else learned.max_tokens if learned else None


def truncated(text: str, max_tokens: int | None) -> str:
    """The beginning of a text, of about ``max_tokens`` tokens; the text itself when it is short enough.

    None is a model whose limit nobody knows.
    """
    # No text has more tokens than UTF-8 bytes, so most are known to fit without counting.
    if max_tokens is None or len(text) * 4 <= max_tokens or estimated_tokens(text) <= max_tokens:
        return text
    if text.isascii():
        return text[: max_tokens * ASCII_CHARACTERS_A_TOKEN]
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if estimated_tokens(text[:middle]) <= max_tokens:
            low = middle
        else:
            high = middle - 1
    return text[:low]


def batches(tools: Sequence[PendingTool], size: int) -> Iterator[list[PendingTool]]:
    """Requests of at most ``size`` texts and TOKENS_A_REQUEST estimated tokens, in the order of the tools.

    Tools that were refused before go last and one by one, so that they hold up nobody.
    """
    batch: list[PendingTool] = []
    tokens = 0
    for tool in tools:
        if tool.failed_before:
            continue
        more = estimated_tokens(tool.text)
        if batch and (len(batch) >= size or tokens + more > TOKENS_A_REQUEST):
            yield batch
            batch, tokens = [], 0
        batch.append(tool)
        tokens += more
    if batch:
        yield batch
    yield from ([tool] for tool in tools if tool.failed_before)
