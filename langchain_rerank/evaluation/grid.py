"""The settings of a sweep, and the trials that scored candidates give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from langchain_rerank.evaluation.measures import per_query_values
from langchain_rerank.evaluation.statistics import bootstrap_interval
from langchain_rerank.evaluation.sweep_records import Setting, Trial, WeightChoice
from langchain_rerank.evaluation.systems import as_ranking

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    import ir_measures
    from langchain_core.documents import Document

    from langchain_rerank.evaluation.contenders import Contender
    from langchain_rerank.evaluation.pools import Pool, ScoredPool
    from langchain_rerank.evaluation.statistics import Interval


@dataclass(frozen=True, slots=True)
class Grid:
    """What to try, and how to measure it."""

    qrels: Mapping[str, Mapping[str, int]]
    measure: ir_measures.Measure
    depths: Sequence[int]
    """Rising."""
    weights: Sequence[float]
    """Rising from 0."""
    k: int
    id_key: str | None
    confidence: float
    resamples: int
    seed: int

    def first_stage(self, pools: Sequence[Pool]) -> Trial:
        """Measure the first `k` documents as they came."""
        rankings = {pool.query_id: self._ids(pool.documents[: self.k]) for pool in pools}
        seconds = tuple(pool.seconds for pool in pools)
        return self._trial(Setting(None, None, self.k, 0.0), rankings, seconds)

    def trials(self, contender: Contender, scored: Sequence[ScoredPool]) -> Iterator[Trial]:
        """Measure each depth and weight of one contender, by rising depth, then weight."""
        for depth in self.depths:
            seconds = tuple(one.pool.seconds + one.seconds[depth] for one in scored)
            for weight in self.weights:
                rankings = {
                    one.pool.query_id: self._ids(
                        one.rank(
                            contender.reranker, fetch_k=depth, k=self.k, first_stage_weight=weight
                        )
                    )
                    for one in scored
                }
                setting = Setting(contender.name, contender.backend, depth, weight)
                yield self._trial(setting, rankings, seconds)

    def weight_choices(
        self, trials: Sequence[Trial], choosing: Collection[str]
    ) -> Iterator[WeightChoice]:
        """Choose a weight for each model and depth on some queries, and judge it on the others.

        Args:
            trials: As `trials` gives them: those of one model and depth stand together.
            choosing: Ids of the queries to choose on.
        """
        judging = [query for query in self.qrels if query not in choosing]
        for start in range(0, len(trials), len(self.weights)):
            plain, *others = trials[start : start + len(self.weights)]
            gains = [float(np.mean(_gains(one, plain, choosing))) for one in (plain, *others)]
            # Of equal gains the first one has the smallest weight.
            best = (plain, *others)[gains.index(max(gains))]
            judged = _gains(best, plain, judging)
            yield WeightChoice(
                setting=plain.setting,
                best_weight=best.setting.first_stage_weight,
                choosing_gain=max(gains),
                judging_gain=float(np.mean(judged)),
                judging_interval=None if best is plain else self._interval(judged),
            )

    def _ids(self, documents: Sequence[Document]) -> list[str]:
        return [document.id for document in as_ranking(documents, self.id_key)[0]]

    def _trial(
        self, setting: Setting, rankings: Mapping[str, Sequence[str]], seconds: tuple[float, ...]
    ) -> Trial:
        [values] = per_query_values([self.measure], rankings, self.qrels).values()
        numbers = list(values.values())
        return Trial(setting, values, float(np.mean(numbers)), self._interval(numbers), seconds)

    def _interval(self, values: Sequence[float]) -> Interval | None:
        return bootstrap_interval(
            values, confidence=self.confidence, resamples=self.resamples, seed=self.seed
        )


def _gains(trial: Trial, plain: Trial, queries: Collection[str]) -> list[float]:
    """Return the differences to plain reranking, query by query."""
    return [trial.per_query[query] - plain.per_query[query] for query in queries]
