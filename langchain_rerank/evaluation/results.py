"""What a `Report` holds: plain records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from langchain_rerank.evaluation.runs import falling_scores
from langchain_rerank.evaluation.statistics import Interval  # noqa: TC001  # pydantic reads it


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """One document of a ranking."""

    id: str
    score: float | None = None
    """The cross encoder's where it was reranked, the run's where it comes from a run."""
    retrieval_rank: int | None = None
    """Its place among the reranker's candidates, from 1; None if it was not reranked."""

    @property
    def was_reranked(self) -> bool:
        """Whether its score is a cross encoder's; a score of NaN is none."""
        return self.retrieval_rank is not None and self.score is not None


@dataclass(frozen=True, slots=True)
class Summary:
    """One measure of one system over all queries, and how it compares to the first system's."""

    mean: float
    interval: Interval | None = None
    """Bootstrap interval of the mean; None for a single query."""
    difference: float | None = None
    """Mean minus the first system's; None, as what follows, for the first system itself."""
    difference_interval: Interval | None = None
    """Bootstrap interval of the difference, over queries in pairs."""
    p_value: float | None = None
    """Of the paired randomization test of the difference."""


@dataclass(frozen=True, slots=True)
class SystemResult:
    """What one system gave for each query, and what that is worth."""

    rankings: Mapping[str, tuple[RankedDocument, ...]]
    """By query id, best first; no document twice."""
    candidates: Mapping[str, tuple[str, ...]]
    """By query id, the documents that the reranker saw; without one, those of the ranking."""
    seconds: Mapping[str, tuple[float, ...]]
    """By stage ("retrieval", "reranking", "total"), one time a query; empty for a run."""
    per_query: Mapping[str, Mapping[str, float]]
    """By measure and query id; 0 for a query without results."""
    summaries: Mapping[str, Summary]
    """By measure."""
    candidate_recall: float
    """Mean recall of the candidates: the ceiling, no reranking of them can find more."""

    def run(self) -> dict[str, dict[str, float]]:
        """Return the rankings as a run, to be written by `write_run`.

        Scores are the documents' own where they fall from rank to rank; see `falling_scores`.
        """
        run = {}
        for query, ranking in self.rankings.items():
            ids = [document.id for document in ranking]
            scores = [document.score for document in ranking if document.score is not None]
            run[query] = falling_scores(ids, scores if len(scores) == len(ids) else None)
        return run


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """How an evaluation was made."""

    measures: tuple[str, ...]
    min_relevance: int
    confidence: float
    resamples: int
    seed: int
    versions: Mapping[str, str]
    """Of the packages that the numbers come from."""


@dataclass(frozen=True, slots=True)
class Move:
    """A document that stands elsewhere than in the first system's ranking."""

    id: str
    old_rank: int | None
    """From 1; None if the first system doesn't return it."""
    new_rank: int | None
    """From 1; None if the other system doesn't return it."""
    grade: int | None
    """None if nobody judged it for this query."""
    text: str
    """Empty where it is not known."""
