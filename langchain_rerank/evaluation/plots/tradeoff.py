"""Quality against latency."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from langchain_rerank.evaluation.plots.style import (
    COLORS,
    MARKERS,
    bare,
    faded,
    head,
    name_of,
    new_figure,
    plain,
    wrapped,
)
from langchain_rerank.evaluation.report import Report
from langchain_rerank.evaluation.tables import STAGES, percent, queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from langchain_rerank.evaluation.statistics import Interval
    from langchain_rerank.evaluation.sweep_report import Sweep

_LOGARITHMIC_FROM = 8
"""Ratio of the longest to the shortest latency."""
_MANY = 12
"""With more points than this only those on the frontier have labels and intervals."""


@dataclass(frozen=True, slots=True)
class _Point:
    """A system or setting, its quality and what it costs."""

    label: str
    latency: float
    """Median, in milliseconds; NaN if it was not measured."""
    mean: float
    interval: Interval | None = None
    series: str = ""
    """Points of one series share a colour and a marker."""
    minor: bool = False
    """A small dot without a label, not on the frontier."""
    recommended: bool = False


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
    known = results.settings.measures if isinstance(results, Report) else (results.measure,)
    measure = known[0] if measure is None else measure
    if measure not in known:
        msg = f"no measure {measure!r} here, expected one of {list(known)}"
        raise ValueError(msg)
    if isinstance(results, Report):
        stage, confidence = _stage(results, stage), results.settings.confidence
        points, count = _of_report(results, measure, stage), len(results.queries)
    else:
        points, count = _of_sweep(results, stage), len(results.first_stage.per_query)
        confidence = results.confidence
    timed = [point for point in points if math.isfinite(point.latency)]
    if not timed:
        msg = "nothing here was timed: evaluate retrievers or a RerankedRun"
        raise ValueError(msg)
    best = _frontier(timed)

    figure = new_figure(7.6, 4.7 + 0.24 * len({point.series for point in timed}))
    axes = figure.subplots()
    _draw_axes(axes, timed, measure, stage)
    _draw_references(axes, [point for point in points if point not in timed])
    _draw_points(axes, timed, best)
    bars = f"bars: {percent(confidence)} bootstrap intervals; " if count > 1 else ""
    head(
        figure,
        f"{measure} against latency, {queries(count)}{name_of(results.dataset)}",
        f"{bars}filled points: none is both better and faster",
    )
    _draw_legend(axes, timed)
    _draw_frontier(axes, timed, best)
    return figure


def _of_report(report: Report, measure: str, stage: str) -> list[_Point]:
    points = []
    for name, result in report.systems.items():
        seconds = result.seconds.get(stage)
        latency = float(np.median(seconds)) * 1000 if seconds else math.nan
        found = result.summaries[measure]
        points.append(_Point(name, latency, found.mean, found.interval))
    return points


def _stage(report: Report, stage: str | None) -> str:
    """Return the stage whose latencies are compared."""
    timed = [set(result.seconds) for result in report.systems.values() if result.seconds]
    stages = sorted(set().union(*timed))
    common = [one for one in STAGES if all(one in found for found in timed)]
    if stage is None and common:
        return common[-1]
    if stage not in stages:
        what = f"no system has a stage {stage!r}" if stage else "the systems have none in common"
        msg = f"expected a stage to compare, one of {stages}: {what}"
        raise ValueError(msg)
    return stage


def _of_sweep(sweep: Sweep, stage: str | None) -> list[_Point]:
    if stage is not None:
        msg = f"a sweep has one latency, of retrieval and scoring, got the stage {stage!r}"
        raise ValueError(msg)
    recommended, eligible = sweep.recommend().trial, sweep.to_dataframe()["eligible"]
    points = []
    for trial, chosen in zip((sweep.first_stage, *sweep.trials), eligible, strict=True):
        setting = trial.setting
        first = setting.model is None
        weight = f" ({setting.first_stage_weight:g})" if setting.first_stage_weight else ""
        points.append(
            _Point(
                label=setting.system if first else f"{setting.fetch_k}{weight}",
                # A run made elsewhere counts no retrieval.
                latency=trial.latency_ms() or math.nan,
                mean=trial.mean,
                interval=trial.interval,
                series="" if first else setting.system,
                minor=not chosen,
                recommended=trial is recommended,
            )
        )
    return points


def _frontier(points: Sequence[_Point]) -> list[_Point]:
    """Return the points than which none is both better and as fast, by rising latency."""
    best: list[_Point] = []
    for point in sorted(points, key=lambda point: (point.latency, -point.mean)):
        if not point.minor and (not best or point.mean > best[-1].mean):
            best.append(point)
    return best


def _draw_axes(axes: Axes, points: Sequence[_Point], measure: str, stage: str | None) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    latencies = [point.latency for point in points]
    if min(latencies) > 0 and max(latencies) / min(latencies) >= _LOGARITHMIC_FROM:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    what = "" if stage in (None, "total") else f" of {stage}"
    axes.set(xlabel=f"median latency{what} (ms a query)", ylabel=measure)
    bare(axes, "both")
    axes.margins(x=0.14, y=0.14)


def _draw_references(axes: Axes, points: Sequence[_Point]) -> None:
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


def _looks(points: Sequence[_Point]) -> dict[str, tuple[str, str]]:
    """Return colour and marker by series; points of none have the colour of text."""
    names = dict.fromkeys(point.series for point in points if point.series)
    looks = {
        name: (COLORS[i % len(COLORS)], MARKERS[(i + i // len(COLORS)) % len(MARKERS)])
        for i, name in enumerate(names)
    }
    return looks | {"": (COLORS[0] if not names else faded(1), "o" if not names else "X")}


def _draw_points(axes: Axes, points: Sequence[_Point], best: Sequence[_Point]) -> None:
    looks = _looks(points)
    main = [point for point in points if not point.minor]
    for series, (color, _) in looks.items():
        line = sorted(
            (point for point in main if point.series == series), key=lambda point: point.latency
        )
        if series:
            xs, ys = [point.latency for point in line], [point.mean for point in line]
            axes.plot(xs, ys, color=color, linewidth=1, alpha=0.6, zorder=2)
    for point in points:
        color, marker = looks[point.series]
        if point.interval and point in (best if len(points) > _MANY else main):
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
            axes.plot(point.latency, point.mean, color=faded(1), gid="recommended", **ring)


def _draw_legend(axes: Axes, points: Sequence[_Point]) -> None:
    """Name the series below the axes, and say what the labels and the ring are."""
    from matplotlib.lines import Line2D

    handles: dict[str, dict[str, Any]] = {
        wrapped(series): {"color": color, "marker": marker, "markersize": 7, "linewidth": 1}
        for series, (color, marker) in _looks(points).items()
        if series
    }
    if not handles:
        return
    handles["frontier"] = {"color": faded(0.4), "linewidth": 3}
    dot: dict[str, Any] = {"linestyle": "none", "markerfacecolor": "none"}
    if any(point.minor for point in points):
        handles["other weights"] = {"color": faded(), "marker": ".", "markersize": 4, **dot}
    if any(point.recommended for point in points):
        handles["recommended"] = {"color": faded(1), "marker": "o", "markersize": 11, **dot}
    weights = " (first_stage_weight)" if any("(" in p.label for p in points if p.series) else ""
    axes.figure.legend(
        [Line2D([], [], **look) for look in handles.values()],
        list(handles),
        title=f"numbers: fetch_k{weights}",
        loc="outside lower left",
        ncols=2,
        frameon=False,
        fontsize="small",
        title_fontsize="small",
        alignment="left",
    )


def _draw_frontier(axes: Axes, points: Sequence[_Point], best: Sequence[_Point]) -> None:
    """Draw the frontier to the right edge, and label the points."""
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
    for point in best if len(main) > _MANY else main:
        # Above the frontier there is nothing, below it are the other points.
        above = point in best
        axes.annotate(
            wrapped(point.label, 24),
            (point.latency, point.mean),
            xytext=(-5, 5) if above else (5, -5),
            textcoords="offset points",
            ha="right" if above else "left",
            va="bottom" if above else "top",
            fontsize="small",
        )
