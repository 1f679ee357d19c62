"""How well scores tell relevant passages from others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from langchain_rerank.evaluation.plots.style import (
    BLUE,
    ORANGE,
    bare,
    faded,
    head,
    ink,
    name_of,
    new_figure,
)
from langchain_rerank.evaluation.rendering import queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from langchain_rerank.evaluation.report import Report

_BINS = 40
_TAIL = 1e-6
"""Where the axis of log-odds ends: a score of 0 or 1 has none."""
_TICKS = (1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)


def plot_scores(
    report: Report, system: str | None = None, *, threshold: float | None = None
) -> Figure:
    """Draw the distribution of scores of relevant, of other and of unjudged passages.

    A passage counts once for each query that it was scored for. Scores that are all between 0 and
    1, as a sigmoid gives them, are spread out by their log-odds.

    Args:
        report: Where the scores are.
        system: Whose scores; None takes the first system that reranks.
        threshold: Draw this `score_threshold`, and say how precise what is kept would be, and how
            much of what is relevant among the scored passages it keeps. Unjudged passages count
            as not relevant, as they do in the measures.

    Raises:
        ValueError: There is no such system, it has no scores, or none reranks, or the threshold
            is not a finite number.
        MissingDependencyError: The extra `eval` is not installed.
    """
    if threshold is not None and not math.isfinite(threshold):
        msg = f"threshold must be a finite number, got {threshold!r}"
        raise ValueError(msg)
    system = _system(report, system)
    groups = _groups(report, system)
    scale = _Scale.of([score for group in groups for score in group.scores])

    figure = new_figure(7.2, 1.35 * len(groups) + 1.15)
    panels = figure.subplots(len(groups), 1, squeeze=False, sharex=True).flatten().tolist()
    for axes, group in zip(panels, groups, strict=True):
        _draw(axes, group, scale, threshold)
    last = panels[-1]
    if scale.log_odds:
        last.set_xticks(
            scale.places(scale.ticks()), [f"{tick:.5f}".rstrip("0") for tick in scale.ticks()]
        )
    ends = [*scale.edges, *([] if threshold is None else scale.places([threshold]))]
    last.set_xlim(min(ends), max(ends))
    last.set_xlabel(f"score{' (spaced by log-odds)' if scale.log_odds else ''}")
    figure.supylabel("passages", fontsize="medium")
    head(
        figure,
        f"Scores of {system}, {queries(len(report.queries))}{name_of(report)}",
        "" if threshold is None else _verdict(groups, threshold),
    )
    return figure


@dataclass(frozen=True, slots=True)
class _Group:
    """Scores of the passages of one kind."""

    name: str
    scores: Sequence[float]
    color: str
    relevant: bool = False

    def kept(self, threshold: float) -> int:
        """Return how many scores reach a threshold."""
        return sum(score >= threshold for score in self.scores)


@dataclass(frozen=True, slots=True)
class _Scale:
    """Where scores stand on the horizontal axis."""

    log_odds: bool
    edges: Sequence[float]
    """Of the bins, in places of the axis."""

    @classmethod
    def of(cls, scores: Sequence[float]) -> _Scale:
        """Choose the axis: log-odds where all scores are between 0 and 1, else as they are."""
        log_odds = min(scores) >= 0 and max(scores) <= 1
        places = _log_odds(scores) if log_odds else np.asarray(scores, float)
        return cls(log_odds, np.histogram_bin_edges(places, bins=_BINS).tolist())

    def places(self, scores: Sequence[float]) -> list[float]:
        """Return where scores stand, in units of the axis."""
        return _log_odds(scores).tolist() if self.log_odds else list(scores)

    def ticks(self) -> list[float]:
        """Return the round scores within the axis, for log-odds."""
        low, high = self.edges[0], self.edges[-1]
        return [tick for tick in _TICKS if low <= self.places([tick])[0] <= high]


def _log_odds(scores: Sequence[float]) -> npt.NDArray[np.float64]:
    inside = np.clip(np.asarray(scores, float), _TAIL, 1 - _TAIL)
    odds: npt.NDArray[np.float64] = np.log(inside / (1 - inside))
    return odds


def _system(report: Report, system: str | None) -> str:
    """Return the system whose scores to draw."""
    if system is None:
        if report.reranking_systems:
            return report.reranking_systems[0]
        msg = "no system of this report reranks: name the one whose scores to draw"
        raise ValueError(msg)
    if system not in report.systems:
        msg = f"no system {system!r} in this report, which has {list(report.systems)}"
        raise ValueError(msg)
    return system


def _groups(report: Report, system: str) -> list[_Group]:
    """Sort the scores by what is known of the passage; leave out what nothing belongs to."""
    least = report.settings.min_relevance
    relevant: list[float] = []
    others: list[float] = []
    unjudged: list[float] = []
    for query, found in report.systems[system].rankings.items():
        grades = report.qrels[query]
        for one in found:
            if one.score is None:
                continue
            grade = grades.get(one.id)
            group = unjudged if grade is None else relevant if grade >= least else others
            group.append(one.score)
    groups = [
        _Group(f"relevant (grade {least} or above)", relevant, BLUE, relevant=True),
        _Group(f"judged not relevant (below grade {least})", others, ORANGE),
        _Group("not judged", unjudged, faded(0.5)),
    ]
    if not (relevant or others or unjudged):
        msg = f"system {system!r} has no scores: draw those of one that reranks"
        raise ValueError(msg)
    return [group for group in groups if group.scores]


def _draw(axes: Axes, group: _Group, scale: _Scale, threshold: float | None) -> None:
    counts, _ = np.histogram(scale.places(group.scores), scale.edges)
    axes.stairs(counts, scale.edges, fill=True, color=group.color, alpha=0.85)
    label = f"{len(group.scores):,}"
    if threshold is not None:
        [place] = scale.places([threshold])
        axes.axvline(place, color=ink(), linewidth=1.2, dashes=(5, 3))
        label = f"{group.kept(threshold):,} of {label} kept"
    axes.set_title(f"{group.name}: {label}", loc="left", fontsize="small", color=ink(), pad=3)
    bare(axes)
    axes.locator_params(axis="y", nbins=4, integer=True)
    axes.grid(axis="y", color=faded(0.12))


def _verdict(groups: Sequence[_Group], threshold: float) -> str:
    """Say what a threshold keeps."""
    kept = sum(group.kept(threshold) for group in groups)
    relevant = sum(len(group.scores) for group in groups if group.relevant)
    hits = sum(group.kept(threshold) for group in groups if group.relevant)
    precision = f"{hits / kept:.3f}" if kept else "–"
    recall = f"{hits / relevant:.3f}" if relevant else "–"
    return f"Threshold {threshold:g}: precision {precision}, recall {recall} of the scored passages"
