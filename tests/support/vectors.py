"""Vectors of length 1 that mean nothing and depend on (model, text) alone, at the speed of copying memory.

The same in base64 and as numbers, in any process.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np

# Values in each half's pool of numbers. A text has one place in each, so 2^36 texts have vectors of their
# own.
_PLACES = 1 << 18
# "% .9f," is 13 bytes for every number below 10: a stretch of numbers is a stretch of bytes.
_WIDTH = 13


class Pool:
    """Numbers of which every stretch of ``size`` has the length ``norm``: magnitudes repeat, signs do not."""

    def __init__(self, size: int, norm: float, seed: int) -> None:
        rng = np.random.default_rng(seed)
        magnitudes = np.abs(rng.standard_normal(size)) + 1e-3
        magnitudes *= norm / np.linalg.norm(magnitudes)
        repeated = np.resize(magnitudes, _PLACES + size)
        self.exact = np.round(repeated * rng.choice([-1.0, 1.0], len(repeated)), 9)
        self.size = size
        self.windows = np.lib.stride_tricks.sliding_window_view(self.exact.astype("<f4"), size)
        self._text: bytes | None = None

    @property
    def text(self) -> bytes:
        if self._text is None:
            self._text = "".join([f"{number: .9f}," for number in self.exact]).encode()
        return self._text

    def numbers(self, place: int) -> bytes:
        return self.text[place * _WIDTH : (place + self.size) * _WIDTH]


@lru_cache(maxsize=16)
def _pools(dimension: int) -> tuple[Pool, ...]:
    first = (dimension + 1) // 2
    halves = [first, dimension - first] if dimension > 1 else [1]
    return tuple(Pool(size, (size / dimension) ** 0.5, seed) for seed, size in enumerate(halves))


def _places(model: str, texts: list[str]) -> list[tuple[int, int]]:
    start = hashlib.blake2b(model.encode(), digest_size=8)
    found = []
    for text in texts:
        digest = start.copy()
        digest.update(text.encode())
        number = int.from_bytes(digest.digest(), "little")
        found.append((number % _PLACES, (number >> 32) % _PLACES))
    return found


def vectors_of(model: str, texts: list[str], dimension: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What the service answers for these texts: float32, shape (len(texts), dimension), of length 1."""
    places = _places(model, texts)
    parts = [pool.windows[[place[half] for place in places]] for half, pool in enumerate(_pools(dimension))]
    return np.concatenate(parts, axis=1)


def numbers_of(model: str, texts: list[str], dimension: int) -> list[bytes]:
    """The same vectors as JSON lists of numbers."""
    pools = _pools(dimension)
    return [
        b"[" + b"".join([pool.numbers(place[half]) for half, pool in enumerate(pools)])[:-1] + b"]"
        for place in _places(model, texts)
    ]
