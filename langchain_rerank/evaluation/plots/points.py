"""Settings as points of quality and latency, and which of them are worth their time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from langchain_rerank.evaluation.rendering import STAGES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_rerank.evaluation.report import Report
    from langchain_rerank.evaluation.statistics import Interval
    from langchain_rerank.evaluation.sweep_report import Sweep


@dataclass(frozen=True, slots=True)
class Point:
    """A setting, its quality and what it costs."""

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


@dataclass(frozen=True, slots=True)
class Tradeoff:
    """Points, and what their axes are."""

    points: tuple[Point, ...]
    measure: str
    stage: str | None
    """Whose latency it is; None for all that a setting takes."""
    queries: int
    """How many."""
    confidence: float
    """Of the intervals."""


def frontier(points: Sequence[Point]) -> list[Point]:
    """Return the points than which none is both better and as fast, by rising latency."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.latency, -point.mean)):
        if not point.minor and (not best or point.mean > best[-1].mean):
            best.append(point)
    return best


def of_report(report: Report, measure: str | None, stage: str | None) -> Tradeoff:
    """Make a point of each system; see `plot_tradeoff`."""
    settings = report.settings
    measure = _measure(measure, settings.measures)
    stage = _stage(report, stage)
    points = []
    for name, result in report.systems.items():
        seconds = result.seconds.get(stage)
        latency = float(np.median(seconds)) * 1000 if seconds else math.nan
        summary = result.summaries[measure]
        points.append(Point(name, latency, summary.mean, summary.interval))
    return Tradeoff(tuple(points), measure, stage, len(report.queries), settings.confidence)


def of_sweep(sweep: Sweep, measure: str | None, stage: str | None) -> Tradeoff:
    """Make a point of each trial; see `plot_tradeoff`."""
    if stage is not None:
        msg = f"a sweep has one latency, of retrieval and scoring, got the stage {stage!r}"
        raise ValueError(msg)
    measure = _measure(measure, (sweep.measure,))
    recommended = sweep.recommend().trial
    points = []
    trials = (sweep.first_stage, *sweep.trials)
    for trial, eligible in zip(trials, sweep.to_dataframe()["eligible"], strict=True):
        setting, latency = trial.setting, trial.latency_ms()
        first = setting.model is None
        weight = f" ({setting.first_stage_weight:g})" if setting.first_stage_weight else ""
        points.append(
            Point(
                label=setting.system if first else f"{setting.fetch_k}{weight}",
                # A run made elsewhere counts no retrieval.
                latency=latency if latency > 0 else math.nan,
                mean=trial.mean,
                interval=trial.interval,
                series="" if first else setting.system,
                minor=not eligible,
                recommended=trial is recommended,
            )
        )
    queries = len(sweep.first_stage.per_query)
    return Tradeoff(tuple(points), measure, None, queries, sweep.confidence)


def _measure(measure: str | None, known: Sequence[str]) -> str:
    if measure is None:
        return known[0]
    if measure not in known:
        msg = f"no measure {measure!r} here, expected one of {list(known)}"
        raise ValueError(msg)
    return measure


def _stage(report: Report, stage: str | None) -> str:
    """Return the stage whose latencies are compared."""
    timed = [set(result.seconds) for result in report.systems.values() if result.seconds]
    stages = sorted(set().union(*timed))
    common = [one for one in STAGES if all(one in found for found in timed)]
    if stage is None and common:
        return common[-1]
    if stage is None:
        msg = f"the systems have no stage in common to compare: name a stage, one of {stages}"
        raise ValueError(msg)
    if stage not in stages:
        msg = f"no system has a stage {stage!r}, expected one of {stages}"
        raise ValueError(msg)
    return stage
