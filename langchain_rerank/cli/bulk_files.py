"""`langchain-rerank bulk`: rerank files of millions of rows."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer reads it
from typing import TYPE_CHECKING, Annotated

from tqdm import tqdm
from typer import Argument, Option

from langchain_rerank.cli.common import (
    Backend,
    Model,
    build_cross_encoder,
    console,
    one_line_errors,
)
from langchain_rerank.cross_encoders.base import DEFAULT_MODEL

if TYPE_CHECKING:
    from langchain_rerank.bulk import BulkResult


@one_line_errors()
def bulk(  # noqa: PLR0913  # one parameter an option
    inputs: Annotated[list[Path], Argument(help="Parquet or JSON lines files or folders.")],
    output: Annotated[Path, Argument(help="Folder of the results.")],
    *,
    model: Model = DEFAULT_MODEL,
    backend: Backend = "torch",
    top_n: Annotated[int | None, Option(min=1, help="Results to keep of a row; else all.")] = None,
    workers: Annotated[int, Option(min=1, help="How many score at once.")] = 1,
    block_rows: Annotated[int, Option(min=1, help="Rows of a block: what a kill can cost.")] = 256,
    query_column: Annotated[str, Option(help="Column of the query.")] = "query",
    documents_column: Annotated[str, Option(help="Column of the documents.")] = "documents",
    text_field: Annotated[str, Option(help="Field of a document that is an object.")] = "text",
    results_column: Annotated[str, Option(help="Column to add.")] = "results",
) -> None:
    """Rerank every row of files, in blocks that a second run does not repeat.

    A row has a query and a list of documents; it is written as it came, with a list of index and
    relevance_score added, best first. After a kill the same command finishes the job.
    """
    from langchain_rerank.bulk import Columns, rerank_files

    with tqdm(unit=" blocks") as bar:

        def show(now: BulkResult) -> None:
            bar.total, bar.n = now.blocks, now.finished
            bar.set_postfix_str(f"{now.pairs_per_s:,.0f} pairs/s")

        result = rerank_files(
            inputs,
            output,
            model=build_cross_encoder(model, backend),
            top_n=top_n,
            workers=workers,
            block_rows=block_rows,
            columns=Columns(query_column, documents_column, text_field, results_column),
            progress=show,
        )
    console.print(
        f"{result.blocks:,} blocks in {result.output}, {result.skipped:,} of them from earlier "
        f"runs; now {result.rows:,} rows, {result.pairs:,} pairs in {result.seconds:,.1f} s, "
        f"{result.pairs_per_s:,.1f} pairs/s",
        markup=False,
        soft_wrap=True,
    )
