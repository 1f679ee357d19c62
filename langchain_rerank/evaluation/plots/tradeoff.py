"""Quality against latency."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from langchain_rerank.evaluation.plots.labels import place_labels
from langchain_rerank.evaluation.plots.points import frontier, of_report, of_sweep
from langchain_rerank.evaluation.plots.style import (
    COLORS,
    MARKERS,
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
from langchain_rerank.evaluation.report import Report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from langchain_rerank.evaluation.plots.points import Point, Tradeoff
    from langchain_rerank.evaluation.sweep_report import Sweep

_LOGARITHMIC_FROM = 8
"""Ratio of the longest to the shortest latency."""
_LONG_NAME = 24
"""From this many letters on a legend has two columns instead of four."""
_SAMPLES = 15
"""Places along a line that labels better keep free."""
_CROWD = 24
"""With more points than this only those on the frontier are labelled."""
_MANY = 12
"""With more points than this only those on the frontier have their intervals drawn."""


def plot_tradeoff(
    results: Report | Sweep, *, measure: str | None = None, stage: str | None = None
) -> Figure:
    """Draw quality against median latency, with the frontier: the best there is for the time.

    Points on the frontier are filled: no other setting is both better and faster. What has no
    latency, such as a run made elsewhere, is a dashed line at its height. Of a `Sweep`, each model
    is a line over `fetch_k`, which stands at the points, in brackets the `first_stage_weight` that
    was found, where it isn't 0; small dots are other weights that were tried, a ring is the
    recommended setting.

    Args:
        results: What to draw: a report has a point for each system.
        measure: Which one; None takes the first.
        stage: For a report, whose latency: "retrieval", "reranking" or "total"; None takes the
            last of these that all timed systems have.

    Raises:
        ValueError: There is no such measure or stage, nothing was timed, or no stage is common to
            all timed systems.
        MissingDependencyError: The extra `eval` is not installed.
    """
    if isinstance(results, Report):
        found = of_report(results, measure, stage)
    else:
        found = of_sweep(results, measure, stage)
    timed = [point for point in found.points if math.isfinite(point.latency)]
    if not timed:
        msg = "nothing here was timed: evaluate retrievers or a RerankedRun"
        raise ValueError(msg)
    best = frontier(timed)

    figure = new_figure(7.6, 4.7 + 0.24 * len({point.series for point in timed}))
    axes = figure.subplots()
    _draw_axes(axes, timed, found)
    _draw_references(axes, [point for point in found.points if point not in timed])
    _draw_points(axes, timed, best)
    bars = f"bars: {percent(found.confidence)} bootstrap intervals; " if found.queries > 1 else ""
    head(
        figure,
        f"{found.measure} against latency, {queries(found.queries)}{name_of(results)}",
        f"{bars}filled points: none is both better and faster",
    )
    _draw_legend(axes, timed)
    _draw_frontier_and_labels(axes, timed, best)
    return figure


def _draw_axes(axes: Axes, points: Sequence[Point], found: Tradeoff) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    latencies = [point.latency for point in points]
    if min(latencies) > 0 and max(latencies) / min(latencies) >= _LOGARITHMIC_FROM:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    what = "" if found.stage in (None, "total") else f" of {found.stage}"
    axes.set_xlabel(f"median latency{what} (ms a query)")
    axes.set_ylabel(found.measure)
    bare(axes)
    axes.grid(color=faded(0.12))
    axes.margins(x=0.12, y=0.12)


def _draw_references(axes: Axes, points: Sequence[Point]) -> None:
    """Draw what was not timed as a line at its height."""
    for point in points:
        axes.axhline(point.mean, color=faded(), linewidth=1, dashes=(5, 4), zorder=1)
        axes.annotate(
            f"{plain(point.label)} (not timed)",
            *((1, point.mean), (-3, 3)),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            ha="right",
            fontsize="small",
            color=faded(0.75),
        )


def _looks(points: Sequence[Point]) -> dict[str, tuple[str, str]]:
    """Return colour and marker by series; points of none have the colour of text."""
    names = dict.fromkeys(point.series for point in points if point.series)
    looks = {
        name: (COLORS[i % len(COLORS)], MARKERS[(i + i // len(COLORS)) % len(MARKERS)])
        for i, name in enumerate(names)
    }
    return looks | {"": (COLORS[0] if not names else ink(), "o" if not names else "X")}


def _draw_points(axes: Axes, points: Sequence[Point], best: Sequence[Point]) -> None:
    looks = _looks(points)
    for series, (color, _) in looks.items():
        line = [point for point in points if point.series == series and not point.minor]
        if series:
            line.sort(key=lambda point: point.latency)
            xs, ys = [point.latency for point in line], [point.mean for point in line]
            axes.plot(xs, ys, color=color, linewidth=1, alpha=0.6, zorder=2)
    bars = _with_bars(points, best)
    for point in points:
        color, marker = looks[point.series]
        if point in bars and point.interval is not None:
            ends = [point.interval.low, point.interval.high]
            axes.plot([point.latency] * 2, ends, color=color, linewidth=1.2, alpha=0.35, zorder=2)
        axes.plot(
            *(point.latency, point.mean),
            gid=f"{point.series} {point.label}".strip(),
            marker="." if point.minor else marker,
            markersize=4 if point.minor else 8,
            color=color,
            markerfacecolor=color if point.minor or point in best else axes.get_facecolor(),
            alpha=0.6 if point.minor else 1,
            linestyle="none",
            zorder=3,
        )
        if point.recommended:
            ring: dict[str, Any] = {"marker": "o", "markersize": 17, "markerfacecolor": "none"}
            axes.plot(point.latency, point.mean, color=ink(), gid="recommended", **ring)


def _draw_legend(axes: Axes, points: Sequence[Point]) -> None:
    """Name the series below the axes, and say what the labels and the ring are."""
    from matplotlib.lines import Line2D

    looks = _looks(points)
    handles: list[Line2D] = []
    names = []
    for series, (color, marker) in looks.items():
        if series:
            handles.append(Line2D([], [], color=color, marker=marker, markersize=7, linewidth=1))
            names.append(wrapped(series))
    if not names:
        return
    handles.append(Line2D([], [], color=faded(0.4), linewidth=3))
    names.append("frontier")
    if any(point.minor for point in points):
        handles.append(Line2D([], [], color=faded(), marker=".", markersize=4, linestyle="none"))
        names.append("other weights")
    if any(point.recommended for point in points):
        ring = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "linestyle": "none"}
        handles.append(Line2D([], [], color=ink(), **ring))  # type: ignore[arg-type]  # mixed
        names.append("recommended")
    weights = " (first_stage_weight)" if any("(" in p.label for p in points if p.series) else ""
    axes.figure.legend(
        handles,
        names,
        title=f"numbers: fetch_k{weights}",
        loc="outside lower left",
        ncols=2 if max(map(len, names)) > _LONG_NAME else 4,
        frameon=False,
        fontsize="small",
        title_fontsize="small",
        alignment="left",
    )


def _draw_frontier_and_labels(axes: Axes, points: Sequence[Point], best: Sequence[Point]) -> None:
    """Draw the frontier to the right edge, and label all points but small dots."""
    axes.autoscale_view()
    left, right = axes.get_xlim()
    if axes.get_xscale() == "linear":
        left, right = 0.0, 1.25 * max(point.latency for point in points)
    axes.set(xlim=(left, right), ylim=axes.get_ylim())
    xs, ys = [point.latency for point in best], [point.mean for point in best]
    axes.plot(
        *([*xs, right], [*ys, ys[-1]]),
        drawstyle="steps-post",
        gid="frontier",
        color=faded(0.4),
        linewidth=3,
        alpha=0.6,
        zorder=1,
    )
    main = [point for point in points if not point.minor]
    # The frontier's points come first: where room is short theirs are the better places.
    main.sort(key=lambda point: point not in best)
    place_labels(
        axes,
        [(point.latency, point.mean) for point in main],
        [wrapped(p.label, 24) if len(main) <= _CROWD or p in best else "" for p in main],
        avoid=[*_along_bars(points, best), *_along_steps([*xs, right], [*ys, ys[-1]])],
    )


def _with_bars(points: Sequence[Point], best: Sequence[Point]) -> list[Point]:
    """Return the points whose intervals are drawn."""
    shown = best if len(points) > _MANY else [point for point in points if not point.minor]
    return [point for point in shown if point.interval is not None]


def _along_bars(points: Sequence[Point], best: Sequence[Point]) -> list[tuple[float, float]]:
    return [
        (point.latency, y)
        for point in _with_bars(points, best)
        if point.interval is not None
        for y in np.linspace(point.interval.low, point.interval.high, _SAMPLES).tolist()
    ]


def _along_steps(xs: Sequence[float], ys: Sequence[float]) -> list[tuple[float, float]]:
    places = []
    for x, following, y, higher in zip(xs[:-1], xs[1:], ys[:-1], ys[1:], strict=True):
        places += [(one, y) for one in np.geomspace(x, following, _SAMPLES).tolist()]
        places += [(following, one) for one in np.linspace(y, higher, _SAMPLES).tolist()]
    return places
