"""What a sweep found: quality against latency for each setting, and which to take."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from langchain_rerank.evaluation import tables
from langchain_rerank.evaluation.tables import NOTHING, percent, queries, with_interval

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from langchain_rerank.evaluation.statistics import Interval


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to set up the second stage."""

    model: str | None
    """Its name; None for the first stage alone."""
    backend: str | None
    """What runs the model, "torch" or "onnx"; None for a cross encoder that was handed over."""
    fetch_k: int
    """How many candidates are scored; for the first stage alone, how many documents it returns."""
    first_stage_weight: float

    @property
    def system(self) -> str:
        """The model and what runs it, in words."""
        if self.model is None:
            return "first stage alone"
        return self.model if self.backend is None else f"{self.model} ({self.backend})"

    def __str__(self) -> str:
        """Say what to do."""
        if self.model is None:
            return "no reranking, the first stage alone"
        return (
            f"rerank {self.fetch_k} candidates with {self.system}, "
            f"first_stage_weight {self.first_stage_weight:g}"
        )


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting, measured on all queries."""

    setting: Setting
    per_query: Mapping[str, float]
    """The measure by query id; 0 for a query without results."""
    mean: float
    interval: Interval | None
    """Bootstrap interval of the mean; None for a single query."""
    seconds: tuple[float, ...]
    """What each query took: retrieval, as deep as the largest `fetch_k`, and scoring. A run made
    elsewhere counts no retrieval."""

    def latency_ms(self, percent: float = 50) -> float:
        """Return a percentile of the latency, in milliseconds; 50 is the median."""
        return float(np.percentile(self.seconds, percent)) * 1000


@dataclass(frozen=True, slots=True)
class WeightChoice:
    """A `first_stage_weight` for a model at a depth: chosen on one half, judged on the other."""

    setting: Setting
    """The model and the depth, with weight 0."""
    best_weight: float
    """The best one on the choosing half; of equal ones the smallest."""
    choosing_gain: float
    """Its mean there, minus that of weight 0: flattering, as it was chosen for it."""
    judging_gain: float
    """The same on the other half of the queries: what to believe."""
    judging_interval: Interval | None
    """Bootstrap interval of `judging_gain`; None where the weight is 0."""

    @property
    def weight(self) -> float:
        """The best weight if its gain holds on the other half, else 0.

        It holds if its interval is above 0: plain reranking is simpler, and stays unless there is
        reason to leave it.
        """
        interval = self.judging_interval
        return self.best_weight if interval is not None and interval.low > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The cheapest setting whose measure is within a distance of the best; `str` says it."""

    trial: Trial
    """What is recommended."""
    best: Trial
    """The setting of the highest mean."""
    weight_choice: WeightChoice | None
    """How the weight was found; None for the first stage alone, or where none was tried."""
    measure: str
    tolerance: float

    def __str__(self) -> str:
        """Say the setting, what it is worth, and what the best one would cost."""
        trial, best = self.trial, self.best
        words = str(trial.setting)
        mean = with_interval(trial.mean, trial.interval)
        text = f"{words[0].upper()}{words[1:]}: {self.measure} {mean}, {_latency(trial)}."
        if trial is not best:
            text += (
                f" The best, {best.setting}, has {best.mean:.4f}, {_latency(best)}; within "
                f"{self.tolerance:g} of it the cheapest is recommended."
            )
        choice = self.weight_choice
        if choice is not None and choice.best_weight > 0:
            verdict = "holds" if choice.weight > 0 else "does not hold, so the weight is 0"
            gain = with_interval(choice.judging_gain, choice.judging_interval, "+.4f")
            text += (
                f" The weight {choice.best_weight:g} was chosen on half of the queries "
                f"({choice.choosing_gain:+.4f}); its gain on the others {verdict}: {gain}."
            )
        return text


def _latency(trial: Trial) -> str:
    if not any(trial.seconds):
        return "latency unknown"
    return f"{trial.latency_ms():,.0f} ms a query (p95 {trial.latency_ms(95):,.0f} ms)"


@dataclass(frozen=True, slots=True)
class Sweep:
    """The outcome of `sweep`; shows itself as a table in Jupyter.

    Latencies are of scoring in steps, a depth after the other, and so a little above those of one
    call for all candidates. Means with a weight above 0 are over all queries, the half on which it
    was chosen as well; `weight_choices` has the halves apart.
    """

    dataset: str
    """The data set's name."""
    measure: str
    k: int
    """How many documents each setting returned."""
    confidence: float
    """Of the intervals."""
    first_stage: Trial
    """The first `k` documents as they came."""
    trials: tuple[Trial, ...]
    """A model after the other, by rising depth, then weight."""
    weight_choices: tuple[WeightChoice, ...] = ()
    """One for each model and depth; none if no weight was tried."""
    choosing_queries: tuple[str, ...] = ()
    """Ids of the half on which weights were chosen; the others judged."""
    notes: tuple[str, ...] = ()
    """What a reader should know before trusting the numbers."""

    def __repr__(self) -> str:
        return (
            f"Sweep(dataset={self.dataset!r}, queries={len(self.first_stage.per_query)}, "
            f"measure={self.measure!r}, trials={len(self.trials)})"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row a trial, the first stage alone first.

        Columns: model, backend, fetch_k, first_stage_weight; the measure's mean under its name,
        "<measure> low" and "<measure> high"; its means "<measure> choosing half" and "<measure>
        judging half"; "p50 ms" and "p95 ms"; and eligible, whether `recommend` may take the
        setting: not, where its weight is not the one that was found.
        """
        eligible = self._eligible()
        rows = [
            {**self._row(trial), "eligible": trial in eligible}
            for trial in (self.first_stage, *self.trials)
        ]
        return tables.pandas().DataFrame(rows)

    def to_markdown(self) -> str:
        """Return the table, a row for each model and depth, as GitHub's Markdown."""
        return tables.markdown(self._summary(), [self.table()], self.conclusions())

    def _repr_html_(self) -> str:
        return tables.html(self._summary(), [self.table()], self.conclusions())

    def conclusions(self) -> list[str]:
        """Return the recommendation in words, then the notes."""
        return [str(self.recommend()), *self.notes]

    def recommend(self, tolerance: float = 0.01) -> Recommendation:
        """Return the cheapest setting whose mean is close enough to the best one's.

        The cheapest is that of the lowest median latency, then of the smallest `fetch_k`. For each
        model and depth the weight that was found stands. The first stage alone takes part: where
        reranking gains no more than the tolerance, it isn't recommended.

        Args:
            tolerance: Largest loss against the highest mean, in units of the measure.

        Raises:
            ValueError: `tolerance` is negative or not finite.
        """
        if not (math.isfinite(tolerance) and tolerance >= 0):
            msg = f"tolerance must be a finite number of at least 0, got {tolerance!r}"
            raise ValueError(msg)
        eligible = self._eligible()
        best = min(eligible, key=lambda trial: (-trial.mean, *_cost(trial)))
        # A difference of two means that is the tolerance to the last digit is within it.
        close = [one for one in eligible if best.mean - one.mean <= tolerance + 1e-12]
        trial = min(close, key=_cost)
        return Recommendation(trial, best, self._choice(trial), self.measure, tolerance)

    def _eligible(self) -> list[Trial]:
        """Return the first stage alone, and for each model and depth the trial of its weight."""
        found = [self.first_stage]
        for trial in self.trials:
            choice = self._choice(trial)
            if trial.setting.first_stage_weight == (choice.weight if choice else 0):
                found.append(trial)
        return found

    def _choice(self, trial: Trial) -> WeightChoice | None:
        plain = replace(trial.setting, first_stage_weight=0.0)
        return next((one for one in self.weight_choices if one.setting == plain), None)

    def _row(self, trial: Trial) -> dict[str, object]:
        interval = trial.interval
        halves: tuple[list[float], list[float]] = ([], [])
        for query, value in trial.per_query.items():
            halves[query not in self.choosing_queries].append(value)
        choosing, judging = halves if self.choosing_queries else ([], [])
        return {
            **asdict(trial.setting),
            self.measure: trial.mean,
            f"{self.measure} low": interval.low if interval else math.nan,
            f"{self.measure} high": interval.high if interval else math.nan,
            f"{self.measure} choosing half": _mean_or_nan(choosing),
            f"{self.measure} judging half": _mean_or_nan(judging),
            "p50 ms": trial.latency_ms(50),
            "p95 ms": trial.latency_ms(95),
        }

    def _summary(self) -> str:
        name = f"{self.dataset}: " if self.dataset else ""
        text = (
            f"{name}{queries(len(self.first_stage.per_query))}, {self.k} documents returned, "
            f"{self.measure} with {percent(self.confidence)} bootstrap intervals."
        )
        if self.weight_choices:
            text += (
                f" Weights were chosen on {queries(len(self.choosing_queries))}; their gain is "
                "that on the others."
            )
        return text

    def table(self) -> tables.Table:
        """Lay out a row for each model and depth: plain reranking, and the weight found."""
        weights = ("weight tried", "its gain", "weight") if self.weight_choices else ()
        plain = [trial for trial in self.trials if trial.setting.first_stage_weight == 0]
        rows = []
        for trial in (self.first_stage, *plain):
            setting, choice = trial.setting, self._choice(trial)
            found = [NOTHING] * len(weights)
            if choice:
                gain = with_interval(choice.judging_gain, choice.judging_interval, "+.4f")
                found = [f"{choice.best_weight:g}", gain, f"{choice.weight:g}"]
            times = [f"{trial.latency_ms(one):,.0f}" for one in (50, 95)]
            rows.append(
                (
                    setting.system,
                    setting.fetch_k if setting.model else NOTHING,
                    with_interval(trial.mean, trial.interval),
                    *found,
                    *(times if any(trial.seconds) else [NOTHING, NOTHING]),
                )
            )
        headings = ("system", "fetch_k", self.measure, *weights, "p50 ms", "p95 ms")
        return "Quality against latency", tables.frame(rows, headings)


def _cost(trial: Trial) -> tuple[float, int]:
    return trial.latency_ms(), trial.setting.fetch_k


def _mean_or_nan(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
