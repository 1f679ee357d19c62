"""`langchain-rerank eval`: does reranking help on a data set, and what does it cost."""

from __future__ import annotations

import logging
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.markdown import Markdown
from rich.text import Text
from typer import Argument, Option

from langchain_rerank.cli.common import (
    OFFLINE,
    Backend,
    Model,
    build_cross_encoder,
    cached_index,
    console,
    one_line_errors,
)
from langchain_rerank.files import replacing
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    from langchain_rerank.evaluation import Dataset, Report, Sweep

_RERANKED = "reranked"
_DEPTHS = (10, 20, 50, 100, 200)
_MOST_RETURNED = 10
_WORST = 3


@one_line_errors()
def evaluate(  # noqa: PLR0913  # one parameter an option
    dataset: Annotated[str, Argument(help="Folder in BEIR's layout, or an ir_datasets id.")],
    *,
    qrels: Annotated[str | None, Option(help="A name in qrels/, or a path; else 'test'.")] = None,
    run: Annotated[
        Path | None, Option(help="TREC run to rerank; else the offline embeddings search.")
    ] = None,
    fetch_k: Annotated[int, Option(min=1, help="Candidates to rerank.")] = 100,
    model: Model = OFFLINE,
    backend: Backend = "torch",
    measures: Annotated[
        str, Option(help="Names as ir_measures has them, between spaces.")
    ] = "nDCG@10 RR@10 P@5 R@100",
    min_relevance: Annotated[int, Option(min=1, help="Lowest grade that is relevant.")] = 1,
    partial_corpus: Annotated[
        bool, Option("--partial-corpus", help="Judged documents may lack, as they may with --run.")
    ] = False,
    sweep: Annotated[bool, Option("--sweep", help="Try depths and weights as well.")] = False,
    output: Annotated[Path | None, Option(help="Folder for report, runs and figures.")] = None,
) -> None:
    """Compare a first stage with its reranking, by measures, intervals, a test and latency."""
    cross_encoder = build_cross_encoder(model, backend)
    from langchain_rerank import Reranker, create_rerank_retriever, evaluation
    from langchain_rerank.evaluation.measures import parse_measures

    # What is wrong with these is said now, not after minutes of indexing and scoring.
    names = measures.split()
    parse_measures(names, min_relevance=min_relevance)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    # What it logs stands in the report, which is printed.
    logging.getLogger("langchain_rerank.evaluation").setLevel(logging.ERROR)
    data = _dataset(dataset, qrels, partial_corpus=partial_corpus or run is not None)
    with console.status("Loading the reranker"):
        cross_encoder.load()
    # Collections judge repeated texts one by one.
    reranker = Reranker(model=cross_encoder, deduplicate=False)
    if run is None:
        source: Any = cached_index("eval", dataset, data.documents)
        first = {"dense": source.as_retriever(search_kwargs={"k": fetch_k})}
        after: Any = create_rerank_retriever(source, reranker=reranker, k=fetch_k, fetch_k=fetch_k)
    else:
        source = evaluation.read_run(run)
        first = {"run" if run.stem == _RERANKED else well_formed(run.stem): source}
        after = evaluation.RerankedRun(source, reranker, fetch_k)
    systems = {**first, _RERANKED: after}
    report = evaluation.evaluate(systems, data, names, min_relevance=min_relevance)
    _print_report(report)
    swept = None
    if sweep:
        called = "the offline reranker" if model == OFFLINE else Path(model).name
        swept = evaluation.sweep(
            source,
            data,
            models={f"{called} ({backend})": reranker},
            fetch_k=[*(depth for depth in _DEPTHS if depth < fetch_k), fetch_k],
            measure=names[0],
            k=min(_MOST_RETURNED, fetch_k),
            min_relevance=min_relevance,
        )
        console.print(Markdown(swept.to_markdown()))
    if output is not None:
        _write(output, report, swept)


def _dataset(name: str, qrels: str | None, *, partial_corpus: bool) -> Dataset:
    """Read a data set, the title of each document before its text, as BEIR's systems read it."""
    from langchain_rerank.evaluation import load_beir, load_ir_dataset

    folder = Path(name).expanduser()
    if qrels or folder.is_dir():
        data = load_beir(folder, qrels or "test", partial_corpus=partial_corpus)
    else:
        try:
            data = load_ir_dataset(name, partial_corpus=partial_corpus)
        except ValueError as error:
            msg = f"there is no folder {name}, so it was taken for an ir_datasets id: {error}"
            raise ValueError(msg) from error
    judged = {one for grades in data.qrels.values() for one, grade in grades.items() if grade > 0}
    if lacking := len(judged.difference(data.corpus or ())):
        console.print(f"{lacking:,} of {len(judged):,} relevant documents are not in the corpus.")
    corpus = {}
    for one in data.documents:
        text = "\n".join(filter(None, (one.metadata.get("title"), one.page_content)))
        corpus[one.id or ""] = one.model_copy(update={"page_content": text})
    return replace(data, corpus=corpus)


def _print_report(report: Report) -> None:
    """Print the tables of a report, and the queries that lost most."""
    console.print(Markdown(report.to_markdown()))
    measure, worst = report.measures[0], report.worst_queries(_WORST)
    if worst.empty:
        console.print(f"No query lost in {measure}.")
        return
    lines = [f"Queries that lost most in {measure}, and documents that moved:"]
    for query_id, query, before, after in worst.itertuples(index=False):
        lines.append(f"{query}: {before:.4f} → {after:.4f}")
        for move in report.moves(query_id, depth=_WORST).itertuples():
            ranks = " → ".join(str(rank or "–") for rank in (move.old_rank, move.new_rank))
            grade = "not judged" if move.grade is None else f"grade {move.grade}"
            lines.append(f"    {ranks}, {grade}: {' '.join(move.text.split())[:60]}")
    console.print(Text(well_formed("\n".join(lines))))


def _write(folder: Path, report: Report, sweep: Sweep | None) -> None:
    """Write the report, both runs and what can be drawn, each file whole or not at all."""
    from langchain_rerank import evaluation

    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    markdown = "\n\n".join([f"`{command}`", *(one.to_markdown() for one in (report, sweep) if one)])
    texts = {"report.json": report.to_json(), "report.md": markdown}
    if sweep is not None:
        texts["sweep.csv"] = sweep.to_dataframe().to_csv(index=False)
    for name, text in texts.items():
        with replacing(folder / name) as file:
            file.write(well_formed(text))
    runs = dict(zip(("before.trec", "after.trec"), report.names, strict=True))
    for name, system in runs.items():
        evaluation.write_run(folder / name, report.run(system), tag="_".join(system.split()))
    figures = {
        "measures.png": evaluation.plot_measures(report),
        "differences.png": evaluation.plot_measures(report, differences=True),
    }
    if sweep is not None:
        figures["tradeoff.png"] = evaluation.plot_tradeoff(sweep)
    if report.reranking_systems:
        figures["scores.png"] = evaluation.plot_scores(report)
    for query in report.worst_queries(1)["query_id"]:
        figures["worst_query.png"] = evaluation.plot_rank_movement(report, query)
    for name, figure in figures.items():
        with replacing(folder / name, binary=True) as file:
            figure.savefig(file, format="png")
    written = ", ".join(sorted([*texts, *runs, *figures]))
    console.print(Text(well_formed(f"\nIn {folder}: {written}")))
