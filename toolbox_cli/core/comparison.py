"""What two generations answered, held against each other: agreement, quality, thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolbox_cli.core.metrics import interval, scores
from toolbox_cli.domain.comparison import (
    Agreement,
    Change,
    Comparison,
    Difference,
    Latency,
    SideReport,
    Similarities,
    Threshold,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from toolbox_cli.domain.models import Generation, SearchHit
    from toolbox_cli.domain.questions import Question

#: Thresholds of the old model that are translated besides those that are asked for.
USUAL_THRESHOLDS = (0.5, 0.6, 0.7, 0.8)
CHANGES_SHOWN = 20
#: Bars of a distribution of similarities.
BINS = 40


@dataclass
class Side:
    """One generation and what it answered, question by question."""

    generation: Generation
    answers: list[list[SearchHit]]
    embedding_seconds: list[float]
    database_seconds: list[float]
    index_recall: float | None = None
    suggested_threshold: float | None = None

    def names(self, place: int, limit: int | None) -> list[str]:
        """The names of a question's results, the first ``limit`` of them."""
        return [hit.name for hit in self.answers[place][:limit]]

    def similarities(self) -> NDArray[np.float64]:
        """Of all results, shape (results,)."""
        import numpy as np

        return np.array([hit.cosine for answer in self.answers for hit in answer], dtype=np.float64)


def compared(
    old: Side, new: Side, questions: Sequence[Question], source: str, *, limit: int, thresholds: Sequence[float]
) -> Comparison:
    """The whole report; ``source`` says where the questions came from."""
    places = range(len(questions))
    overlaps = [_overlap(old.names(place, limit), new.names(place, limit), limit) for place in places]
    judged = [place for place in places if questions[place].relevant]
    quality = {
        side: [scores(s.names(p, None), questions[p].relevant) for p in judged]
        for side, s in (("old", old), ("new", new))
    }
    edges = _edges(old, new)
    by_change = sorted((place for place in places if overlaps[place] < 1), key=lambda place: overlaps[place])
    return Comparison(
        limit=limit,
        questions=len(questions),
        labelled=len(judged),
        questions_from=source,
        old=_side_report(old, limit, quality["old"], edges),
        new=_side_report(new, limit, quality["new"], edges),
        agreement=_agreement(old, new, overlaps, limit),
        differences=_differences(quality["old"], quality["new"]),
        thresholds=_thresholds(old, new, thresholds),
        changes=[
            Change(
                query=questions[place].query,
                relevant=list(questions[place].relevant),
                overlap=overlaps[place],
                old=old.answers[place][:limit],
                new=new.answers[place][:limit],
            )
            for place in by_change[:CHANGES_SHOWN]
        ],
    )


def _overlap(first: Sequence[str], second: Sequence[str], limit: int) -> float:
    """The share of the results that both have, of as many as there can be."""
    most = min(limit, max(len(first), len(second))) or 1
    return round(len(set(first) & set(second)) / most, 4)


def _agreement(old: Side, new: Side, overlaps: Sequence[float], limit: int) -> Agreement:
    places = range(len(overlaps))
    same_first = [old.names(place, 1) == new.names(place, 1) for place in places]
    shifts: list[int] = []
    histogram = [0] * (limit + 1)
    for place in places:
        before, after = old.names(place, limit), new.names(place, limit)
        shared = set(before) & set(after)
        histogram[len(shared)] += 1
        shifts += [abs(before.index(name) - after.index(name)) for name in shared]
    return Agreement(
        overlap=round(sum(overlaps) / len(overlaps), 4),
        histogram=histogram,
        first_same=round(sum(same_first) / len(same_first), 4),
        mean_shift=round(sum(shifts) / len(shifts), 3) if shifts else 0.0,
    )


def _differences(old: Sequence[dict[str, float]], new: Sequence[dict[str, float]]) -> list[Difference]:
    """Measure by measure, paired question by question."""
    found: list[Difference] = []
    for measure in old[0] if old else ():
        before, after = [one[measure] for one in old], [one[measure] for one in new]
        gap = interval([b - a for a, b in zip(before, after, strict=True)])
        verdict = "better" if gap.low > 0 else "worse" if gap.high < 0 else "unclear"
        found.append(
            Difference(
                measure=measure,
                old=_mean(before),
                new=_mean(after),
                difference=gap.mean,
                low=gap.low,
                high=gap.high,
                verdict=verdict,
            )
        )
    return found


def _thresholds(old: Side, new: Side, asked: Sequence[float]) -> list[Threshold]:
    """For each threshold of the old model the one of the new that lets through the same share of its results."""
    import numpy as np

    before, after = old.similarities(), new.similarities()
    found = []
    for threshold in sorted({*USUAL_THRESHOLDS, *asked}):
        share = float((before >= threshold).mean()) if len(before) else 0.0
        # Where the old one lets nothing through, or everything, there is nothing to match.
        matched = float(np.quantile(after, 1 - share)) if len(after) and 0 < share < 1 else None
        found.append(
            Threshold(old=threshold, share=round(share, 4), new=None if matched is None else round(matched, 4))
        )
    return found


def _side_report(side: Side, limit: int, judged: Sequence[dict[str, float]], edges: NDArray[np.float64]) -> SideReport:
    generation = side.generation
    return SideReport(
        role=generation.role.value,
        model=generation.model,
        dimension=generation.dimension,
        latency=_latency(side),
        similarities=_similarities(side, limit, edges),
        index_recall=side.index_recall,
        suggested_threshold=side.suggested_threshold,
        quality={measure: _mean([one[measure] for one in judged]) for measure in judged[0]} if judged else None,
    )


def _latency(side: Side) -> Latency:
    import numpy as np

    embedding = np.quantile(side.embedding_seconds, [0.5, 0.95]) * 1000
    database = np.quantile(side.database_seconds, [0.5, 0.95]) * 1000
    return Latency(
        embedding_p50=round(float(embedding[0]), 2),
        embedding_p95=round(float(embedding[1]), 2),
        database_p50=round(float(database[0]), 2),
        database_p95=round(float(database[1]), 2),
    )


def _edges(old: Side, new: Side) -> NDArray[np.float64]:
    """The edges of the bars, the same for both sides: shape (BINS + 1,)."""
    import numpy as np

    every = np.concatenate([old.similarities(), new.similarities()])
    low, high = (float(every.min()), float(every.max())) if len(every) else (0.0, 1.0)
    return np.linspace(low, max(high, low + 1e-6), BINS + 1)


def _similarities(side: Side, limit: int, edges: NDArray[np.float64]) -> Similarities:
    import numpy as np

    counts, _ = np.histogram(side.similarities(), bins=edges)
    first = [answer[0].cosine for answer in side.answers if answer]
    last = [answer[:limit][-1].cosine for answer in side.answers if answer]
    return Similarities(
        first_median=round(float(np.median(first)), 4) if first else 0.0,
        last_median=round(float(np.median(last)), 4) if last else 0.0,
        edges=[round(float(edge), 5) for edge in edges],
        counts=[int(count) for count in counts],
    )


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4)
