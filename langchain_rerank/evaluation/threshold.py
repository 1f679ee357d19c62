"""A score threshold from labelled documents, for a wanted precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from langchain_rerank.evaluation.measures import check_min_relevance

if TYPE_CHECKING:
    import numpy.typing as npt

    from langchain_rerank.evaluation.report import Report


@dataclass(frozen=True, slots=True)
class SuggestedThreshold:
    """A `score_threshold`, and what it does to the documents that it was found on."""

    threshold: float
    """For `Reranker(score_threshold=…)`: documents that score below are dropped."""
    precision: float
    """Share of relevant documents among those kept, over all queries together."""
    recall: float
    """Share of the relevant documents that are kept, of those that were scored."""
    kept_share: float
    """Share of the scored documents that are kept."""
    pairs: int
    """How many (score, grade) pairs this comes from."""
    judged: int
    """How many of them were judged; the others count as not relevant."""
    queries_left_empty: int
    """Queries of which nothing is kept, though a relevant document was scored."""
    system: str
    """Whose scores they are."""


def suggest_threshold(
    report: Report,
    system: str | None = None,
    precision: float = 0.8,
    *,
    min_relevance: int | None = None,
    unjudged: Literal["not relevant", "leave out"] = "not relevant",
) -> SuggestedThreshold:
    """Find the score from which enough of what is kept is relevant, at the smallest loss.

    Of all thresholds that reach the precision this is the one of the highest recall, half-way
    between two scores, as their rounding differs from batch to batch. Precision is that of all
    queries together: queries with many candidates count more.

    The threshold suits the model and the data that it was found on, and flatters there: look at its
    precision on queries that it was not chosen on (`Dataset.split`). Only documents that the
    system returned have scores in a report: evaluate a `RerankedRun`, or a retriever whose `k` is
    its `fetch_k`, without any threshold.

    Args:
        report: With a system that reranks.
        system: Which one; None takes the first that reranks.
        precision: Wanted share of relevant documents among those kept, above 0 and at most 1.
        min_relevance: Grade from which a document is relevant; None takes the report's.
        unjudged: What to make of documents that nobody judged: "not relevant", as the measures
            do, which is too strict where judgments are few, or "leave out".

    Raises:
        ValueError: No threshold reaches the precision (the message names the best one), the
            system is unknown or reranked nothing, or an argument is out of range.
    """
    if not 0 < precision <= 1:
        msg = f"precision must be above 0 and at most 1, got {precision!r}"
        raise ValueError(msg)
    if unjudged not in ("not relevant", "leave out"):
        msg = f"unjudged must be 'not relevant' or 'leave out', got {unjudged!r}"
        raise ValueError(msg)
    name = _reranking_system(report, system)
    least = report.settings.min_relevance if min_relevance is None else min_relevance
    check_min_relevance(least)
    pairs = [
        (query, one.score, grade)
        for query, found in report.systems[name].rankings.items()
        for one in found
        if one.was_reranked and one.score is not None
        if (grade := report.qrels[query].get(one.id)) is not None or unjudged != "leave out"
    ]
    scores = np.array([score for _, score, _ in pairs])
    relevant = np.array([grade is not None and grade >= least for *_, grade in pairs], bool)
    if not relevant.any():
        msg = (
            f"none of the {len(pairs)} documents that '{name}' scored has grade {least} or above: "
            "no threshold can be found"
        )
        raise ValueError(msg)
    threshold = _threshold(scores, relevant, precision)
    kept = scores >= threshold
    queries = np.array([query for query, *_ in pairs], object)
    return SuggestedThreshold(
        threshold=threshold,
        precision=float(relevant[kept].mean()),
        recall=float(kept[relevant].mean()),
        kept_share=float(kept.mean()),
        pairs=len(pairs),
        judged=sum(grade is not None for *_, grade in pairs),
        queries_left_empty=len({*queries[relevant]} - {*queries[kept]}),
        system=name,
    )


def _reranking_system(report: Report, system: str | None) -> str:
    """Return the name of the system whose scores to take."""
    reranking = report.reranking_systems
    if system is None and reranking:
        return reranking[0]
    if system not in reranking:
        wanted = "a system that reranks" if system is None else f"'{system}' to be one that reranks"
        msg = f"expected {wanted}, but of {list(report.systems)} these do: {reranking}"
        raise ValueError(msg)
    return system


def _threshold(
    scores: npt.NDArray[np.float64], relevant: npt.NDArray[np.bool_], precision: float
) -> float:
    """Find the threshold of the highest recall, and of these the most precise."""
    # Each distinct score is a threshold: what scores as much or more is kept.
    distinct, inverse = np.unique(scores, return_inverse=True)
    kept = np.bincount(inverse)[::-1].cumsum()[::-1]
    hits = np.bincount(inverse, weights=relevant)[::-1].cumsum()[::-1]
    precisions = hits / kept
    reached = np.flatnonzero(precisions >= precision)
    if not len(reached):
        # Rising thresholds: argmax takes the lowest one, which keeps most.
        best = int(precisions.argmax())
        msg = (
            f"no threshold reaches precision {precision:g}: the best is {precisions[best]:.4f}, "
            f"of the {kept[best]} of {len(scores)} documents that score {distinct[best]:.4g} or "
            "more. Ask for less, or for a better model"
        )
        raise ValueError(msg)
    place = int(reached[hits[reached] == hits[reached].max()].max())
    if place == 0:
        return float(distinct[0])
    below, lowest_kept = float(distinct[place - 1]), float(distinct[place])
    middle = below + (lowest_kept - below) / 2
    return middle if below < middle <= lowest_kept else lowest_kept
