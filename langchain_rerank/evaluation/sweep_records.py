"""What a sweep consists of: trials, choices of a weight, and a recommendation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from langchain_rerank.evaluation.rendering import with_interval

if TYPE_CHECKING:
    from collections.abc import Mapping

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
