"""What a sample of stored vectors tells by itself: which are far from all others, and how alike any two of them are."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from toolbox_cli.domain.models import Generation
    from toolbox_cli.domain.ports import Vectors
    from toolbox_cli.domain.verification import Inspector

#: Robust standard deviations (1.4826 · MAD) from the median beyond which a vector is far from all others.
FAR = 6.0
#: Rows whose similarities to all others are held at once.
BLOCK = 1_000
#: The share of pairs of stored tools that a suggested threshold leaves out. Measured with labelled questions over 1,853
#: and 250 tools and two models: it keeps 0.59 to 0.91 of the right answers and cuts 0.98 to 0.99 of the wrong ones.
UNRELATED = 0.90
#: Vectors whose pairs are looked at: 200 of them make 19,900 pairs, and their 90th percentile is sure to about 0.01.
PAIRED = 200
#: Fewer vectors say nothing of a distribution.
ENOUGH = 20


class Odd(NamedTuple):
    """``far`` vectors are beyond FAR; ``places`` are those that are farthest, at most as many as were asked for."""

    far: int
    places: list[int]


def odd_ones(vectors: Vectors, count: int) -> Odd:
    """Those least like the mean of all, and those whose nearest neighbour is farthest; ``vectors`` have length 1.

    Random vectors have no near neighbour; a block of another model's has, but is far from the mean.
    """
    import numpy as np

    mean = vectors.mean(axis=0)
    closeness = vectors @ (mean / max(float(np.linalg.norm(mean)), 1e-12))
    nearest = _nearest(vectors)
    distances = np.stack([_robust_distances(closeness), _robust_distances(nearest)])
    far = int((distances > FAR).any(axis=0).sum())
    places: dict[int, None] = {}
    for row in np.argsort(-distances, axis=1, kind="stable")[:, : count // 2]:
        places |= dict.fromkeys(int(place) for place in row)
    return Odd(far, list(places))


def suggested_threshold(vectors: Vectors) -> float | None:
    """The similarity that UNRELATED of the pairs stay below, None with too few; ``vectors`` have length 1."""
    import numpy as np

    if len(vectors) < ENOUGH:
        return None
    similarities = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
    return round(float(np.quantile(similarities, UNRELATED)), 2)


async def threshold_of(inspector: Inspector, generation: Generation) -> float | None:
    """The threshold to suggest for a generation, from a sample of its own vectors."""
    found = await inspector.sampled_vectors(generation, PAIRED)
    return suggested_threshold(of_length_one(found.vectors)[0])


def of_length_one(vectors: Vectors) -> tuple[Vectors, list[int]]:
    """The rows that have a direction, at length 1, and their places."""
    import numpy as np

    norms = np.linalg.norm(vectors, axis=1)
    places = np.flatnonzero(np.isfinite(norms) & (norms > 0))
    return vectors[places] / norms[places, None], [int(place) for place in places]


def _nearest(vectors: Vectors) -> NDArray[np.float32]:
    """The similarity of each to its nearest neighbour: float32, shape (rows,)."""
    import numpy as np

    found = np.empty(len(vectors), dtype=np.float32)
    for start in range(0, len(vectors), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(vectors)))
        similarities = vectors[rows] @ vectors.T
        similarities[rows - start, rows] = -1.0
        found[rows] = similarities.max(axis=1)
    return found


def _robust_distances(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far each is below the median, in robust standard deviations: only what is less close than usual is odd."""
    import numpy as np

    median = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - median)) or 1e-9
    return (median - values) / spread
