"""The vectors themselves: are they there, are they sound, and does the service make them again?"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from toolbox_cli.core.batches import truncated
from toolbox_cli.core.geometry import ENOUGH, odd_ones, of_length_one
from toolbox_cli.domain.catalog import find_model
from toolbox_cli.domain.errors import InputRefusedError
from toolbox_cli.domain.models import CheckStatus, Generation

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from toolbox_cli.core.checks.verification import Verification
    from toolbox_cli.domain.ports import Embedder, Vectors
    from toolbox_cli.domain.verification import Inspector, StoredSample

#: A vector made again is the same up to rounding: 2e-7 between two batches, 1e-4 between two kinds of hardware. Below
#: the first it is another quantisation or a changed server, below the second another model, prefix or text.
SAME_VECTOR, SAME_MODEL = 0.999, 0.98
#: 64 vectors meet a fault in 5 % of the rows with 96 % certainty: 1 − 0.95⁶⁴.
SAMPLE = 64
#: Vectors that are held against each other, and how many of the oddest are made again besides the sample.
LOOKED_AT, SUSPECTS = 4_000, 16
#: Long texts of one template are equal up to a model's limit, so some equal vectors are honest; above this share of the
#: registry it is not the texts.
TOO_MANY_EQUAL = 0.2
#: So many of those that seem wrong are first asked for alone: a service that mixes up its answers shows with these.
ASKED_ALONE = 4
MIXED_UP = "the service mixes up the answers of a batch"
NO_VECTOR = "there is no vector yet"
REINDEX, REINDEX_ALL = "toolbox reindex", "toolbox reindex --all"
MEND_REFUSED = "toolbox reindex, which lists what is refused: shorten those texts, or toolbox deactivate NAME"
REINDEX_ONE_BY_ONE = f"{REINDEX_ALL} --batch-size 1"


async def check_coverage(verification: Verification, inspector: Inspector, generation: Generation) -> None:
    census = await inspector.census(generation)
    detail = f"{census.active - census.missing - census.failed} of {census.active} active tools have a vector"
    if census.failed:
        detail += f"; {census.failed} were refused by the service"
    if stamps := await inspector.stamps_alone(generation):
        detail += f"; {stamps} have a fingerprint and no vector under it"
    if census.active:
        remedy = REINDEX if census.missing else MEND_REFUSED
        verification.require("coverage", not (census.missing or census.failed), detail, remedy)
    else:
        verification.add("coverage", CheckStatus.WARN, "there is no active tool", "toolbox import FILE")
    if census.missing == census.active:
        verification.add("fingerprints", CheckStatus.SKIP, NO_VECTOR)
        return
    detail = f"{census.fresh} of {census.active} vectors were made from the present text by the present model"
    if census.stale:
        detail += f"; {census.stale} stale"
    if unsigned := await inspector.unsigned(generation):
        detail += f", {unsigned} of them without a fingerprint: nothing says what they were made from"
    verification.require("fingerprints", census.stale == 0, detail, REINDEX)


async def check_vectors(verification: Verification, inspector: Inspector, generation: Generation) -> list[int]:
    """Returns the ids of tools whose vectors are to be looked at more closely."""
    faults = await inspector.vector_faults(generation)
    if not faults.looked_at:
        for name in ("vectors", "lengths", "duplicates", "outliers"):
            verification.add(name, CheckStatus.SKIP, NO_VECTOR)
        return []
    detail = f"{faults.looked_at} looked at: {faults.zero} of length zero, {faults.non_finite} not finite"
    if faults.examples:
        detail += f": {', '.join(faults.examples)}"
    verification.require("vectors", not (faults.zero or faults.non_finite), detail, REINDEX_ALL)
    known = find_model(generation.model)
    # Of a model that nobody knows, most vectors tell.
    normalises = known.normalises if known else faults.unnormalised < faults.looked_at / 2
    detail = f"{faults.unnormalised} of {faults.looked_at} vectors are not of length 1"
    # Cosine does not mind; whoever takes the inner product does.
    odd = normalises and faults.unnormalised > 0
    verification.wish("lengths", not odd, detail, REINDEX_ALL)
    suspects = await _check_duplicates(verification, inspector, generation, faults.looked_at)
    return suspects + await _check_outliers(verification, inspector, generation)


async def _check_duplicates(
    verification: Verification, inspector: Inspector, generation: Generation, vectors: int
) -> list[int]:
    groups = await inspector.duplicates(generation)
    if not groups:
        verification.add("duplicates", CheckStatus.PASS, "no two different texts have the same vector")
        return []
    shared = sum(group.tools for group in groups)
    detail = f"{shared} tools of different texts share {len(groups)} vectors, {' and '.join(groups[0].names[:2])} one"
    if shared > max(10, TOO_MANY_EQUAL * vectors):
        remedy = f"look at what the service answers (`toolbox embed`), then {REINDEX_ALL}"
        verification.add("duplicates", CheckStatus.FAIL, detail, remedy)
    else:
        verification.add("duplicates", CheckStatus.WARN, f"{detail}: the drift check makes them again")
    return [tool_id for group in groups[:4] for tool_id in group.ids[:2]]


async def _check_outliers(verification: Verification, inspector: Inspector, generation: Generation) -> list[int]:
    """Texts may be odd too, so that odd vectors are only made again first."""
    found = await inspector.sampled_vectors(generation, LOOKED_AT)
    vectors, places = of_length_one(found.vectors)
    if len(vectors) < ENOUGH:
        detail = f"{len(vectors)} vectors are too few to say which are far from the rest; the drift check looks at them"
        verification.add("outliers", CheckStatus.PASS, detail)
        return []
    odd = odd_ones(vectors, SUSPECTS)
    farthest = [places[place] for place in odd.places]
    detail = f"{odd.far} of {len(vectors)} vectors are far from all others"
    if odd.far:
        detail += f": {', '.join(found.names[place] for place in farthest[:3])} …"
    verification.wish("outliers", odd.far == 0, detail)
    return [found.ids[place] for place in farthest]


async def check_drift(
    verification: Verification,
    inspector: Inspector,
    embedder: Embedder,
    generation: Generation,
    sample: int,
    suspects: Sequence[int],
    limit: int | None,
) -> None:
    """Make a sample of vectors again, and hold them against what is stored.

    That is the one proof that they are this model's: another model of the same dimension, other prefixes, changed
    weights, shuffled rows and random numbers all have the right length, the right dimension and a fingerprint.
    Texts are cut to ``limit`` tokens, as reindex does.
    """
    stored = await inspector.sample(generation, sample, suspects)
    if not stored:
        verification.add("drift", CheckStatus.SKIP, "there is no fresh vector to make again yet")
        return
    # In another order than reindex sends them in: a service that mixes up a batch would mix the same one up alike.
    stored = [tool.model_copy(update={"text": truncated(tool.text, limit)}) for tool in stored]
    stored.sort(key=lambda tool: hashlib.sha256(tool.name.encode()).digest())
    similarities = await _made_again(embedder, stored)
    if not similarities:
        verification.add("drift", CheckStatus.FAIL, "the service refuses every text of the sample", REINDEX)
        return
    mixed_up = await _mixed_up(embedder, stored, similarities)
    remedy = REINDEX_ONE_BY_ONE if mixed_up else REINDEX_ALL
    lowest = min(similarities.values())
    wrong = [tool.name for tool in stored if similarities.get(tool.id, 1.0) < SAME_MODEL]
    shifted = sum(value < SAME_VECTOR for value in similarities.values())
    detail = f"{len(similarities)} vectors were made again: the lowest similarity to what is stored is {lowest:.4f}"
    if wrong:
        others = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        detail += f"; {len(wrong)} are not this model's of this text: {', '.join(wrong[:3])}{others}"
        if mixed_up:
            detail += f" ({MIXED_UP})"
        elif len(wrong) > len(similarities) / 2:
            detail += " (the service serves another model, or puts another prefix before the texts)"
        verification.add("drift", CheckStatus.FAIL, detail, remedy)
    elif mixed_up:
        detail += f"; but {MIXED_UP}: reindex with --batch-size 1 until that is mended"
        verification.add("drift", CheckStatus.WARN, detail)
    elif shifted:
        detail += f"; {shifted} are below {SAME_VECTOR}: another quantisation, or a changed server"
        verification.add("drift", CheckStatus.WARN, detail, REINDEX_ALL)
    else:
        verification.add("drift", CheckStatus.PASS, detail)


async def _mixed_up(embedder: Embedder, stored: Sequence[StoredSample], similarities: dict[int, float]) -> bool:
    """Whether vectors that seem wrong are another's: the service loses the order of a batch.

    If so, ``similarities`` then holds what the service makes of each of them alone.
    """
    wrong = [tool for tool in stored if similarities.get(tool.id, 1.0) < SAME_MODEL]
    alone = await _made_again(embedder, wrong[:ASKED_ALONE], at_once=1)
    if all(abs(value - similarities[tool_id]) <= 1 - SAME_MODEL for tool_id, value in alone.items()):
        return False
    similarities |= alone | await _made_again(embedder, wrong[ASKED_ALONE:], at_once=1)
    return True


async def _made_again(
    embedder: Embedder, stored: Sequence[StoredSample], *, at_once: int | None = None
) -> dict[int, float]:
    """The cosine of each stored vector with the one that the service makes now; without those it refuses."""
    found: dict[int, float] = {}
    step = at_once or embedder.max_batch
    for start in range(0, len(stored), step):
        part = slice(start, start + step)
        found |= await _compared(embedder, stored[part])
    return found


async def _compared(embedder: Embedder, stored: Sequence[StoredSample]) -> dict[int, float]:
    try:
        vectors = await embedder.embed_documents([tool.text for tool in stored])
    except InputRefusedError:
        if len(stored) == 1:
            return {}
        middle = len(stored) // 2
        return await _compared(embedder, stored[:middle]) | await _compared(embedder, stored[middle:])
    return {tool.id: _cosine(vector, parsed(tool.vector)) for tool, vector in zip(stored, vectors, strict=True)}


def parsed(text: str) -> NDArray[np.float32]:
    """pgvector's text form as an array."""
    import numpy as np

    return np.array(text.strip("[]").split(","), dtype=np.float32)


def _cosine(first: Vectors, second: Vectors) -> float:
    """0 where one of them has no direction."""
    import numpy as np

    norms = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(np.dot(first, second)) / norms if np.isfinite(norms) and norms > 0 else 0.0
