"""Score thresholds from labelled documents: promises that hold on other questions too.

A threshold that is judged by the data that it was chosen on promises too much. What is promised
here is a lower bound: what as many other questions will show 9 times of 10. Passages of one
question are alike, so questions are what is counted (the ratio estimate of cluster samples:
Cochran, "Sampling Techniques", 1977, chapter 2), and as a few questions may all be lucky, two
made-up ones are added, one all right and one all wrong (Agresti and Coull, "Approximate is better
than 'exact' for interval estimation of binomial proportions", 1998).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from langchain_rerank.evaluation.report import Report

    Array = npt.NDArray[Any]

# About the normal distribution's 95 % point times √2, as the other questions vary too. 95 instead
# of 90, as the best of many thresholds is taken: tried on random halves, see tests/halves.py.
_ERRORS = 2.4
_TRIED = 200
_TIMES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class SuggestedThreshold:
    """A `score_threshold`, and what it will do to other questions' documents."""

    threshold: float
    """For `Reranker(score_threshold=…)`: documents that score below are dropped."""
    precision: float
    """Promised share of relevant documents among those kept: as many other questions show at least
    this 9 times of 10."""
    recall: float
    """Promised share of the relevant documents that are kept, of those that were scored."""
    seen_precision: float
    """The share on the questions that it was found on, which flatters; so does `seen_recall`."""
    seen_recall: float
    kept_share: float
    """Share of the scored documents that are kept."""
    queries_left_empty: int
    """Queries of which nothing is kept, though a relevant document was scored."""
    system: str
    """Whose scores they are."""


def suggest_threshold(
    report: Report, system: str | None = None, precision: float = 0.8
) -> SuggestedThreshold:
    """Find the score from which enough of what is kept is relevant, at the smallest loss.

    Of all thresholds that can promise the precision this is the lowest, half-way between two
    scores, as their rounding differs from batch to batch. Precision is that of all queries
    together: queries with many candidates count more. Documents that nobody judged count as not
    relevant, as in the measures. It suits the model and questions like these. Only documents that
    the system returned have scores in a report: evaluate a `RerankedRun`, or a retriever whose `k`
    is its `fetch_k`, without any threshold.

    Args:
        report: With a system that reranks.
        system: Which one; None takes the first that reranks.
        precision: Wanted share of relevant documents among those kept, above 0 and below 1.

    Raises:
        ValueError: No threshold reaches the precision (the message names the best one), too few
            passages are judged to promise it (it names about how many more are needed), the
            system is unknown or reranked nothing, or the precision is out of range.
    """
    _check_share("precision", precision)
    name, scored = report.scored(system)
    scored = scored.sort_values("score", ascending=False, kind="stable")
    scores, queries = scored["score"].to_numpy(), scored["query"].factorize()[0]
    relevant = (scored["grade"] >= report.min_relevance).to_numpy()
    if not relevant.any():
        msg = (
            f"none of the {len(scores)} documents that '{name}' scored has grade "
            f"{report.min_relevance} or above: no threshold can be found"
        )
        raise ValueError(msg)
    end, bound = _last_kept(scores, relevant, queries, precision)
    lowest = float(scores[end - 1])
    below = float(scores[end]) if end < len(scores) else lowest
    middle = below + (lowest - below) / 2
    threshold = middle if middle > below else lowest
    kept = scores >= threshold
    return SuggestedThreshold(
        threshold=threshold,
        precision=bound,
        recall=lower_bound(kept[relevant], queries[relevant]),
        seen_precision=float(relevant[kept].mean()),
        seen_recall=float(kept[relevant].mean()),
        kept_share=float(kept.mean()),
        queries_left_empty=len({*queries[relevant]} - {*queries[kept]}),
        system=name,
    )


def _last_kept(scores: Array, relevant: Array, queries: Array, wanted: float) -> tuple[int, float]:
    """Find how many of the best documents can promise a precision at most, and the bound."""
    # Documents of equal score stay or go together. Not thousands of thresholds: neighbours hardly
    # differ, least where much is kept.
    ends = np.flatnonzero(np.append(scores[:-1] > scores[1:], True)) + 1  # the last
    ends = ends[np.unique(np.geomspace(1, len(ends), _TRIED).astype(int)) - 1][::-1]
    precisions = relevant.cumsum()[ends - 1] / ends
    for times in _TIMES if precisions.max() > wanted else ():
        for end in ends.tolist():
            bound = lower_bound(relevant[:end], queries[:end], times)
            if bound >= wanted and times == 1:
                return end, bound
            if bound >= wanted:
                msg = (
                    f"too few judged passages to promise precision {wanted:g}: {len(scores):,} "
                    f"were scored, about {(times - 1) * len(scores):,} more needed, of further "
                    "questions"
                )
                raise ValueError(msg)
    best = int(precisions.argmax())
    msg = (
        f"no threshold reaches precision {wanted:g}: the best is {precisions[best]:.4f}, of the "
        f"{ends[best]} of {len(scores)} documents that score {scores[ends[best] - 1]:.4g} or more. "
        "Ask for less, or for a better model"
    )
    raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class SuggestedAbstention:
    """The score of the best passage below which a chain should say that there is no answer."""

    threshold: float
    answered: float
    """Promised share of the questions with an answer that still get one."""
    refused: float
    """Promised share of the questions without an answer that are told so."""
    seen_answered: float
    """The share on the questions that it was found on, which flatters; so does `seen_refused`."""
    seen_refused: float
    questions: int
    """How many questions with an answer this comes from."""
    system: str


def suggest_abstention(
    report: Report, system: str | None = None, answered: float = 0.9
) -> SuggestedAbstention:
    """Find the score that the best passage must reach to be worth an answer.

    Questions with an answer are those with a relevant passage among the scored ones. What a
    question without an answer would look like is told by the same questions, their relevant
    passages left out.

    Args:
        report: With a system that reranks, as for `suggest_threshold`.
        system: Which one; None takes the first that reranks.
        answered: Wanted share of the questions with an answer that still get one, below 1.

    Raises:
        ValueError: There are too few questions to promise it, the system is unknown or reranked
            nothing, or `answered` is out of range.
    """
    _check_share("answered", answered)
    name, scored = report.scored(system)
    relevant = scored["grade"] >= report.min_relevance
    answerable = scored.loc[relevant, "query"].unique()
    best = scored.groupby("query")["score"].max()[answerable].to_numpy()
    others = scored[~relevant].groupby("query")["score"].max()
    without = others.reindex(answerable, fill_value=-np.inf).to_numpy()
    every = np.arange(len(best))
    # From the strictest down, so that the first one that can promise it refuses most.
    for threshold in np.unique(best)[::-1].tolist():
        kept, refused = best >= threshold, without < threshold
        if (bound := lower_bound(kept, every)) >= answered:
            return SuggestedAbstention(
                threshold=threshold,
                answered=bound,
                refused=lower_bound(refused, every),
                seen_answered=float(kept.mean()),
                seen_refused=float(refused.mean()),
                questions=len(every),
                system=name,
            )
    msg = (
        f"too few judged questions to promise that {answered:g} of them still get an answer: "
        f"{len(every)} have a relevant passage"
    )
    raise ValueError(msg)


def _check_share(name: str, share: float) -> None:
    if not 0 < share < 1:
        msg = f"{name} must be above 0 and below 1, got {share!r}"
        raise ValueError(msg)


def lower_bound(hits: Array, queries: Array, times: int = 1) -> float:
    """Return the share of hits that as many other queries will show at least, 9 times of 10.

    Args:
        hits: What counts, of shape (passages,).
        queries: Whose passage it is, the same shape.
        times: The bound for so many times as many queries.
    """
    kept = np.bincount(queries).astype(float)
    good = np.bincount(queries, weights=hits)
    # As large as the query that a passage has on the average.
    size = (kept**2).sum() / kept.sum()
    count, total = times * (kept > 0).sum() + 2, times * kept.sum() + 2 * size
    share = (times * good.sum() + size) / total
    squares = times * ((good - share * kept) ** 2).sum()
    squares += ((1 - share) * size) ** 2 + (share * size) ** 2
    error = np.sqrt(squares * count / (count - 1)) / total
    return float(max(0.0, share - _ERRORS * error))
