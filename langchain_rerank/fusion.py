"""Fusing the cross encoder's scores with the order in which the first stage gave the documents."""

from __future__ import annotations

import math
from statistics import fmean, pstdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# The sigmoid of a logit above 36 is 1.0 in double precision.
_LARGEST_LOGIT = 36.0


def fused_scores(
    scores: Sequence[float], first_stage_ranks: Sequence[int], first_stage_weight: float
) -> list[float]:
    """Mix two standardized lists: (1 - w) · z(logit) + w · z(-log(first-stage rank)).

    The first stage counts by its ranks, as LangChain's retrievers drop scores, and as the logarithm
    of a rank falls about like evidence of relevance does (Le Calvé and Savoy). The cross encoder
    counts by its scores, which tell a clear winner from a narrow one.

    Source: the weighted sum is CombSUM (Fox and Shaw, "Combination of Multiple Searches", TREC-2,
    1994) with weights; Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid
    Retrieval", TOIS 2023, compare such sums with reciprocal rank fusion; ranks by their logarithm
    are Le Calvé and Savoy's, "Database merging strategy based on logistic regression", 2000.

    Args:
        scores: The cross encoder's, of one query: logits, or 0–1. Both give the same values.
        first_stage_ranks: Of the same documents, from 1; it may have gaps.
        first_stage_weight: w; 0 gives the order of the scores, 1 that of the first stage.

    Returns:
        One value a document, higher is better, comparable within the query only; NaN where the
        score is NaN.

    Raises:
        ValueError: There are not as many ranks as scores, or a rank is below 1.
    """
    known = [
        (score, rank)
        for score, rank in zip(scores, first_stage_ranks, strict=True)
        if not math.isnan(score)
    ]
    relevance = z_scores(as_logits([score for score, _ in known]))
    retrieval = z_scores([-math.log(rank) for _, rank in known])
    mixed = (
        (1 - first_stage_weight) * ours + first_stage_weight * first
        for ours, first in zip(relevance, retrieval, strict=True)
    )
    return [math.nan if math.isnan(score) else next(mixed) for score in scores]


def as_logits(scores: Sequence[float]) -> list[float]:
    """Undo a sigmoid, so that fusion doesn't depend on a cross encoder's `normalize`.

    Sigmoids crowd near 0 and 1: standardized as they are, the best documents would seem equal, and
    a small weight of the first stage would decide among them.

    Args:
        scores: Of one query, none NaN. If all are within 0–1 they are taken for sigmoids.

    Returns:
        Finite logits: what a sigmoid no longer tells apart becomes -36 or 36, and an infinite score
        the nearest finite one.
    """
    if all(0 <= score <= 1 for score in scores):
        return [_logit(score) for score in scores]
    finite = [score for score in scores if math.isfinite(score)] or [0.0]
    low, high = min(finite), max(finite)
    return [min(max(score, low), high) for score in scores]


def z_scores(values: Sequence[float]) -> list[float]:
    """Shift and scale finite values to mean 0 and standard deviation 1; equal ones become 0."""
    # Within 1 nothing overflows, however large a score.
    largest = max(map(abs, values), default=0.0) or 1.0
    scaled = [value / largest for value in values]
    deviation = pstdev(scaled) if scaled else 0.0
    if deviation == 0:
        return [0.0] * len(values)
    mean = fmean(scaled)
    return [(value - mean) / deviation for value in scaled]


def _logit(probability: float) -> float:
    if probability in (0, 1):
        return math.copysign(_LARGEST_LOGIT, probability - 0.5)
    logit = math.log(probability) - math.log1p(-probability)
    return min(max(logit, -_LARGEST_LOGIT), _LARGEST_LOGIT)
