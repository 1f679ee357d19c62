"""A bench run: its settings, what was measured, and both as JSON."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from langchain_rerank.bench import hardware
from langchain_rerank.bench.measure import paired_ratio, top_overlap
from langchain_rerank.cross_encoders.processes import available_cores
from langchain_rerank.files import replacing

if TYPE_CHECKING:
    from pathlib import Path

    from langchain_rerank.bench.measure import Timing, Timings

_AGAINST = ("flag", "flashrank")
_REFERENCE = "torch"
_TOP = 10


@dataclass(frozen=True, slots=True)
class Settings:
    """What a bench run was asked for."""

    model: str
    graph: str | None
    device: str
    data: str
    queries: int
    candidates: int
    rounds: int
    tokens_a_query: float
    """Median tokens of a query's pairs together, special ones included."""


@dataclass(frozen=True, slots=True)
class SystemRow:
    """One system's figures."""

    key: str
    name: str
    dtype: str
    median_s: float
    """Seconds a query."""
    seconds: list[float]
    """Of every query, round by round."""
    pairs_per_s: float
    times_as_fast_as: dict[str, float]
    """By key of the other system: median of the paired ratios."""
    share_of_peak: float | None
    """FLOP/s, padding left out, by what the device reaches in this dtype (model FLOPs utilisation);
    None where either is not known."""
    top_10_overlap: float | None
    """Share of float32 torch's best ten that are among this system's best ten; None without it, or
    with no more than ten candidates."""
    cold_start_s: float
    peak_bytes: int | None
    peak_device_bytes: int | None
    by_candidates: dict[int, float]
    by_words: dict[int, float]


@dataclass(frozen=True, slots=True)
class BenchReport:
    """All figures of one bench run, and what they depend on."""

    settings: Settings
    systems: list[SystemRow]
    left_out: dict[str, str]
    """Reason by name of system."""
    peak_flops: dict[str, float]
    """Measured multiplications and additions a second, by dtype."""
    overhead_s: float
    """Of everything around the scoring, a query."""
    cached_s: float
    """Of a query whose scores are all in a store."""
    ndcg_at_10: dict[str, float]
    """By key of system, and "first stage"; empty without judgments."""
    processor: str
    cores: int
    versions: dict[str, str]
    commit: str | None
    command: str
    finished: str

    def row(self, key: str) -> SystemRow | None:
        """Return the figures of a system, None if it was left out."""
        return next((row for row in self.systems if row.key == key), None)


def write_reports(path: Path, reports: list[BenchReport]) -> None:
    """Write reports as a JSON list, whole or not at all."""
    text = json.dumps([asdict(report) for report in reports], indent=2, ensure_ascii=False)
    with replacing(path) as file:
        file.write(text + "\n")


def make_report(  # noqa: PLR0913  # one argument a part of it
    settings: Settings,
    timings: Timings,
    missing: dict[str, str],
    *,
    flops_a_query: list[float | None],
    overhead: tuple[float, float],
    ndcg_at_10: dict[str, float],
    command: str,
) -> BenchReport:
    """Bring the figures of a run together.

    Args:
        settings: What was asked for.
        timings: What was measured.
        missing: Systems that could not be tried, with the reason.
        flops_a_query: FLOPs of each query, in the order of the queries; None if not known.
        overhead: Seconds around the scoring, and those of a cached query.
        ndcg_at_10: By key of system.
        command: As it was typed.
    """
    return BenchReport(
        settings=settings,
        systems=[_row(one, timings, flops_a_query) for one in timings.measured],
        left_out={**missing, **timings.failed},
        peak_flops=timings.peak_flops,
        overhead_s=overhead[0],
        cached_s=overhead[1],
        ndcg_at_10=ndcg_at_10,
        processor=hardware.device_name(settings.device),
        cores=available_cores(),
        versions=hardware.versions(),
        commit=hardware.commit(),
        command=command,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _row(timing: Timing, timings: Timings, flops_a_query: list[float | None]) -> SystemRow:
    by_key = {other.system.key: other for other in timings.measured}
    reference = by_key.get(_REFERENCE)
    passages = [len(scores) for scores in timing.scores]
    pairs_per_s = [
        passages[position % len(passages)] / seconds
        for position, seconds in enumerate(timing.seconds)
    ]
    return SystemRow(
        key=timing.system.key,
        name=timing.system.name,
        dtype=timing.system.dtype,
        median_s=timing.median_s,
        seconds=timing.seconds,
        pairs_per_s=statistics.median(pairs_per_s),
        times_as_fast_as={
            key: paired_ratio(by_key[key], timing) for key in _AGAINST if key in by_key
        },
        share_of_peak=_share_of_peak(timing, timings, flops_a_query),
        top_10_overlap=_overlap(timing, reference),
        cold_start_s=timing.cold_start_s,
        peak_bytes=timing.peak.host,
        peak_device_bytes=timing.peak.device,
        by_candidates=timing.by_candidates,
        by_words=timing.by_words,
    )


def _share_of_peak(
    timing: Timing, timings: Timings, flops_a_query: list[float | None]
) -> float | None:
    peak = timings.peak_flops.get(timing.system.dtype)
    rates = [
        flops / seconds
        for position, seconds in enumerate(timing.seconds)
        if (flops := flops_a_query[position % len(flops_a_query)]) is not None
    ]
    return statistics.median(rates) / peak if peak and rates else None


def _overlap(timing: Timing, reference: Timing | None) -> float | None:
    """Compare the best ten, where there are more than these to choose from."""
    if reference is None or min(map(len, reference.scores)) <= _TOP:
        return None
    return top_overlap(timing.scores, reference.scores, _TOP)


def goals(report: BenchReport) -> list[tuple[str, str, str]]:
    """Return the figures that this project is held to: what, the figure, and the least asked."""
    rows: list[tuple[str, str, str]] = []

    def ratio(what: str, key: str, other: str, least: float) -> None:
        row = report.row(key)
        if row and other in row.times_as_fast_as:
            rows.append((what, f"{row.times_as_fast_as[other]:.1f}×", f"{least:g}×"))

    if report.settings.device == "cpu":
        ratio("int8 ONNX against FlagReranker's default", "onnx", "flag", 13)
        ratio("int8 ONNX against FlashRank on the same file", "onnx-given", "flashrank", 2.4)
        ratio("float32 torch against FlagReranker's default", "torch", "flag", 5)
    else:
        ratio("bfloat16 torch against FlagReranker fp16 default", "torch-bf16", "flag", 3)
        row = report.row("torch-bf16")
        if row and " 128 tokens" in report.settings.data:
            what = f"bfloat16 torch, {report.settings.data}"
            rows.append((what, f"{row.median_s * 1000:.1f} ms", "≤ 30 ms on an H200"))
    quality = report.ndcg_at_10
    if {"torch", "onnx"} <= quality.keys():
        lost = quality["torch"] - quality["onnx"]
        rows.append(("nDCG@10 lost by int8 against float32", f"{lost:.4f}", "≤ 0.005"))
    passages = report.settings.candidates
    rows += [
        (
            f"everything around the scoring, {passages} documents",
            f"{report.overhead_s * 1000:.1f} ms",
            "< 10 ms",
        ),
        (
            f"a fully cached query, {passages} documents",
            f"{report.cached_s * 1000:.1f} ms",
            "< 20 ms",
        ),
    ]
    return rows
