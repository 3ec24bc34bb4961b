"""One ranking of two: by meaning (cosine) and by words (coverage).

    score = (cosine − c50) / (c1 − c50) + 1.5 · coverage

c1 is the cosine of the nearest tool and c50 that of the fiftieth, so that the scale of a model (0.1 … 0.5 for one,
0.6 … 0.8 for another) makes no difference. Coverage is the share of the question's words that a tool has, a rare word
counting more: Σ ln(1 + N/n) over its words, divided by the same sum over *all* words of the question, those that no
tool has included (with n = ½). That last is what makes it safe: where a question is put in words of its own, every
coverage is small, and the vectors decide.

Measured (MRR@10 / recall@5) on the bundled 250 tools with 298 questions that avoid a tool's own words, and on 1,853
functions with 1,909 questions of the Berkeley function calling leaderboard, whose questions quote them; with the
built-in model and with all-MiniLM-L6-v2:

                                             250 tools                    1,853 functions
                                             built-in       MiniLM        built-in       MiniLM
    vectors alone                            .557 / .717    .673 / .807   .617 / .757    .621 / .783
    words alone (coverage)                   .358 / .432    .358 / .432   .635 / .750    .635 / .750
    0.9 cosine + 0.1 Σidf / best             .540 / .696    .653 / .805   .678 / .811    .694 / .843
    0.8 cosine + 0.2 Σidf / best             .503 / .646    .581 / .733   .696 / .819    .715 / .849
    this                                     .557 / .730    .672 / .812   .665 / .796    .683 / .831

Dividing the sum by the best tool's, as in the third and fourth line, gives the best tool full marks however little of
the question it has. On questions that quote the tools that is better still; on the others it is worse than the vectors
alone, and nobody knows beforehand which kind is asked.

Tried as well, and no better on both sets by more than .01: coverage to the power of 1.25 to 3, coverage weighed by how
near a tool is, rarities to the power of ½ to 2, words of the name, the description or the parameters counting more
than others, and dividing by the length of the description. The weight of 1.5 is where the first set is best: 2 to 4
give the second up to .69 / .82 and take up to .03 / .05 from the first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from toolbox_cli.domain.models import SearchHit

#: How many of the nearest set the scale, and are candidates; as many of those with the best coverage are, too.
DEPTH = 50
#: What full coverage is worth, in units of the distance from the fiftieth to the first by meaning.
COVERAGE_WEIGHT = 1.5


def fuse(nearest: Sequence[SearchHit], others: Iterable[SearchHit], coverage: Mapping[int, float]) -> list[SearchHit]:
    """The candidates with their scores, best first: ``nearest`` by meaning, best first, and ``others``.

    A tool that has no vector yet counts as the fiftieth by meaning.
    """
    cosines = [hit.similarity for hit in nearest[: DEPTH + 1] if hit.similarity is not None]
    top, bottom = (cosines[0], cosines[-1]) if cosines else (1.0, 0.0)
    scale = top - bottom

    def score(hit: SearchHit) -> float:
        if hit.similarity is None:
            meaning = 0.0
        elif scale > 0:
            meaning = (hit.similarity - bottom) / scale
        else:
            meaning = 1.0 if hit.similarity >= top else 0.0
        return meaning + COVERAGE_WEIGHT * coverage.get(hit.id, 0.0)

    def judged(hit: SearchHit) -> SearchHit:
        words = round(coverage.get(hit.id, 0.0), 4)
        return hit.model_copy(update={"score": round(score(hit), 4), "coverage": words})

    scored = [judged(hit) for hit in (*nearest, *others)]
    return sorted(scored, key=lambda hit: (-(hit.score or 0.0), -(hit.similarity or -1.0), hit.id))
