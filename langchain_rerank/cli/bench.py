"""`langchain-rerank bench`: timings against the other local rerankers."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path  # noqa: TC003  # typer reads it
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from langchain_rerank.cli.console import console, one_line_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_rerank.bench.report import BenchReport, SystemRow
    from langchain_rerank.bench.systems import Models
    from langchain_rerank.bench.tasks import Size, Task

_SYNTHETIC_TOKENS = (128, 512)


def bench(  # noqa: PLR0913  # one parameter an option
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            help="BEIR folder to take queries from, those judged in qrels/test.tsv or by --qrels; "
            "else the Python language reference."
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="TREC run of the candidates; else one of the folder's runs/*.trec."),
    ] = None,
    qrels: Annotated[
        str | None,
        typer.Option(help="Measure nDCG@10 as well, by these judgments: qrels/NAME.tsv of --data."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Encoder-only reranker: a hub name or a folder.")
    ] = None,
    graph: Annotated[
        Path | None, typer.Option(help="Folder of an int8 ONNX graph of the same model.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="'cpu', or 'cuda', which times --synthetic v2-m3.")
    ] = "cpu",
    synthetic: Annotated[
        str | None,
        typer.Option(help="Random weights of a shape, 'v2-m3' or 'tiny'; no data is needed."),
    ] = None,
    queries: Annotated[int, typer.Option(min=1, help="Queries of a round.")] = 3,
    candidates: Annotated[int, typer.Option(min=1, help="Passages of a query.")] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="How often each query is scored.")] = 3,
    only: Annotated[
        list[str] | None, typer.Option(help="Key of a system to time; may be given again.")
    ] = None,
    growth: Annotated[
        bool, typer.Option("--growth", help="Time growing numbers and lengths of passages as well.")
    ] = False,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write every figure to this file.")
    ] = None,
    goals: Annotated[
        bool, typer.Option("--goals", help="Print the ratios that this project asks of itself.")
    ] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table of systems as Markdown.")
    ] = False,
) -> None:
    """Time our cross encoders and the installed peers on the same weights and passages.

    All models are in memory at once, each in a process of its own; --only leaves some out.
    """
    with one_line_errors():
        from langchain_rerank.bench.report import write_reports
        from langchain_rerank.bench.run import run_bench
        from langchain_rerank.bench.tasks import Size, dataset_task, python_task

        if model is None:
            os.environ.setdefault("HF_HUB_OFFLINE", "1")
        if json is not None and not json.resolve().parent.is_dir():
            msg = f"expected a folder to write {json.name} to, got {json.parent}, which is not one"
            raise ValueError(msg)
        given = {"--data": data, "--run": run, "--qrels": qrels, "--model": model, "--graph": graph}
        _check_options(device, synthetic, [name for name, value in given.items() if value])
        size = Size(queries, candidates, rounds, growth)
        if device != "cpu" or synthetic is not None:
            tasks = _synthetic_tasks(synthetic or "v2-m3", device, size)
        elif data is not None:
            tasks = iter([dataset_task(_models(model, graph), size, data, run=run, qrels=qrels)])
        else:
            tasks = iter([python_task(_models(model, graph), size)])
        command = shlex.join(["langchain-rerank", *sys.argv[1:]])
        reports = []
        for task in tasks:
            with console.status("") as status:
                report = run_bench(task, only or [], command=command, progress=status.update)
            _print(report, markdown=markdown)
            if goals:
                _print_goals(report)
            reports.append(report)
        if json is not None:
            write_reports(json, reports)


def _check_options(device: str, synthetic: str | None, given: list[str]) -> None:
    """Refuse what would otherwise be ignored."""
    if device != "cpu" and device.partition(":")[0] != "cuda":
        msg = f"expected the device cpu, cuda or cuda:N, got {device!r}"
        raise ValueError(msg)
    if given and (device != "cpu" or synthetic is not None):
        msg = f"{', '.join(given)} can't be used with --synthetic or --device {device}"
        raise ValueError(msg)
    if "--data" not in given and {"--run", "--qrels"} & set(given):
        msg = "--run and --qrels need the folder that they belong to: give --data"
        raise ValueError(msg)


def _models(model: str | None, graph: Path | None) -> Models:
    from langchain_rerank.bench.systems import Models
    from langchain_rerank.bench.tasks import offline_models

    if model is None:
        return offline_models(graph)
    return Models(model, None if graph is None else str(graph))


def _synthetic_tasks(shape: str, device: str, size: Size) -> Iterator[Task]:
    import torch

    from langchain_rerank.bench.tasks import synthetic_task

    if device.startswith("cuda") and not torch.cuda.is_available():
        msg = "this PyTorch finds no CUDA device; try the command with --device cpu"
        raise ValueError(msg)
    for tokens in _SYNTHETIC_TOKENS:
        yield synthetic_task(shape, device, size, tokens=tokens)


def _print(report: BenchReport, *, markdown: bool) -> None:
    settings = report.settings
    console.print(
        f"\n[bold]{settings.queries} queries × {settings.candidates} passages, "
        f"{settings.tokens_a_query:,.0f} tokens a query, {settings.rounds} rounds[/bold]\n"
        f"{escape(settings.data)}; {escape(report.processor)}, "
        f"{report.cores} cores; commit {report.commit or 'unknown'}"
    )
    headings, rows = _systems(report)
    if markdown:
        lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        console.print(text, markup=False, soft_wrap=True)
    else:
        console.print(_table(headings, rows))
    for name, reason in report.left_out.items():
        console.print(f"left out: {name} ({reason})", markup=False)
    peaks = ", ".join(f"{dtype} {peak / 1e9:,.0f}" for dtype, peak in report.peak_flops.items())
    console.print(f"matrix multiplication here, GFLOP/s (GOP/s in int8): {peaks}")
    for what, curve in (("candidates", "by_candidates"), ("words a passage", "by_words")):
        if any(getattr(row, curve) for row in report.systems):
            console.print(_growth_table(report.systems, what, curve))
    if report.ndcg_at_10:
        values = ", ".join(f"{key} {value:.4f}" for key, value in report.ndcg_at_10.items())
        console.print(f"nDCG@10: {values}")
    console.print(
        f"around the scoring {report.overhead_s * 1000:.1f} ms a query, "
        f"with every score cached {report.cached_s * 1000:.1f} ms"
    )


def _print_goals(report: BenchReport) -> None:
    from langchain_rerank.bench.report import goals

    figures = [list(row) for row in goals(report)]
    console.print(_table(["asked of this project", "measured", "at least"], figures))


def _systems(report: BenchReport) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the main table, fastest system first."""
    names = {row.key: row.name for row in report.systems}
    on_device = any(row.peak_device_bytes for row in report.systems)
    others = sorted({key for row in report.systems for key in row.times_as_fast_as})
    headings = [
        "system",
        "s/query",
        "pairs/s",
        *(f"times as fast as {names[key]}" for key in others),
        "of peak",
        "top 10 kept",
        "first score after",
        "GPU memory" if on_device else "memory",
    ]
    rows = []
    for row in sorted(report.systems, key=lambda row: row.median_s):
        memory = row.peak_device_bytes if on_device else row.peak_bytes
        rows.append(
            [
                row.name,
                f"{row.median_s:.3f}",
                f"{row.pairs_per_s:,.0f}",
                *(f"{row.times_as_fast_as[key]:.1f}" for key in others),
                _percent(row.share_of_peak),
                _percent(row.top_10_overlap),
                f"{row.cold_start_s:.1f} s",
                "" if memory is None else f"{memory / 2**20:,.0f} MiB",
            ]
        )
    return headings, rows


def _growth_table(rows: list[SystemRow], what: str, curve: str) -> Table:
    sizes = sorted({size for row in rows for size in getattr(row, curve)})
    cells = [
        [row.name, *(_seconds(getattr(row, curve).get(size)) for size in sizes)] for row in rows
    ]
    return _table([f"s/query by {what}", *(f"{size:,}" for size in sizes)], cells)


def _table(headings: list[str], rows: list[list[str]]) -> Table:
    table = Table(headings[0])
    for heading in headings[1:]:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.3f}"
