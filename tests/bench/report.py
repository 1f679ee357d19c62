"""The figures of a bench run: as JSON, with what they depend on, and as a table."""

from __future__ import annotations

import importlib.metadata
import platform
import statistics
import subprocess
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from langchain_rerank import create_rerank_retriever
from langchain_rerank.cross_encoders.processes import available_cores
from tests.bench.measure import Timing, paired_ratio, top_overlap
from tests.bench.systems import SYSTEMS
from tests.fakes import RecordingRetriever, WordOverlapCrossEncoder

if TYPE_CHECKING:
    from tests.bench.systems import Pairs, Weights

_AGAINST = ("flag", "huggingface", "flashrank")
_REFERENCE = "torch"
_TOP = 10
_OVERHEAD_RUNS = 50
_PACKAGES = (
    *("torch", "transformers", "onnxruntime", "FlagEmbedding", "flashrank"),
    *("sentence-transformers", "langchain-core", "langchain-community"),
)


def make_report(
    timings: dict[str, Timing], failed: dict[str, str], queries: list[Pairs], weights: Weights
) -> dict[str, Any]:
    """Bring the figures of a run together, with what they depend on."""
    if not timings:
        reasons = "; ".join(f"{SYSTEMS[key].name}: {why}" for key, why in failed.items())
        msg = f"no system could score: {reasons}"
        raise ValueError(msg)
    installed = {one.name: one.version for one in importlib.metadata.distributions()}
    return {
        **asdict(weights),
        "queries": len(queries),
        "candidates": max(map(len, queries)),
        "systems": {key: _figures(timing, timings, queries) for key, timing in timings.items()},
        "left_out": failed,
        "overhead_s": _overhead_s(queries[0]),
        "processor": processor(weights.device),
        "cores": available_cores(),
        "versions": {name: installed.get(name) for name in _PACKAGES},
        "commit": commit(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _figures(timing: Timing, timings: dict[str, Timing], queries: list[Pairs]) -> dict[str, Any]:
    median, reference = statistics.median(timing.seconds), timings.get(_REFERENCE)
    # With ten candidates or fewer everybody keeps the best ten.
    comparable = reference is not None and min(map(len, queries)) > _TOP
    against = [key for key in _AGAINST if key in timings]
    return {
        "median_s": median,
        "seconds": timing.seconds,
        "times_as_fast_as": {key: paired_ratio(timings[key], timing) for key in against},
        "top_10_overlap": top_overlap(timing.scores, reference.scores) if comparable else None,
        "cold_start_s": timing.cold_start_s,
        "peak_bytes": timing.peak_bytes,
    }


class _Instant(WordOverlapCrossEncoder):
    """Scores that cost nothing."""

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        return [float(position % 7) for position in range(len(text_pairs))]


def _overhead_s(pairs: Pairs) -> float:
    """Median seconds of a traced `RerankRetriever.invoke` but for first stage and scoring."""
    documents = [
        Document(passage, id=str(number), metadata={"source": "bench", "place": number})
        for number, (_, passage) in enumerate(pairs)
    ]
    retriever = create_rerank_retriever(
        RecordingRetriever(documents=documents), reranker=_Instant(), fetch_k=len(documents), k=1
    )
    seconds = []
    for _ in range(_OVERHEAD_RUNS):
        start = time.perf_counter()
        retriever.invoke(pairs[0][0], {"callbacks": [RunCollectorCallbackHandler()]})
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def as_markdown(report: dict[str, Any]) -> str:
    """Say what was timed, and lay out a row a system: the fastest first, those that failed last."""
    others = [key for key in _AGAINST if key in report["systems"]]
    headings = ["system", "s/query", *(f"times as fast as {SYSTEMS[key].name}" for key in others)]
    headings += ["top 10 kept", "first score after", "memory"]
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)]]
    for key, row in sorted(report["systems"].items(), key=lambda item: item[1]["median_s"]):
        ratios = [f"{row['times_as_fast_as'][other]:.1f}" for other in others]
        overlap = "" if row["top_10_overlap"] is None else f"{row['top_10_overlap']:.0%}"
        memory = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:,.0f} MiB"
        lines.append([SYSTEMS[key].name, f"{row['median_s']:.3f}", *ratios, overlap])
        lines[-1] += [f"{row['cold_start_s']:.1f} s", memory]
    left_out = [
        f"left out: {SYSTEMS[key].name} ({' '.join(reason.split())})"
        for key, reason in report["left_out"].items()
    ]
    head = (
        f"{report['queries']} queries × {report['candidates']} passages of {report['data']}; "
        f"{report['processor']}, {report['cores']} cores; commit {report['commit'] or 'unknown'}"
    )
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    foot = f"around the scoring {1000 * report['overhead_s']:.1f} ms a query"
    return "\n\n".join([head, table, *left_out, foot])


def processor(device: str = "cpu") -> str:
    if device != "cpu":
        import torch

        return torch.cuda.get_device_name(device)
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def commit() -> str | None:
    """The commit of the source tree that runs, marked where it was edited; None outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None
