"""Decoding of answers: what is accepted, and every way in which HTTP 200 can carry garbage."""

from __future__ import annotations

import base64
import json
import time
from email.utils import formatdate
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolbox_cli.domain.errors import InputRefusedError, WrongDimensionError
from toolbox_cli.embedding.answers import decode as decode_answer
from toolbox_cli.embedding.answers import parse_json
from toolbox_cli.embedding.faults import UndecodableAnswerError, clean
from toolbox_cli.embedding.retry_after import parse_duration, retry_after
from toolbox_cli.embedding.texts import prepare, sendable


def decode(payload: Any, **options: Any) -> Any:
    """The vectors of an answer."""
    return decode_answer(payload, **options).vectors


def packed(*numbers: float) -> str:
    return base64.b64encode(np.array(numbers, dtype="<f4").tobytes()).decode()


def items(*embeddings: Any) -> dict[str, Any]:
    return {"data": [{"index": i, "embedding": e} for i, e in enumerate(embeddings)]}


@given(
    st.integers(1, 12).flatmap(
        lambda width: st.lists(
            st.lists(st.floats(-1e3, 1e3, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3), min_size=width,
                     max_size=width).filter(any),
            min_size=1,
            max_size=9,
        )
    ),
    st.randoms(use_true_random=False),
    st.booleans(),
)  # fmt: skip
def test_both_forms_give_the_same_vectors_in_the_order_of_the_texts(
    rows: list[list[float]], random: Any, as_numbers: bool
) -> None:
    data = [{"index": i, "embedding": row if as_numbers else packed(*row)} for i, row in enumerate(rows)]
    random.shuffle(data)
    vectors = decode(parse_json(json.dumps({"data": data}).encode()), count=len(rows), dimension=len(rows[0]))
    assert vectors.dtype == np.float32
    assert vectors.flags.writeable
    np.testing.assert_array_equal(vectors, np.array(rows, dtype=np.float32))


def test_how_an_answer_came_is_known() -> None:
    in_order = decode_answer(items(packed(1), packed(2)), count=2, dimension=1)
    assert (in_order.base64, in_order.reordered) == (True, False)
    swapped = {"data": [{"index": 1, "embedding": [1.0]}, {"index": 0, "embedding": [2.0]}]}
    out_of_order = decode_answer(swapped, count=2, dimension=1)
    assert (out_of_order.base64, out_of_order.reordered) == (False, True)
    assert out_of_order.vectors.tolist() == [[2], [1]]


def test_without_index_the_order_of_the_answer_counts() -> None:
    payload = {"data": [{"embedding": [1.0, 2.0]}, {"embedding": packed(3, 4)}][:1] * 2}
    assert decode(payload, count=2, dimension=None).tolist() == [[1, 2], [1, 2]]


@pytest.mark.parametrize("indexes", [[0, 0], [1, 2], [0, None], ["0", "1"], [True, False], [1.0, 0.0], [-1, 0]])
def test_indexes_must_be_a_bijection(indexes: list[Any]) -> None:
    payload = {"data": [{"index": i, "embedding": [1.0]} for i in indexes]}
    with pytest.raises(InputRefusedError, match="index"):
        decode(payload, count=2, dimension=1)


@pytest.mark.parametrize("count", [1, 3])
def test_a_wrong_count_is_refused(count: int) -> None:
    with pytest.raises(InputRefusedError, match=f"2 vectors for {count} texts"):
        decode(items([1.0], [1.0]), count=count, dimension=1)


@pytest.mark.parametrize("embedding", [[1.0, 2.0], packed(1, 2)])
def test_a_wrong_dimension_names_both(embedding: Any) -> None:
    with pytest.raises(WrongDimensionError, match="2 dimensions, expected 3") as caught:
        decode(items(embedding), count=1, dimension=3)
    assert (caught.value.found, caught.value.expected, caught.value.exit_code) == (2, 3, 6)


def test_dimensions_that_differ_inside_an_answer_are_refused_while_probing() -> None:
    with pytest.raises(InputRefusedError, match="of 2 and of 3 dimensions together"):
        decode(items([1.0, 2.0], [1.0, 2.0, 3.0]), count=2, dimension=None)


@pytest.mark.parametrize(
    "numbers",
    [[float("nan"), 1.0], [float("inf"), 1.0], [0.0, 0.0], [1e300, 1.0], [1e30, 1e30], [1e-30, 0.0]],
)
@pytest.mark.parametrize("form", ["numbers", "base64"])
def test_what_has_no_cosine_in_float32_is_refused(numbers: list[float], form: str) -> None:
    with np.errstate(over="ignore"):
        bad = numbers if form == "numbers" else packed(*numbers)
        good = [1.0, 1.0] if form == "numbers" else packed(1, 1)
    body = json.dumps(items(good, bad)).encode()
    with pytest.raises(InputRefusedError, match="text 2 of 2"):
        decode(parse_json(body), count=2, dimension=2)


@pytest.mark.parametrize(
    "payload",
    [
        None, [], "x", 3, {}, {"data": None}, {"embeddings": [[1.0]]}, {"data": [[1.0]]}, {"data": [{}]},
        {"data": ["a"]},
        items("????"), items("AAA"), items("AAAA"), items("Ä"), items(None), items({"a": 1}), items(["x"]),
        items([[1.0], [2.0]]), items([10**400]),
        {"data": [{"index": 0, "embedding": {"0": 1.0}}]},
    ],
)  # fmt: skip
def test_unknown_forms_are_undecodable(payload: Any) -> None:
    with pytest.raises(UndecodableAnswerError):
        decode(payload, count=1, dimension=None)


def test_a_mixture_of_forms_is_undecodable() -> None:
    with pytest.raises(UndecodableAnswerError):
        decode(items([1.0], packed(1)), count=2, dimension=1)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["data", "embedding", "index", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=40)
@given(json_values, st.integers(1, 3))
def test_no_json_value_breaks_the_decoder(payload: Any, count: int) -> None:
    try:
        vectors = decode(payload, count=count, dimension=None)
    except (UndecodableAnswerError, InputRefusedError):
        return
    assert len(vectors) == count
    assert np.isfinite(vectors).all()


@given(st.text(alphabet=st.characters(exclude_categories=[]), max_size=50))
def test_sendable_text_is_utf8_without_nul(text: str) -> None:
    sent = sendable(text)
    sent.encode()
    assert "\x00" not in sent
    assert sendable(sent) == sent
    if "\x00" not in text and not any("\ud800" <= c <= "\udfff" for c in text):
        assert sent is text


@pytest.mark.parametrize("text", ["", " \n\t", "\x00", " \x00 ", "\u00a0\u2003"])
def test_blank_text_is_refused_whatever_the_prefix(text: str) -> None:
    with pytest.raises(InputRefusedError, match="blank"):
        prepare(text, "search_document: ")


def test_surrogates_are_replaced() -> None:
    assert prepare("a\ud800b\x00c\udfff😀", "p: ") == "p: a\ufffdbc\ufffd😀"


@given(st.text(max_size=2000), st.text(alphabet="abcdef-_0123456789", min_size=4, max_size=60))
def test_a_cleaned_message_is_one_short_printable_line_without_the_key(text: str, key: str) -> None:
    message = clean(f"{text}{key} and {key}\x1b[31m", key)
    assert len(message) <= 300
    assert message.isprintable()
    assert key not in message.replace("[key]", "")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("12ms", 0.012), ("6m0s", 360), ("8.64s", 8.64), ("1h2m3s", 3723), ("1d", 86400), ("3", 3), ("0.5", 0.5),
     (" 2s ", 2), ("250us", 0.00025), ("", None), ("soon", None), ("-1", None), ("nan", None), ("1x", None)],
)  # fmt: skip
def test_durations(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == (None if seconds is None else pytest.approx(seconds))


def test_an_epoch_is_a_point_in_time() -> None:
    assert parse_duration(str(int(time.time()) + 100)) == pytest.approx(100, abs=2)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after-ms": "120", "retry-after": "9"}, 0.12),
        ({"retry-after": "9", "x-ratelimit-reset-requests": "1s"}, 9),
        ({"retry-after": formatdate(time.time() - 60, usegmt=True)}, 0),
        ({"retry-after": "whenever", "x-ratelimit-reset-tokens": "6m0s"}, 360),
        ({"x-ratelimit-reset-requests": "12ms", "x-ratelimit-reset-tokens": "6m0s"}, 0.012),
        (
            {
                "x-ratelimit-reset-requests": "12ms",
                "x-ratelimit-reset-tokens": "6m0s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-remaining-requests": "7",
            },
            360,
        ),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == (None if seconds is None else pytest.approx(seconds))


def test_retry_after_as_a_date() -> None:
    found = retry_after({"retry-after": formatdate(time.time() + 50, usegmt=True)})
    assert found == pytest.approx(50, abs=2)
