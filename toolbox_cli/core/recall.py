"""How much of what an exact search finds the vector index finds too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolbox_cli.domain.searching import Recall

if TYPE_CHECKING:
    from collections.abc import Sequence

    from toolbox_cli.domain.models import Generation, SearchHit
    from toolbox_cli.domain.searching import QualityStore

#: Stored vectors that are looked for. Of 50 × 10 neighbours, 95 % are found within ± 2 % (two standard errors).
SAMPLE = 50
#: Two similarities that differ by less are the same: float4 sums in another order differ by about 1e-7.
SAME = 1e-6


async def index_recall(
    store: QualityStore, generation: Generation, *, k: int = 10, sample: int = SAMPLE
) -> Recall | None:
    """Recall@k over a sample of stored vectors, the same at every call; None when there are fewer than two vectors.

    A neighbour counts as found when it is at least as similar as the k-th of the exact search: of tools with the same
    vector it does not matter which one is shown.
    """
    vectors = await store.sample_vectors(generation, sample)
    if len(vectors) < 2:
        return None
    shares = [
        share_found(await store.by_index(generation, vector, k), await store.exact(generation, vector, k))
        for vector in vectors
    ]
    return Recall(recall=sum(shares) / len(shares), k=k, queries=len(shares))


def share_found(found: Sequence[SearchHit], exact: Sequence[SearchHit]) -> float:
    """Which share of an exact result list was found, from 0 to 1; 1 where there was nothing to find."""
    if not exact:
        return 1.0
    least = exact[-1].cosine - SAME
    return min(1.0, sum(hit.cosine >= least for hit in found) / len(exact))
