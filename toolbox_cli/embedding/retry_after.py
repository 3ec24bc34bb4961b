"""How long a service asks to be left alone."""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|us|µs|ns|d|h|m|s))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|d|h|m|s)")
_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
# A number this large is a point in time (seconds since 1970), not a wait.
_EPOCH = 1e9


def parse_duration(text: str) -> float | None:
    """Seconds of "12ms", "6m0s", "8.64s", "1h2m", of a bare number of seconds, or of an epoch time; None if
    neither.
    """
    text = text.strip().lower()
    if _NUMBER.fullmatch(text):
        number = float(text)
        return number if number < _EPOCH else max(0.0, number - time.time())
    if _DURATION.fullmatch(text):
        return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
    return None


def _parse_date(text: str) -> float | None:
    try:
        then = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, then.timestamp() - time.time())


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from the headers of a 429 or 503, or None when they do not say. Names are lower case.

    The most exact statement wins: ``retry-after-ms``, ``Retry-After`` (RFC 9110: seconds or an HTTP date),
    then ``x-ratelimit-reset-*`` (OpenAI: durations, one for requests and one for tokens). Of the resets those
    count whose ``x-ratelimit-remaining-*`` is 0; where no one says 0 the shortest: asking too early costs one
    more 429.
    """
    if (ms := headers.get("retry-after-ms")) is not None and _NUMBER.fullmatch(ms.strip()):
        return float(ms) / 1000
    if (value := headers.get("retry-after")) is not None:
        seconds = parse_duration(value)
        if seconds is None:
            seconds = _parse_date(value)
        if seconds is not None:
            return seconds
    resets: dict[str, float] = {}
    for name, value in headers.items():
        if name.startswith("x-ratelimit-reset") and (seconds := parse_duration(value)) is not None:
            resets[name] = seconds
    exhausted = [s for name, s in resets.items() if headers.get(name.replace("reset", "remaining", 1)) == "0"]
    if exhausted:
        return max(exhausted)
    return min(resets.values(), default=None)
