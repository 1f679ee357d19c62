"""What a sweep found: quality against latency for each setting, and which to take."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from html import escape
from typing import TYPE_CHECKING

from langchain_rerank.evaluation.extra import require_eval
from langchain_rerank.evaluation.rendering import (
    Table,
    html_table,
    markdown_table,
    percent,
    queries,
    with_interval,
)
from langchain_rerank.evaluation.sweep_records import Recommendation, Trial, WeightChoice

if TYPE_CHECKING:
    import pandas as pd


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
        require_eval("pandas", purpose="A sweep's data frame")
        import pandas as pd

        eligible = self._eligible()
        rows = [
            {**self._row(trial), "eligible": trial in eligible}
            for trial in (self.first_stage, *self.trials)
        ]
        return pd.DataFrame(rows)

    def to_markdown(self) -> str:
        """Return the table, a row for each model and depth, as GitHub's Markdown."""
        parts = [self._summary(), markdown_table(self.table()), str(self.recommend())]
        parts += [f"- {note}" for note in self.notes]
        return "\n\n".join(parts) + "\n"

    def _repr_html_(self) -> str:
        texts = [str(self.recommend()), *self.notes]
        after = "".join(f"<p>{escape(text)}</p>" for text in texts)
        return f"<div><p>{escape(self._summary())}</p>{html_table(self.table())}{after}</div>"

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

    def table(self) -> Table:
        """Lay out a row for each model and depth: plain reranking, and the weight found."""
        weights = ("weight tried", "its gain", "weight") if self.weight_choices else ()
        headings = ("system", "fetch_k", self.measure, *weights, "p50 ms", "p95 ms")
        plain = [trial for trial in self.trials if trial.setting.first_stage_weight == 0]
        rows = []
        for trial in (self.first_stage, *plain):
            choice = self._choice(trial)
            found = (
                [
                    f"{choice.best_weight:g}",
                    with_interval(choice.judging_gain, choice.judging_interval, "+.4f"),
                    f"{choice.weight:g}",
                ]
                if choice
                else ["–"] * len(weights)
            )
            rows.append(
                (
                    trial.setting.system,
                    str(trial.setting.fetch_k) if trial.setting.model else "–",
                    with_interval(trial.mean, trial.interval),
                    *found,
                    *(
                        f"{trial.latency_ms(percent):,.0f}" if any(trial.seconds) else "–"
                        for percent in (50, 95)
                    ),
                )
            )
        return Table("Quality against latency", headings, tuple(rows))


def _cost(trial: Trial) -> tuple[float, int]:
    return trial.latency_ms(), trial.setting.fetch_k


def _mean_or_nan(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
