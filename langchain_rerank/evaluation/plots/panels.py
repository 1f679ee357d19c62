"""Figures of a panel each: measures with their intervals, and scores by what is relevant."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from langchain_rerank.evaluation.plots.style import (
    BLUE,
    ORANGE,
    bare,
    faded,
    head,
    name_of,
    new_figure,
    plain,
    wrapped,
)
from langchain_rerank.evaluation.tables import percent, queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from langchain_rerank.evaluation.report import Report
    from langchain_rerank.evaluation.statistics import Interval

_PANELS_A_ROW = 4
_BINS = 40
_TAIL = 1e-6
"""Where the axis of log-odds ends: a score of 0 or 1 has none."""
_TICKS = (1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)


def plot_measures(report: Report, *, differences: bool = False) -> Figure:
    """Draw each measure's mean and its bootstrap interval, a panel a measure, a row a system.

    A dashed line goes down from the first system's mean. Intervals of two systems may overlap
    though one is better on nearly every query: `differences` shows the paired comparison.

    Args:
        report: What to draw; every measure has an axis of its own.
        differences: Draw the differences to the first system instead, with their intervals.

    Raises:
        ValueError: Differences are asked of a report with one system.
        MissingDependencyError: The extra `eval` is not installed.
    """
    names = [name for name in report.systems if not (differences and name == report.baseline)]
    if not names:
        msg = f"differences need two systems, this report has '{report.baseline}' alone"
        raise ValueError(msg)
    measures = report.settings.measures
    columns = min(len(measures), _PANELS_A_ROW)
    lines = -(-len(measures) // columns)
    labels = [wrapped(name) for name in names]
    row = max(0.42, 0.14 * max(label.count("\n") + 1 for label in labels) + 0.06)
    letters = max(len(line) for label in labels for line in label.split("\n"))
    width = max(columns * 2.15, 3.4) + 0.075 * letters + 0.3
    figure = new_figure(width, lines * (row * len(names) + 0.75) + 0.6)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True).flatten().tolist()
    for axes in grid[len(measures) :]:
        axes.remove()
    for axes, measure in zip(grid, measures, strict=False):
        found = [report.systems[name].summaries[measure] for name in names]
        rows = [
            (one.difference or 0.0, one.difference_interval)
            if differences
            else (one.mean, one.interval)
            for one in found
        ]
        _draw_means(axes, rows, differences=differences)
        axes.set_xlabel(plain(measure), fontsize="medium")
    for axes in grid[::columns]:
        axes.set_yticks(range(len(names)), labels)
    count = len(report.queries)
    what = f"Difference to {report.baseline}" if differences else "Mean"
    bars = f"bars: {percent(report.settings.confidence)} bootstrap intervals" if count > 1 else ""
    head(figure, f"{what} over {queries(count)}{name_of(report.dataset)}", bars)
    return figure


def _draw_means(
    axes: Axes, rows: Sequence[tuple[float, Interval | None]], *, differences: bool
) -> None:
    start = 0.0 if differences else rows[0][0]
    axes.axvline(start, color=faded(0.5), linewidth=1, dashes=(4, 3), zorder=1)
    for y, (mean, interval) in enumerate(rows):
        first = y == 0 and not differences
        color = faded(1) if first else BLUE
        if interval is not None:
            axes.plot([interval.low, interval.high], [y, y], color=color, linewidth=2)
        face = axes.get_facecolor() if first else color
        axes.plot(mean, y, "o", markersize=7, color=color, markerfacecolor=face, zorder=3)
        axes.annotate(
            f"{mean:+.4f}" if differences else f"{mean:.4f}",
            (mean, y),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            fontsize="small",
        )
    bare(axes, "x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.18)
    axes.set_ylim(len(rows) - 0.6, -0.75)
    axes.locator_params(axis="x", nbins=5)


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
    scores = [score for group in groups.values() for score in group]
    log_odds = min(scores) >= 0 and max(scores) <= 1
    places = _log_odds if log_odds else np.asarray
    edges = np.histogram_bin_edges(places(scores), bins=_BINS)
    marks = [] if threshold is None else places([threshold]).tolist()

    figure = new_figure(7.2, 1.35 * len(groups) + 1.15)
    panels = figure.subplots(len(groups), 1, squeeze=False, sharex=True).flatten().tolist()
    colors = {"r": BLUE, "j": ORANGE, "n": faded(0.5)}
    for axes, (name, group) in zip(panels, groups.items(), strict=True):
        counts, _ = np.histogram(places(group), edges)
        axes.stairs(counts, edges, fill=True, color=colors[name[0]], alpha=0.85)
        for mark in marks:
            axes.axvline(mark, color=faded(1), linewidth=1.2, dashes=(5, 3))
        kept = "" if threshold is None else f"{_kept(group, threshold):,} of "
        label = f"{name}: {kept}{len(group):,}{' kept' if kept else ''}"
        axes.set_title(label, loc="left", fontsize="small", color=faded(1), pad=3)
        bare(axes, "y")
        axes.locator_params(axis="y", nbins=4, integer=True)
    if log_odds:
        ticks = [one for one in _TICKS if edges[0] <= places([one])[0] <= edges[-1]]
        axes.set_xticks(places(ticks), [f"{tick:.5f}".rstrip("0") for tick in ticks])
    axes.set_xlim(min(*edges, *marks), max(*edges, *marks))
    axes.set_xlabel(f"score{' (spaced by log-odds)' if log_odds else ''}")
    figure.supylabel("passages", fontsize="medium")
    title = f"Scores of {system}, {queries(len(report.queries))}{name_of(report.dataset)}"
    head(figure, title, "" if threshold is None else _verdict(groups, threshold))
    return figure


def _log_odds(scores: Sequence[float]) -> npt.NDArray[np.float64]:
    inside = np.clip(np.asarray(scores, float), _TAIL, 1 - _TAIL)
    odds: npt.NDArray[np.float64] = np.log(inside / (1 - inside))
    return odds


def _system(report: Report, system: str | None) -> str:
    """Return the system whose scores to draw."""
    if system is None and not report.reranking_systems:
        msg = "no system of this report reranks: name the one whose scores to draw"
        raise ValueError(msg)
    system = report.reranking_systems[0] if system is None else system
    if system not in report.systems:
        msg = f"no system {system!r} in this report, which has {list(report.systems)}"
        raise ValueError(msg)
    return system


def _groups(report: Report, system: str) -> dict[str, list[float]]:
    """Sort the scores by what is known of the passage; leave out what nothing belongs to."""
    least = report.settings.min_relevance
    relevant = f"relevant (grade {least} or above)"
    groups: dict[str, list[float]] = {
        relevant: [],
        f"judged not relevant (below grade {least})": [],
        "not judged": [],
    }
    _, others, unjudged = groups
    for query, found in report.systems[system].rankings.items():
        for one in found:
            grade = report.qrels[query].get(one.id)
            if one.score is not None:
                name = unjudged if grade is None else relevant if grade >= least else others
                groups[name].append(one.score)
    if not any(groups.values()):
        msg = f"system {system!r} has no scores: draw those of one that reranks"
        raise ValueError(msg)
    return {name: scores for name, scores in groups.items() if scores}


def _kept(scores: Sequence[float], threshold: float) -> int:
    return sum(score >= threshold for score in scores)


def _verdict(groups: dict[str, list[float]], threshold: float) -> str:
    """Say what a threshold keeps."""
    relevant = next((found for name, found in groups.items() if name.startswith("rel")), [])
    kept, hits = sum(_kept(one, threshold) for one in groups.values()), _kept(relevant, threshold)
    precision = f"{hits / kept:.3f}" if kept else "–"
    recall = f"{hits / len(relevant):.3f}" if relevant else "–"
    return f"Threshold {threshold:g}: precision {precision}, recall {recall} of the scored passages"
