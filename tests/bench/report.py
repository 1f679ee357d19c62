"""The figures of a bench run: as JSON, with what they depend on, and as a table."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import statistics
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from langchain_rerank.cli.console import console
from langchain_rerank.cross_encoders.processes import available_cores
from tests.bench.measure import Timing, paired_ratio, top_overlap
from tests.bench.overhead import overhead_s
from tests.bench.systems import SYSTEMS

if TYPE_CHECKING:
    from tests.bench.systems import Pairs, Weights

_AGAINST = ("flag", "huggingface", "flashrank")
_REFERENCE = "torch"
_TOP = 10
_PACKAGES = (
    *("torch", "transformers", "onnxruntime", "FlagEmbedding", "flashrank"),
    *("sentence-transformers", "optimum-onnx", "langchain-core", "langchain-community"),
)


def make_report(
    timings: dict[str, Timing], failed: dict[str, str], queries: list[Pairs], weights: Weights
) -> dict[str, Any]:
    """Bring the figures of a run together, with what they depend on."""
    if not timings:
        reasons = "; ".join(f"{SYSTEMS[key].name}: {why}" for key, why in failed.items())
        msg = f"no system could score: {reasons}"
        raise ValueError(msg)
    return {
        "model": weights.checkpoint,
        "graph": weights.graph,
        "device": weights.device,
        "queries": len(queries),
        "candidates": max(map(len, queries)),
        "systems": {key: _figures(timing, timings, queries) for key, timing in timings.items()},
        "left_out": failed,
        "overhead_s": overhead_s(queries[0], cached=False),
        "cached_s": overhead_s(queries[0], cached=True),
        "processor": processor(weights.device),
        "cores": available_cores(),
        "versions": _versions(),
        "commit": _commit(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _figures(timing: Timing, timings: dict[str, Timing], queries: list[Pairs]) -> dict[str, Any]:
    reference = timings.get(_REFERENCE)
    rates = [
        len(queries[position % len(queries)]) / seconds
        for position, seconds in enumerate(timing.seconds)
    ]
    # With ten candidates or fewer everybody keeps the best ten.
    comparable = reference is not None and min(map(len, queries)) > _TOP
    return {
        "median_s": statistics.median(timing.seconds),
        "seconds": timing.seconds,
        "pairs_per_s": statistics.median(rates),
        "times_as_fast_as": {
            key: paired_ratio(timings[key], timing) for key in _AGAINST if key in timings
        },
        "top_10_overlap": top_overlap(timing.scores, reference.scores) if comparable else None,
        "cold_start_s": timing.cold_start_s,
        "peak_bytes": timing.peak_bytes,
    }


def print_report(report: dict[str, Any], file: Path | None, *, markdown: bool) -> None:
    """Print the figures, and write all of them to a file if one is given."""
    if file is not None:
        file.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    console.print(
        f"\n[bold]{report['queries']} queries × {report['candidates']} passages[/bold]\n"
        f"{escape(report['data'])}; {escape(report['processor'])}, {report['cores']} cores; "
        f"commit {report['commit'] or 'unknown'}"
    )
    headings, rows = _rows(report)
    if markdown:
        lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        console.print(text, markup=False, soft_wrap=True)
    else:
        table = Table(headings[0])
        for heading in headings[1:]:
            table.add_column(heading, justify="right")
        for row in rows:
            table.add_row(*map(escape, row))
        console.print(table)
    for key, reason in report["left_out"].items():
        why = " ".join(reason.split())
        console.print(f"left out: {SYSTEMS[key].name} ({why})", markup=False, soft_wrap=True)
    if report["ndcg_at_10"]:
        values = ", ".join(f"{key} {value:.4f}" for key, value in report["ndcg_at_10"].items())
        console.print(f"nDCG@10: {values}")
    console.print(
        f"around the scoring {report['overhead_s'] * 1000:.1f} ms a query, "
        f"with every score cached {report['cached_s'] * 1000:.1f} ms"
    )


def _rows(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table: the fastest system first, those that failed last."""
    systems = sorted(report["systems"].items(), key=lambda item: item[1]["median_s"])
    others = [key for key in _AGAINST if key in report["systems"]]
    headings = [
        *("system", "s/query", "pairs/s"),
        *(f"times as fast as {SYSTEMS[key].name}" for key in others),
        *("top 10 kept", "first score after", "memory"),
    ]
    rows = [
        [
            SYSTEMS[key].name,
            f"{row['median_s']:.3f}",
            f"{row['pairs_per_s']:,.0f}",
            *(f"{row['times_as_fast_as'][other]:.1f}" for other in others),
            "" if row["top_10_overlap"] is None else f"{row['top_10_overlap']:.0%}",
            f"{row['cold_start_s']:.1f} s",
            "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:,.0f} MiB",
        ]
        for key, row in systems
    ]
    empty = ["left out, see below", *[""] * (len(headings) - 2)]
    return headings, [*rows, *([SYSTEMS[key].name, *empty] for key in report["left_out"])]


def processor(device: str = "cpu") -> str:
    if device != "cpu":
        import torch

        return torch.cuda.get_device_name(device)
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """The commit of the source tree that runs, marked where it was edited; None outside git."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],  # noqa: S607  # the user's git
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or None
