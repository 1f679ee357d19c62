"""Figures of lines: one query's documents from rank to rank, and quality against latency."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from langchain_rerank.evaluation.plots import (
    BLUE,
    COLORS,
    ORANGE,
    bare,
    faded,
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

    from langchain_rerank.evaluation.measures import Interval
    from langchain_rerank.evaluation.sweep_report import Sweep

_ROW = 0.27
_CUT = 0.8
"""Rows between the last rank shown and the first document below it."""
_SNIPPET = 75
_LOGARITHMIC_FROM = 8
"""Ratio of the longest to the shortest latency."""


def plot_rank_movement(
    report: Report, query_id: str, system: str | None = None, *, depth: int = 10
) -> Figure:
    """Draw where reranking moved one query's documents: a line from old to new rank for each.

    Shown are the documents among the first `depth` of either ranking. Those that come from
    further down or go there start or end below a dashed line, at their true ranks. Relevant
    documents have thick blue lines, and each disc holds the grade.

    Args:
        report: The old ranks are its first system's.
        query_id: Which query.
        system: The system with the new ranks; None takes the second one.
        depth: How many ranks of either ranking to show.

    Raises:
        ValueError: There is no such query or system, only one system, no document to show, or
            `depth` is not positive.
        MissingDependencyError: The extra `eval` is not installed.
    """
    system = report.other_system(system)
    moves = report.moves(query_id, system, depth=depth, unmoved=True)
    if not moves:
        msg = f"neither '{report.baseline}' nor '{system}' returned a document for {query_id!r}"
        raise ValueError(msg)
    old = _heights({move.id: move.old_rank for move in moves}, depth)
    new = _heights({move.id: move.new_rank for move in moves}, depth)
    rows = max(*old.values(), *new.values())
    measure = report.settings.measures[0]
    before, after = (
        f"{plain(name)} {report.systems[name].per_query[measure][query_id]:.4f}"
        for name in (report.baseline, system)
    )
    title = f"Ranks before and after: {report.queries[query_id]}"
    figure = new_figure(10, rows * _ROW + 1.4, title, f"{measure}: {before} → {after}")
    axes = figure.subplots()
    axes.set(xlim=(-0.15, 2.9), ylim=(rows + 0.8, 0.3))
    axes.axis("off")
    handles = {}
    for move in moves:
        start, end = old[move.id], new[move.id]
        meaning, look = _look(move.grade, report.settings.min_relevance)
        [line] = axes.plot([0, 1], [start, end], gid=move.id, marker="o", markersize=5, **look)
        handles[meaning] = line
        disc: Any = {"boxstyle": "circle,pad=0.25", "facecolor": look["color"], "linewidth": 0}
        grade = "?" if move.grade is None else str(move.grade)
        small: Any = {"va": "center_baseline", "fontsize": "small"}
        axes.text(1, end, grade, ha="center", color="white", bbox=disc, **small)
        for x, y, rank in ((-0.04, start, move.old_rank), (1.11, end, move.new_rank)):
            axes.text(x, y, "–" if rank is None else str(rank), ha="right", **small)
        snippet = plain(move.text) or plain(move.id)
        cut = snippet if len(snippet) <= _SNIPPET else snippet[:_SNIPPET].rstrip("\\ .,") + "…"
        axes.text(1.14, end, cut, **small)
    if rows > depth:
        y = depth + (1 + _CUT) / 2
        axes.axhline(y, color=faded(0.4), linewidth=0.8, dashes=(6, 4))
        axes.text(2.9, y, f"below rank {depth}", ha="right", va="top", fontsize="x-small")
    axes.legend(handles.values(), handles, loc="upper left", bbox_to_anchor=(0, 0), ncols=4)
    return figure


def _heights(ranks: Mapping[str, int | None], depth: int) -> dict[str, float]:
    """Return each document's row: its rank, or if that is below the cut, the next one there."""
    inside = {one: float(rank) for one, rank in ranks.items() if rank and rank <= depth}
    below = [one for one in ranks if one not in inside]
    below.sort(key=lambda one: (ranks[one] is None, ranks[one] or 0))
    return inside | {one: depth + _CUT + row for row, one in enumerate(below, start=1)}


def _look(grade: int | None, least: int) -> tuple[str, dict[str, Any]]:
    """Return what a grade means, and how its line looks."""
    if grade is None:
        return "not judged", {"color": faded(0.45), "linewidth": 1.0, "linestyle": ":"}
    if grade <= 0:
        return "grade 0", {"color": faded(0.45), "linewidth": 1.0}
    if grade < least:
        return "lower grade", {"color": ORANGE, "linewidth": 1.4, "linestyle": "--"}
    width = min(2.0 + 0.8 * (grade - least), 4.0)
    return f"relevant (grade {least} or above)", {"color": BLUE, "linewidth": width}


@dataclass(frozen=True, slots=True)
class _Point:
    """A system or setting, its quality and its median latency in ms; NaN if it was not timed."""

    label: str
    latency: float
    mean: float
    interval: Interval | None
    series: str = ""
    """Points of one series share a colour and a line."""
    recommended: bool = False


def plot_tradeoff(
    results: Report | Sweep, *, measure: str | None = None, stage: str | None = None
) -> Figure:
    """Draw quality against median latency, with the frontier: the best there is for the time.

    Points on the frontier are filled: no other setting is both better and faster. What has no
    latency, such as a run made elsewhere, is a dashed line at its height. Of a `Sweep`, each model
    is a line over `fetch_k`, which stands at the points, in brackets the `first_stage_weight` that
    is best there, where it isn't 0; a ring is the recommended setting.

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
    is_report = isinstance(results, Report)
    known = results.settings.measures if isinstance(results, Report) else (results.measure,)
    measure = known[0] if measure is None else measure
    if measure not in known:
        msg = f"no measure {measure!r} here, expected one of {list(known)}"
        raise ValueError(msg)
    if isinstance(results, Report):
        stage, points = _of_report(results, measure, stage)
        confidence, count = results.settings.confidence, len(results.queries)
    else:
        points = _of_sweep(results, stage)
        confidence, count = results.draws["confidence"], len(results.first_stage.per_query)
    timed = sorted((one for one in points if one.latency > 0), key=lambda one: one.latency)
    if not timed:
        msg = "nothing here was timed: evaluate retrievers or a RerankedRun"
        raise ValueError(msg)
    bars = f"bars: {percent(confidence)} bootstrap intervals; " if count > 1 else ""
    figure = new_figure(
        7.6,
        5.2,
        f"{measure} against latency, {queries(count)}{name_of(results.dataset)}",
        f"{bars}filled points: none is both better and faster",
        "" if is_report else "numbers: fetch_k (first_stage_weight); ring: recommended",
    )
    axes = figure.subplots()
    if timed[-1].latency / timed[0].latency >= _LOGARITHMIC_FROM:
        axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    what = "" if stage in (None, "total") else f" of {stage}"
    axes.set(
        xlabel=f"median latency{what} (ms a query)", ylabel=measure, xmargin=0.14, ymargin=0.14
    )
    bare(axes, "both")
    for point in points:
        if point not in timed:
            axes.axhline(point.mean, color=faded(), linewidth=1, dashes=(5, 4), zorder=1)
            label = f"{plain(point.label)} (not timed)"
            axes.text(
                1,
                point.mean,
                label,
                transform=axes.get_yaxis_transform(),
                ha="right",
                fontsize="small",
            )
    best = [
        one
        for n, one in enumerate(timed)
        if one.mean > max((p.mean for p in timed[:n]), default=-math.inf)
    ]
    _draw_points(axes, timed, best)
    left, right = axes.get_xlim()
    xs, ys = [*(one.latency for one in best), right], [*(one.mean for one in best), best[-1].mean]
    look: Any = {"color": faded(0.4), "linewidth": 3, "alpha": 0.6, "zorder": 1}
    axes.plot(xs, ys, drawstyle="steps-post", gid="frontier", **look)
    axes.set_xlim(left, right)
    return figure


def _draw_points(axes: Axes, points: Sequence[_Point], best: Sequence[_Point]) -> None:
    """Draw points by series, each with its label: above those of the frontier, below others."""
    names = list(dict.fromkeys(point.series for point in points if point.series))
    colors = {name: COLORS[place % len(COLORS)] for place, name in enumerate(names)}
    for name, color in colors.items():
        line = [point for point in points if point.series == name]
        xs, ys = [point.latency for point in line], [point.mean for point in line]
        axes.plot(xs, ys, color=color, linewidth=1, label=wrapped(name), zorder=2)
    for point in points:
        color = colors.get(point.series, faded(1) if names else BLUE)
        if point.interval:
            ends = [point.interval.low, point.interval.high]
            axes.plot([point.latency] * 2, ends, color=color, linewidth=1.2, alpha=0.35, zorder=2)
        face = color if point in best else axes.get_facecolor()
        look: Any = {"marker": "o", "color": color, "markerfacecolor": face, "linestyle": "none"}
        gid = f"{point.series} {point.label}".strip()
        axes.plot(point.latency, point.mean, gid=gid, markersize=8, zorder=3, **look)
        if point.recommended:
            ring = {**look, "color": faded(1), "markerfacecolor": "none"}
            axes.plot(point.latency, point.mean, gid="recommended", markersize=17, **ring)
        side = 5 if point in best else -5
        axes.annotate(
            wrapped(point.label, 24),
            (point.latency, point.mean),
            xytext=(-side, side),
            textcoords="offset points",
            ha="right" if point in best else "left",
            va="bottom" if point in best else "top",
            fontsize="small",
        )
    if names:
        axes.figure.legend(loc="outside lower left", ncols=2, frameon=False, fontsize="small")


def _of_report(report: Report, measure: str, stage: str | None) -> tuple[str, list[_Point]]:
    """Return the stage whose latencies are compared, and the systems."""
    timed = [set(result.seconds) for result in report.systems.values() if result.seconds]
    stages = sorted(set().union(*timed))
    common = [one for one in STAGES if all(one in found for found in timed)]
    if stage is None and common:
        stage = common[-1]
    if stage is None or (stages and stage not in stages):
        what = f"no system has a stage {stage!r}" if stage else "the systems have none in common"
        msg = f"expected a stage to compare, one of {stages}: {what}"
        raise ValueError(msg)
    points = []
    for name, result in report.systems.items():
        seconds, found = result.seconds.get(stage), result.summaries[measure]
        latency = float(np.median(seconds)) * 1000 if seconds else math.nan
        points.append(_Point(name, latency, found.mean, found.interval))
    return stage, points


def _of_sweep(sweep: Sweep, stage: str | None) -> list[_Point]:
    if stage is not None:
        msg = f"a sweep has one latency, of retrieval and scoring, got the stage {stage!r}"
        raise ValueError(msg)
    recommended, chosen = sweep.recommend().trial, sweep.chosen()
    points = []
    for trial in chosen if recommended in chosen else [*chosen, recommended]:
        setting, weight = trial.setting, trial.setting.first_stage_weight
        label = f"{setting.fetch_k} ({weight:g})" if weight else str(setting.fetch_k)
        points.append(
            _Point(
                label if setting.model else str(setting),
                # A run made elsewhere counts no retrieval.
                trial.latency_ms() or math.nan,
                trial.mean,
                trial.interval,
                setting.model or "",
                trial is recommended,
            )
        )
    return points
