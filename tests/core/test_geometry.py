"""Odd vectors and thresholds, on vectors whose answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from toolbox_cli.core.geometry import FAR, odd_ones, of_length_one, suggested_threshold

Array = np.ndarray[Any, np.dtype[np.float32]]


def clustered(count: int, dimension: int = 64, seed: int = 0, spread: float = 0.5) -> Array:
    """Vectors around ten centres, which share a direction, of length 1."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((10, dimension)) + 0.5
    found = centres[rng.integers(10, size=count)] + spread * rng.standard_normal((count, dimension))
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), dtype=np.float32)


def test_random_ones_among_real_ones_are_odd() -> None:
    vectors = clustered(2_500)
    noise = np.random.default_rng(1).standard_normal((5, 64))
    places = [3, 999, 1_000, 1_001, 2_499]
    vectors[places] = noise / np.linalg.norm(noise, axis=1, keepdims=True)
    odd = odd_ones(vectors, 16)
    assert odd.far == 5
    assert set(places) <= set(odd.places)
    assert len(odd.places) <= 16


def test_a_block_of_another_space_is_odd_though_it_has_near_neighbours() -> None:
    vectors = clustered(1_000)
    other = np.linalg.qr(np.random.default_rng(2).standard_normal((64, 64)))[0]
    vectors[100:150] = vectors[100:150] @ other
    odd = odd_ones(vectors, 16)
    assert sum(100 <= place < 150 for place in odd.places) >= 8


def test_real_ones_are_not() -> None:
    assert odd_ones(clustered(1_000), 16).far == 0
    assert FAR > 3


def test_rows_without_a_direction_are_left_out() -> None:
    vectors = np.array([[3, 4], [0, 0], [np.nan, 1], [0, 2]], dtype=np.float32)
    found, places = of_length_one(vectors)
    assert places == [0, 3]
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 1]])


def test_the_suggested_threshold_is_what_nine_of_ten_pairs_stay_below() -> None:
    vectors = clustered(200, seed=3)
    found = suggested_threshold(vectors)
    assert found is not None
    pairs = [float(vectors[a] @ vectors[b]) for a in range(200) for b in range(a)]
    assert sum(pair < found for pair in pairs) / len(pairs) == pytest.approx(0.9, abs=0.02)
    assert suggested_threshold(vectors[:19]) is None
