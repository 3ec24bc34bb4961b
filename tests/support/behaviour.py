"""What the embedding service of the tests does, and what it has seen."""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, Literal

Shape = Literal["openai", "string", "flat", "detail", "detail_list", "text", "html"]


@dataclass
class Fault:
    """An answer that the next ``times`` requests get, whatever they ask. ``drop`` closes the connection
    instead.
    """

    status: int = 503
    message: str = "try again"
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    code: str | None = None
    shape: Shape = "openai"
    #: The body as it is, instead of ``message`` in ``shape``.
    body: str | None = None
    drop: bool = False


@dataclass
class Behaviour:
    """What the service does. Every field may be changed while it runs. Times are in seconds."""

    dimension: int = 768
    latency: float = 0.0
    latency_per_input: float = 0.0
    #: Inputs a second that the service makes in all, however many requests are in flight; None: no limit.
    capacity: float | None = None
    #: Requests in flight above which it answers 429 at once.
    max_in_flight: int | None = None
    batch_limit: int | None = None
    batch_limit_status: int = 422
    batch_limit_message: str = "batch size {n} > maximum allowed batch size {limit}"
    max_chars: int | None = None
    max_chars_status: int = 400
    max_chars_message: str = "this model's maximum context length is {limit} tokens, however you requested {n} tokens"
    #: Characters of a text that are read; what is beyond makes no difference, and nothing is said.
    read_chars: int | None = None
    #: A request that holds a text with this in it gets this status.
    refuse: dict[str, int] = field(default_factory=dict)
    refuse_message: str = "the text cannot be embedded"
    error_shape: Shape = "openai"
    base64: Literal["yes", "ignored", "refused", "always", "garbage"] = "yes"
    dimensions: Literal["honour", "cut", "ignore", "refuse"] = "honour"
    shuffled: bool = False
    without_index: bool = False
    #: Added to the number of items in each answer.
    extra_items: int = 0
    answer_dimension: int | None = None
    #: A text with this in it gets NaN, or zeros.
    nan_for: str | None = None
    zero_for: str | None = None
    #: HTTP 200 with this body.
    answer_body: str | None = None
    answer_type: str = "application/json"
    api_key: str | None = None
    echo_key: bool = False
    model: str | None = None
    faults: list[Fault] = field(default_factory=list)
    #: Keep the texts and headers seen; off for large runs.
    record: bool = True


@dataclass
class Counters:
    requests: int = 0
    #: Texts received, refused ones included; ``embedded`` counts those that were answered with a vector.
    inputs: int = 0
    embedded: int = 0
    in_flight: int = 0
    max_concurrency: int = 0
    largest_batch: int = 0
    connections: int = 0
    refused: int = 0
    texts: Counter[str] = field(default_factory=Counter)
    headers: deque[dict[str, str]] = field(default_factory=lambda: deque(maxlen=1000))
    bodies: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=1000))

    def as_dict(self) -> dict[str, Any]:
        numbers = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name in ("texts", "headers", "bodies"):
            del numbers[name]
        return numbers | {
            "distinct_texts": len(self.texts),
            "most_often": max(self.texts.values(), default=0),
        }
