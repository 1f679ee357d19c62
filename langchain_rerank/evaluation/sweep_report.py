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
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from langchain_rerank.evaluation.measures import FEWEST, Draws, Estimate, estimate
from langchain_rerank.evaluation.tables import NOTHING, Shown, more_questions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt
    import pandas as pd

    Numbers = npt.NDArray[np.float64]

FIRST_STAGE_ALONE = "the first stage alone"
_REPEATS, _FOLDS = 10, 5


class Setting(NamedTuple):
    """One way to set up the second stage; `str` says what to do."""

    model: str
    """Its name, or that of the first stage alone."""
    fetch_k: int
    """How many candidates are scored; for the first stage alone, how many documents it returns."""
    first_stage_weight: float

    def __str__(self) -> str:
        if self.model == FIRST_STAGE_ALONE:
            return self.model
        weight = self.first_stage_weight
        mixed = f" with first_stage_weight {weight:g}" if weight else ""
        return f"{self.fetch_k} candidates reranked by {self.model}{mixed}"


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Which setting to take, what to expect of it, and what others cost; `str` says it all."""

    setting: Setting
    """What is recommended."""
    plain: Setting
    """Plain reranking by the first model at the largest depth."""
    over_plain: Estimate
    """What to expect over plain reranking, on other queries."""
    over_first_stage: Estimate
    """What to expect over the first stage alone, on other queries."""
    plain_over_first_stage: Estimate
    """What plain reranking does here: it hurts where this is below 0."""
    cheaper: Setting | None
    """The best of those that take half of the time or less."""
    better: Setting | None
    """The one of the highest mean here, if another one is recommended."""
    words: str = ""

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Sweep(Shown):
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
    draws: Draws
    """Of the bootstrap: confidence, resamples and seed."""
    per_query: pd.DataFrame
    """The measure: a row a query, a column a setting (model, fetch_k, first_stage_weight), the
    first stage alone first, then a model after the other, by rising depth and weight."""
    seconds: pd.DataFrame
    """Of the same shape, what each query took: retrieval, as deep as the largest `fetch_k`, and
    scoring. A run made elsewhere counts no retrieval."""
    summary: pd.DataFrame
    """A row a setting: its numbers as `to_dataframe` has them."""
    notes: Sequence[str] = ()
    """What a reader should know before trusting the numbers."""

    def __repr__(self) -> str:
        return (
            f"Sweep(dataset={self.dataset!r}, queries={len(self.per_query)}, "
            f"measure={self.measure!r}, settings={len(self.summary)})"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row a setting, the first stage alone first.

        Columns: model, fetch_k, first_stage_weight; the measure's mean under its name, "<measure>
        low" and "<measure> high"; "p50 ms" and "p95 ms".
        """
        return self.summary.reset_index()

    def recommend(self, tolerance: float = 0) -> Recommendation:
        """Return the setting to take; the first stage alone takes part.

        Args:
            tolerance: Take the cheapest setting (of the lowest median latency, then of the smallest
                `fetch_k`) that loses no more than this, in units of the measure.

        Raises:
            ValueError: `tolerance` is negative or not finite.
        """
        if not 0 <= tolerance < math.inf:
            msg = f"tolerance must be a finite number of at least 0, got {tolerance!r}"
            raise ValueError(msg)
        values, settings = self.per_query.to_numpy().T, [Setting(*one) for one in self.per_query]
        costs, means = self.seconds.median().tolist(), values.mean(axis=1)
        model = settings[min(1, len(settings) - 1)].model
        plain = max(n for n, one in enumerate(settings) if one[::2] == (model, 0))

        def choose(some: Numbers) -> int:
            bounds = _cautious(some, plain)
            # A difference that is the tolerance to the last digit is within it.
            close = np.flatnonzero(bounds.max() - bounds <= tolerance + 1e-12).tolist()
            return int(min(close, key=lambda n: (costs[n], settings[n].fetch_k, n != plain)))

        chosen, best = choose(values), int(means.argmax())
        expected = _held_out(values, choose, self.draws["seed"])
        # What differs by no more than rounding doesn't differ; adding 0 takes the sign from a zero.
        gain, total, effect = (
            (after - values[before]).round(12) + 0.0
            for after, before in ((expected, plain), (expected, 0), (values[plain], 0))
        )
        # That the first stage alone costs less needs no saying.
        fast = [n for n in range(1, len(settings)) if costs[n] <= costs[chosen] / 2]
        found = Recommendation(
            setting=settings[chosen],
            plain=settings[plain],
            over_plain=estimate(gain, **self.draws),
            over_first_stage=estimate(total, **self.draws),
            plain_over_first_stage=estimate(effect, **self.draws),
            cheaper=settings[max(fast, key=means.__getitem__)] if fast else None,
            better=settings[best] if means[best] > means[chosen] else None,
        )
        return replace(found, words=self._words(found, more_questions(gain)))

    def _words(self, found: Recommendation, more: str) -> str:
        """Say the setting, what it is worth, and what it costs."""
        setting, plain, gain = found.setting, found.plain_over_first_stage, found.over_plain
        text = ""
        if plain.high < 0:
            text = f"Plain reranking hurts here: {self.measure} {plain:+.4f} against the first "
            text += "stage. Leave it out or mix, as said next, or try another model. "
        text += f"Take {setting}: {self.measure} {self._estimate(setting):.4f}, "
        text += f"{self._cost(setting)}. On other questions expect {found.over_first_stage:+.4f} "
        text += "over the first stage alone"
        text += "." if setting == found.plain else f", {gain:+.4f} over {found.plain}."
        if setting != found.plain and gain.low <= 0 <= gain.high:
            text += more
        if (count := len(self.per_query)) < FEWEST:
            text += f" But {count} questions are too few to tell: judge {FEWEST} or more."
        for name, other in (("Cheaper", found.cheaper), ("Better here", found.better)):
            if other is not None:
                change = self._estimate(other).mean - self._estimate(setting).mean
                text += f" {name}: {other}, {change:+.4f}, {self._cost(other)}."
        return text

    def _estimate(self, setting: Setting) -> Estimate:
        return Estimate(*self.summary.loc[setting].iloc[:3])

    def _cost(self, setting: Setting) -> str:
        middle, slow = self.summary.loc[setting, ["p50 ms", "p95 ms"]]
        return f"{middle:,.0f} ms a question (p95 {slow:,.0f} ms)" if slow else "not timed"

    def chosen(self) -> dict[Setting, Setting]:
        """Return for each model and depth, plain, the setting of the weight found for it."""
        found = {}
        for _, group in self.per_query.T.groupby(level=["model", "fetch_k"], sort=False):
            best = int(_cautious(group.to_numpy(), 0).argmax())
            found[Setting(*group.index[0])] = Setting(*group.index[best])
        return found

    def _introduction(self) -> list[str]:
        tried = f"{self.title}, {self.k} documents returned, {self.measure} with {self.intervals}."
        return [str(self.recommend()), tried]

    def _tables(self) -> dict[str, pd.DataFrame]:
        """Lay out a row for each model and depth: plain reranking, and the weight found."""
        import pandas as pd

        rows = []
        for plain, best in self.chosen().items():
            depth, weight = str(plain.fetch_k), f"{best.first_stage_weight:g}"
            mixed = f"{self._estimate(best).mean:.4f}"
            if plain.model == FIRST_STAGE_ALONE:
                depth = weight = mixed = NOTHING
            times = self.summary.loc[plain, ["p50 ms", "p95 ms"]]
            shown = [f"{ms:,.0f}" if times.any() else NOTHING for ms in times]
            rows.append([plain.model, depth, f"{self._estimate(plain):.4f}", weight, mixed, *shown])
        columns = ["system", "fetch_k", self.measure, "best weight", "with it", "p50 ms", "p95 ms"]
        return {"Quality against latency": pd.DataFrame(rows, columns=columns)}


def summarize(
    values: pd.DataFrame, seconds: pd.DataFrame, measure: str, draws: Draws
) -> pd.DataFrame:
    """Average over the queries of a sweep: a row a setting."""
    ends = [measure, f"{measure} low", f"{measure} high"]
    summary = values.apply(lambda one: estimate(one, **draws), result_type="expand").T
    times = seconds.quantile([0.5, 0.95]).T * 1000
    return summary.set_axis(ends, axis=1).join(times.set_axis(["p50 ms", "p95 ms"], axis=1))


def _cautious(values: Numbers, reference: int) -> Numbers:
    """Return what each setting (rows) gains over one of them, less a standard error."""
    gains = values - values[reference]
    count = values.shape[1]
    bounds: Numbers = gains.mean(axis=1) - gains.std(axis=1, ddof=count > 1) / math.sqrt(count)
    return bounds


def _held_out(values: Numbers, choose: Callable[[Numbers], int], seed: int) -> Numbers:
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
