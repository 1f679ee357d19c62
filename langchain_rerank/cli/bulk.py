"""`langchain-rerank bulk`: rerank files of millions of rows."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer reads it
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from langchain_rerank.cli.console import console, one_line_errors
from langchain_rerank.cli.models import BACKEND_HELP, MODEL_HELP, Backend, build_cross_encoder

if TYPE_CHECKING:
    from langchain_rerank.bulk import BulkProgress


def bulk(  # noqa: PLR0913  # one parameter an option
    inputs: Annotated[
        list[Path], typer.Argument(help="Parquet or JSON lines files, or folders of them.")
    ],
    output: Annotated[Path, typer.Argument(help="Folder of the results.")],
    *,
    model: Annotated[
        str | None,
        typer.Option(help=MODEL_HELP + "BAAI/bge-reranker-v2-m3 by default."),
    ] = None,
    backend: Annotated[Backend, typer.Option(help=BACKEND_HELP)] = "torch",
    top_n: Annotated[
        int | None, typer.Option(min=1, help="Results to keep of a row; else all.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="How many score at once.")] = 1,
    block_rows: Annotated[
        int, typer.Option(min=1, help="Rows of a block, which a kill can cost.")
    ] = 256,
    query_column: Annotated[str, typer.Option(help="Column of the query.")] = "query",
    documents_column: Annotated[
        str, typer.Option(help="Column of the list of documents.")
    ] = "documents",
    text_field: Annotated[
        str, typer.Option(help="Field of a document that is an object.")
    ] = "text",
    results_column: Annotated[str, typer.Option(help="Column to add.")] = "results",
    cpus_per_worker: Annotated[
        float | None, typer.Option(min=0, help="Cores of a worker; else an equal share.")
    ] = None,
    gpus_per_worker: Annotated[
        float | None, typer.Option(min=0, help="GPUs of a worker, as in 0.5; else an equal share.")
    ] = None,
) -> None:
    """Rerank every row of files, in blocks that a second run does not repeat.

    A row has a query and a list of documents; it is written as it came, with a list of index and
    relevance_score added, best first. After a kill the same command finishes the job.
    """
    with one_line_errors():
        from langchain_rerank.bulk import Columns, rerank_files

        with _bar() as bar:
            task = bar.add_task("Reranking", total=None, rate="")

            def show(now: BulkProgress) -> None:
                rate = f"{now.pairs_per_s:,.0f} pairs/s"
                bar.update(task, total=now.blocks, completed=now.finished, rate=rate)

            result = rerank_files(
                inputs,
                output,
                model=build_cross_encoder(model, backend),
                top_n=top_n,
                workers=workers,
                block_rows=block_rows,
                columns=Columns(query_column, documents_column, text_field, results_column),
                cpus_per_worker=cpus_per_worker,
                gpus_per_worker=gpus_per_worker,
                progress=show,
            )
        console.print(
            f"{result.blocks:,} blocks in {result.output}, {result.skipped:,} of them from earlier "
            f"runs; now {result.rows:,} rows, {result.pairs:,} pairs in {result.seconds:,.1f} s, "
            f"{result.pairs_per_s:,.1f} pairs/s",
            markup=False,
            soft_wrap=True,
        )


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), TextColumn("{task.fields[rate]}"))
