"""Measures with their intervals, system by system."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_rerank.evaluation.plots.style import (
    BLUE,
    bare,
    faded,
    head,
    ink,
    name_of,
    new_figure,
    plain,
    wrapped,
)
from langchain_rerank.evaluation.rendering import percent, queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from langchain_rerank.evaluation.report import Report
    from langchain_rerank.evaluation.statistics import Interval

_PANELS_A_ROW = 4
_PANEL = 2.15
_ROW = 0.42
_LETTER = 0.075
_LINE = 0.14
"""All in inches."""


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
    row = max(_ROW, _LINE * max(label.count("\n") + 1 for label in labels) + 0.06)
    letters = max(len(line) for label in labels for line in label.split("\n"))
    figure = new_figure(
        max(columns * _PANEL, 3.4) + _LETTER * letters + 0.3,
        lines * (row * len(names) + 0.75) + 0.6,
    )
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True).flatten().tolist()
    for axes in grid[len(measures) :]:
        axes.remove()
    for axes, measure in zip(grid, measures, strict=False):
        rows = [_row(report, name, measure, differences=differences) for name in names]
        _draw_panel(axes, measure, rows, differences=differences)
    for axes in grid[::columns]:
        axes.set_yticks(range(len(names)), labels)
    count = len(report.queries)
    what = f"Difference to {report.baseline}" if differences else "Mean"
    bars = f"bars: {percent(report.settings.confidence)} bootstrap intervals" if count > 1 else ""
    head(figure, f"{what} over {queries(count)}{name_of(report)}", bars)
    return figure


def _row(
    report: Report, name: str, measure: str, *, differences: bool
) -> tuple[float, Interval | None]:
    summary = report.systems[name].summaries[measure]
    if not differences:
        return summary.mean, summary.interval
    return summary.difference or 0.0, summary.difference_interval


def _draw_panel(
    axes: Axes, measure: str, rows: Sequence[tuple[float, Interval | None]], *, differences: bool
) -> None:
    start = 0.0 if differences else rows[0][0]
    axes.axvline(start, color=faded(0.5), linewidth=1, dashes=(4, 3), zorder=1)
    for y, (mean, interval) in enumerate(rows):
        first = y == 0 and not differences
        color = ink() if first else BLUE
        if interval is not None:
            axes.plot([interval.low, interval.high], [y, y], color=color, linewidth=2)
        axes.plot(
            *(mean, y),
            marker="o",
            markersize=7,
            color=color,
            markerfacecolor=axes.get_facecolor() if first else color,
            markeredgewidth=1.6,
            zorder=3,
        )
        axes.annotate(
            f"{mean:+.4f}" if differences else f"{mean:.4f}",
            (mean, y),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize="small",
            bbox={"facecolor": axes.get_facecolor(), "edgecolor": "none", "pad": 0.6},
        )
    bare(axes)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.18)
    axes.set_ylim(len(rows) - 0.6, -0.75)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(axis="x", color=faded(0.12))
    axes.set_xlabel(plain(measure), fontsize="medium")
