"""A whole bench run, from what the user chose to a report."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from langchain_rerank.bench import hardware, overhead
from langchain_rerank.bench.measure import measure
from langchain_rerank.bench.report import BenchReport, Settings, make_report
from langchain_rerank.bench.systems import laid_out_for_peers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_rerank.bench.inputs import BenchQuery
    from langchain_rerank.bench.measure import Timings
    from langchain_rerank.bench.systems import System
    from langchain_rerank.bench.tasks import Task

# The longest pair that every system reads.
_MAX_LENGTH = 512


def run_bench(
    task: Task, only: Sequence[str], *, command: str, progress: Callable[[str], None]
) -> BenchReport:
    """Time systems and bring the figures together.

    Args:
        task: What is scored.
        only: Keys of the systems to time; none means all that are installed.
        command: As it was typed, for the report.
        progress: Is told what is being done.

    Raises:
        ValueError: There is no system of a key, or none can run.
    """
    systems, missing = _chosen(task, only)
    lengths = [_lengths(task.models.checkpoint, query) for query in task.queries]
    config = _config(task.models.checkpoint)
    flops = [hardware.pair_flops(one, config) for one in lengths]
    with laid_out_for_peers(task.models) as models:
        timings = measure(systems, replace(task, models=models), progress)
    if not timings.measured:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in timings.failed.items())
        msg = f"no system could score: {reasons or missing}"
        raise ValueError(msg)
    first = task.queries[0]
    settings = Settings(
        model=task.models.checkpoint,
        graph=task.models.graph,
        device=task.models.device,
        data=task.data,
        queries=len(task.queries),
        candidates=max(len(query.passages) for query in task.queries),
        rounds=task.size.rounds,
        tokens_a_query=statistics.median(map(sum, lengths)),
    )
    return make_report(
        settings,
        timings,
        missing,
        flops_a_query=flops,
        overhead=(
            overhead.overhead_s(first.query, first.passages),
            overhead.cached_s(first.query, first.passages),
        ),
        ndcg_at_10=_quality(task, timings, progress),
        command=command,
    )


def _quality(task: Task, timings: Timings, progress: Callable[[str], None]) -> dict[str, float]:
    if task.judged is None:
        return {}
    from langchain_rerank.bench.quality import ndcg_at_10

    keys = {timing.system.key for timing in timings.measured}
    return ndcg_at_10(task, task.judged, keys, progress)


def _chosen(task: Task, only: Sequence[str]) -> tuple[list[System], dict[str, str]]:
    """Choose the systems that can run, and say what the others lack."""
    keys = [system.key for system in task.systems]
    unknown = [key for key in only if key not in keys]
    if unknown:
        msg = f"expected systems out of {', '.join(keys)}, got {', '.join(unknown)}"
        raise ValueError(msg)
    chosen = [system for system in task.systems if not only or system.key in only]
    missing = {system.name: reason for system in chosen if (reason := system.missing(task.models))}
    return [system for system in chosen if system.name not in missing], missing


def _lengths(checkpoint: str, query: BenchQuery) -> list[int]:
    """Tokens of each pair, as the model reads them."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    queries, passages = [query.query] * len(query.passages), list(query.passages)
    encoded = tokenizer(queries, passages, truncation="only_second", max_length=_MAX_LENGTH)
    return [len(row) for row in encoded["input_ids"]]


def _config(checkpoint: str) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(checkpoint)
