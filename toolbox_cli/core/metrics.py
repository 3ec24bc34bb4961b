"""How good a ranked list is, and whether two differ by more than chance.

Recall@k and the mean reciprocal rank as in Manning, Raghavan and Schütze, *Introduction to Information Retrieval*,
chapter 8; intervals by the bootstrap over questions (Efron, 1979; for retrieval: Sakai, SIGIR 2006).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from toolbox_cli.domain.models import Frozen

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Depths that are reported.
DEPTHS = (1, 5, 10)
#: Samples of the bootstrap, and its seed: two runs over the same answers say the same.
RESAMPLES, SEED = 2_000, 20_251


class Interval(Frozen):
    """A mean with its 95 % confidence interval."""

    mean: float
    low: float
    high: float


def recall_at(ranked: Sequence[str], relevant: Sequence[str], depth: int) -> float:
    """Which share of the relevant names is among the first ``depth``; there is at least one."""
    wanted = set(relevant)
    return len(wanted.intersection(ranked[:depth])) / len(wanted)


def reciprocal_rank(ranked: Sequence[str], relevant: Sequence[str], depth: int = 10) -> float:
    """One over the place of the first relevant name, 0 when it is not among the first ``depth``."""
    return next((1 / place for place, name in enumerate(ranked[:depth], start=1) if name in relevant), 0.0)


def scores(ranked: Sequence[str], relevant: Sequence[str]) -> dict[str, float]:
    """Every measure of one list."""
    found = {f"recall@{depth}": recall_at(ranked, relevant, depth) for depth in DEPTHS}
    return found | {"mrr@10": reciprocal_rank(ranked, relevant)}


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % interval of one number a question."""
    import numpy as np

    column = np.asarray(values, dtype=np.float64)
    means = _resampled_means(column)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(mean=round(float(column.mean()), 4), low=round(float(low), 4), high=round(float(high), 4))


def _resampled_means(column: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shape (RESAMPLES,)."""
    import numpy as np

    chance = np.random.default_rng(SEED)
    means = np.empty(RESAMPLES)
    for place in range(RESAMPLES):
        means[place] = column[chance.integers(0, len(column), len(column))].mean()
    return means
