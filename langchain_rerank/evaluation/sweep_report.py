"""What a sweep found: quality against latency for each setting, and which to take.

The best of many settings looks better than it is, and choosing on one half of the queries throws
the other half away. So all queries choose, plain reranking at the largest depth stays unless
another setting gains more than one standard error (the rule of Breiman et al., "Classification and
Regression Trees", 1984), and what the choice is worth is measured by repeated cross-validation
(Stone, "Cross-validatory choice and assessment of statistical predictions", 1974): each query by
choices that it had no say in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from langchain_rerank.evaluation import tables
from langchain_rerank.evaluation.measures import Interval, bootstrap_interval
from langchain_rerank.evaluation.tables import NOTHING, percent, queries, with_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import pandas as pd

    Numbers = npt.NDArray[np.float64]

_REPEATS, _FOLDS = 10, 5


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to set up the second stage; `str` says what to do."""

    model: str | None
    """Its name; None for the first stage alone."""
    fetch_k: int
    """How many candidates are scored; for the first stage alone, how many documents it returns."""
    first_stage_weight: float

    def __str__(self) -> str:
        if self.model is None:
            return "the first stage alone"
        weight = self.first_stage_weight
        mixed = f" with first_stage_weight {weight:g}" if weight else ""
        return f"{self.fetch_k} candidates reranked by {self.model}{mixed}"


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

    @property
    def cost(self) -> str:
        """The latency in words."""
        if not any(self.seconds):
            return "not timed"
        return f"{self.latency_ms():,.0f} ms a question (p95 {self.latency_ms(95):,.0f} ms)"


@dataclass(frozen=True, slots=True)
class Gain:
    """A mean difference over queries, in units of the measure."""

    mean: float
    interval: Interval | None
    """Bootstrap interval; None for a single query."""
    questions_needed: int | None
    """About how many questions would tell a difference of this size from none."""

    def __str__(self) -> str:
        return with_interval(self.mean, self.interval, "+.4f")


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Which setting to take, what to expect of it, and what others cost; `str` says it all."""

    trial: Trial
    """What is recommended."""
    plain: Trial
    """Plain reranking by the first model at the largest depth."""
    over_plain: Gain
    """What to expect over plain reranking, on other queries."""
    over_first_stage: Gain
    """What to expect over the first stage alone, on other queries."""
    plain_over_first_stage: Gain
    """What plain reranking does here: it hurts where this is below 0."""
    cheaper: Trial | None
    """The best of those that take half of the time or less."""
    better: Trial | None
    """The one of the highest mean here, if another one is recommended."""
    measure: str

    def __str__(self) -> str:
        """Say the setting, what it is worth, and what it costs."""
        trial, plain = self.trial, self.plain_over_first_stage
        text = ""
        if plain.interval and plain.interval.high < 0:
            text = f"Plain reranking hurts here: {self.measure} {plain} against the first stage. "
            text += "Leave it out or mix, as said next, or try another model. "
        mean = with_interval(trial.mean, trial.interval)
        text += f"Take {trial.setting}: {self.measure} {mean}, {trial.cost}."
        text += f" On other questions expect {self.over_first_stage} over the first stage alone"
        gain = self.over_plain
        if trial is not self.plain:
            text += f", {gain} over {self.plain.setting}"
        text += "."
        if gain.questions_needed and gain.interval and gain.interval.low <= 0 <= gain.interval.high:
            needed = gain.questions_needed
            text += f" About {needed:,} questions would tell that from plain reranking."
        for name, other in (("Cheaper", self.cheaper), ("Better here", self.better)):
            if other is not None:
                change = other.mean - trial.mean
                text += f" {name}: {other.setting}, {change:+.4f}, {other.cost}."
        return text


@dataclass(frozen=True, slots=True)
class Sweep:
    """The outcome of `sweep`; shows itself as a table in Jupyter, the recommendation on top.

    Latencies are of scoring in steps, a depth after the other, and so a little above those of one
    call for all candidates. Means are over the queries on which settings are chosen: what to expect
    on others is what `recommend` says.
    """

    dataset: str
    """The data set's name."""
    measure: str
    k: int
    """How many documents each setting returned."""
    draws: Mapping[str, Any]
    """Of the bootstrap: confidence, resamples and seed."""
    first_stage: Trial
    """The first `k` documents as they came."""
    trials: tuple[Trial, ...]
    """A model after the other, by rising depth, then weight."""
    notes: tuple[str, ...] = ()
    """What a reader should know before trusting the numbers."""

    def __repr__(self) -> str:
        return (
            f"Sweep(dataset={self.dataset!r}, queries={len(self.first_stage.per_query)}, "
            f"measure={self.measure!r}, trials={len(self.trials)})"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row a trial, the first stage alone first.

        Columns: model, fetch_k, first_stage_weight; the measure's mean under its name, "<measure>
        low" and "<measure> high"; "p50 ms" and "p95 ms".
        """
        return tables.pandas().DataFrame(
            {
                **asdict(trial.setting),
                self.measure: trial.mean,
                f"{self.measure} low": trial.interval.low if trial.interval else math.nan,
                f"{self.measure} high": trial.interval.high if trial.interval else math.nan,
                "p50 ms": trial.latency_ms(50),
                "p95 ms": trial.latency_ms(95),
            }
            for trial in (self.first_stage, *self.trials)
        )

    def to_markdown(self) -> str:
        """Return the recommendation and the table as GitHub's Markdown."""
        return tables.markdown(self.conclusions(), [self.table()], self.notes)

    def _repr_html_(self) -> str:
        return tables.html(self.conclusions(), [self.table()], self.notes)

    def conclusions(self) -> list[str]:
        """Return the recommendation in words, then what was tried."""
        name = f"{self.dataset}: " if self.dataset else ""
        tried = (
            f"{name}{queries(len(self.first_stage.per_query))}, {self.k} documents returned, "
            f"{self.measure} with {percent(self.draws['confidence'])} bootstrap intervals."
        )
        return [str(self.recommend()), tried]

    def recommend(self, tolerance: float = 0) -> Recommendation:
        """Return the setting to take; the first stage alone takes part.

        Args:
            tolerance: Take the cheapest setting (of the lowest median latency, then of the smallest
                `fetch_k`) that loses no more than this, in units of the measure.

        Raises:
            ValueError: `tolerance` is negative or not finite.
        """
        if not (math.isfinite(tolerance) and tolerance >= 0):
            msg = f"tolerance must be a finite number of at least 0, got {tolerance!r}"
            raise ValueError(msg)
        every = [self.first_stage, *self.trials]
        values = np.array([list(trial.per_query.values()) for trial in every])
        costs = [(one.latency_ms(), one.setting.fetch_k) for one in every]
        model = every[-1 if len(every) == 1 else 1].setting.model
        plain = max(
            n for n, one in enumerate(every) if one.setting.model == model and not weight_of(one)
        )

        def choose(some: Numbers) -> int:
            bounds = _cautious(some, plain)
            # A difference that is the tolerance to the last digit is within it.
            close = np.flatnonzero(bounds.max() - bounds <= tolerance + 1e-12).tolist()
            return int(min(close, key=lambda place: (costs[place], place != plain)))

        trial = every[choose(values)]
        expected = _held_out(values, choose, self.draws["seed"])
        best = max(every, key=lambda one: one.mean)
        # That the first stage alone costs less needs no saying.
        fast = [one for one in self.trials if one.latency_ms() <= trial.latency_ms() / 2]
        return Recommendation(
            trial=trial,
            plain=every[plain],
            over_plain=self._gain(expected - values[plain]),
            over_first_stage=self._gain(expected - values[0]),
            plain_over_first_stage=self._gain(values[plain] - values[0]),
            cheaper=max(fast, key=lambda one: one.mean, default=None),
            better=best if best.mean > trial.mean else None,
            measure=self.measure,
        )

    def _gain(self, differences: Numbers) -> Gain:
        # What differs by no more than rounding doesn't differ; adding 0 takes the sign from a zero.
        differences = differences.round(12) + 0.0
        values = differences.tolist()
        interval = bootstrap_interval(values, **self.draws)
        return Gain(float(differences.mean()), interval, tables.questions_needed(values))

    def chosen(self) -> list[Trial]:
        """Return the first stage alone, and for each model and depth the trial of its weight."""
        groups: dict[tuple[str | None, int], list[Trial]] = {}
        for trial in self.trials:
            groups.setdefault((trial.setting.model, trial.setting.fetch_k), []).append(trial)
        found = [self.first_stage]
        for group in groups.values():
            values = np.array([list(trial.per_query.values()) for trial in group])
            found.append(group[int(_cautious(values, 0).argmax())])
        return found

    def table(self) -> tables.Table:
        """Lay out a row for each model and depth: plain reranking, and the weight found."""
        plain = [self.first_stage, *(one for one in self.trials if not weight_of(one))]
        rows: list[Sequence[object]] = []
        for trial, best in zip(plain, self.chosen(), strict=True):
            setting = trial.setting
            times = [f"{trial.latency_ms(one):,.0f}" for one in (50, 95)]
            rows.append(
                (
                    setting.model or setting,
                    setting.fetch_k if setting.model else NOTHING,
                    with_interval(trial.mean, trial.interval),
                    f"{weight_of(best):g}" if setting.model else NOTHING,
                    f"{best.mean:.4f}" if setting.model else NOTHING,
                    *(times if any(trial.seconds) else [NOTHING, NOTHING]),
                )
            )
        columns = ("system", "fetch_k", self.measure, "best weight", "with it", "p50 ms", "p95 ms")
        return "Quality against latency", tables.frame(rows, columns)


def weight_of(trial: Trial) -> float:
    """Return a trial's first-stage weight."""
    return trial.setting.first_stage_weight


def _cautious(values: Numbers, reference: int) -> Numbers:
    """Return what each setting (rows) gains over one of them, less a standard error."""
    gains = values - values[reference]
    count = values.shape[1]
    bounds: Numbers = gains.mean(axis=1) - gains.std(axis=1, ddof=count > 1) / math.sqrt(count)
    return bounds


def _held_out(values: Numbers, choose: Any, seed: int) -> Numbers:
    """Return what a choice is worth on each query (column), of choices without it."""
    count = values.shape[1]
    rng = np.random.default_rng(seed)
    found = np.zeros(count)
    for _ in range(_REPEATS):
        fold = rng.permutation(count) % _FOLDS
        for number in np.unique(fold):
            # One query alone has no others to choose by.
            others = values[:, fold != number] if count > 1 else values
            found[fold == number] += values[choose(others), fold == number] / _REPEATS
    return found
