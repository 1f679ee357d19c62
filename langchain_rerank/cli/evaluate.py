"""`langchain-rerank eval`: does reranking help on a data set, and what does it cost."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from langchain_rerank.cli.console import console, one_line_errors
from langchain_rerank.cli.models import (
    BACKEND_HELP,
    MODEL_HELP,
    OFFLINE,
    Backend,
    build_cross_encoder,
)
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from langchain_core.vectorstores import VectorStore

    from langchain_rerank.compressor import Reranker
    from langchain_rerank.cross_encoders.base import LocalCrossEncoder
    from langchain_rerank.evaluation import Dataset, Report, Sweep
    from langchain_rerank.evaluation.sweep_candidates import Source
    from langchain_rerank.evaluation.systems import AnySystem

_RERANKED = "reranked"
_DEPTHS = (10, 20, 50, 100, 200)
_MOST_RETURNED = 10


def evaluate(  # noqa: PLR0913  # one parameter an option
    dataset: Annotated[str, typer.Argument(help="Folder in BEIR's layout, or an ir_datasets id.")],
    *,
    qrels: Annotated[
        str | None,
        typer.Option(help="Judgments: a file of qrels/ without .tsv, or a path; else 'test'."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            help="TREC run to rerank. Without one the first stage is a dense index of the corpus, "
            "with the offline embeddings."
        ),
    ] = None,
    fetch_k: Annotated[int, typer.Option(min=1, help="Candidates to rerank.")] = 100,
    model: Annotated[str, typer.Option(help=MODEL_HELP + "the default.")] = OFFLINE,
    backend: Annotated[Backend, typer.Option(help=BACKEND_HELP)] = "torch",
    measures: Annotated[
        str, typer.Option(help="Names as ir_measures has them, between spaces.")
    ] = "nDCG@10 RR@10 P@5 R@100",
    min_relevance: Annotated[
        int, typer.Option(min=1, help="Grade from which a document is relevant, 2 in TREC DL.")
    ] = 1,
    partial_corpus: Annotated[
        bool,
        typer.Option(
            "--partial-corpus",
            help="Judgments may name documents outside the corpus, as with a run.",
        ),
    ] = False,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Try depths and first-stage weights as well.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for the report, the runs as TREC files and the figures."),
    ] = None,
) -> None:
    """Compare a first stage with its reranking, by measures, intervals, a test and latency."""
    with one_line_errors():
        cross_encoder = build_cross_encoder(model, backend)
        from langchain_rerank.cli import evaluation_output as out
        from langchain_rerank.evaluation import RerankedRun, read_run
        from langchain_rerank.evaluation.measures import parse_measures

        # What is wrong with these is said now, not after minutes of indexing and scoring.
        names = measures.split()
        parse_measures(names, min_relevance=min_relevance)
        if output is not None:
            out.make_folder(output)
        # What it logs stands in the report, which is printed.
        logging.getLogger("langchain_rerank.evaluation").setLevel(logging.ERROR)
        data = _dataset(dataset, qrels, partial_corpus=partial_corpus or run is not None)
        found = {} if run is None else read_run(run)
        reranker = _reranker(cross_encoder)
        source: Source = found
        if run is None:
            source = _dense_index(data, dataset)
            systems = _retrievers(source, reranker, fetch_k)
        else:
            systems = {_run_name(run): found, _RERANKED: RerankedRun(found, reranker, fetch_k)}
        report = _report(systems, data, names, min_relevance)
        out.print_report(report)
        swept = None
        if sweep:
            swept = _swept(source, data, report, {_name(model, backend): reranker}, fetch_k)
            out.print_sweep(swept)
        if output is not None:
            out.write(output, report, swept)


def _dataset(name: str, qrels: str | None, *, partial_corpus: bool) -> Dataset:
    """Read a data set, the title of each document before its text, as BEIR's systems read it."""
    from langchain_rerank.evaluation import load_beir, load_ir_dataset

    folder = Path(name).expanduser()
    if folder.is_dir():
        data = load_beir(folder, qrels or "test", partial_corpus=partial_corpus)
    elif qrels is not None:
        msg = f"--qrels goes with a folder in BEIR's layout, and there is no folder {name}"
        raise ValueError(msg)
    else:
        try:
            data = load_ir_dataset(name, partial_corpus=partial_corpus)
        except ValueError as error:
            msg = f"there is no folder {name}, so it was taken for an ir_datasets id: {error}"
            raise ValueError(msg) from error
    if partial_corpus:
        _print_lacking(data)
    return replace(data, corpus={one.id or "": _titled(one) for one in data.documents})


def _titled(document: Document) -> Document:
    title = document.metadata.get("title")
    if not title:
        return document
    return document.model_copy(update={"page_content": f"{title}\n{document.page_content}"})


def _print_lacking(data: Dataset) -> None:
    judged = {one for grades in data.qrels.values() for one, grade in grades.items() if grade > 0}
    if lacking := len(judged.difference(data.corpus or ())):
        console.print(
            f"{lacking:,} of the {len(judged):,} documents judged above 0 are not in the corpus: "
            "they count as not found."
        )


def _reranker(cross_encoder: LocalCrossEncoder) -> Reranker:
    """Load the model, so that a wrong one is told before anything else is done."""
    from langchain_rerank.compressor import Reranker

    with console.status("Loading the reranker"):
        cross_encoder.load()
    # Collections judge repeated texts one by one.
    return Reranker(model=cross_encoder, deduplicate=False)


def _name(model: str, backend: str) -> str:
    return f"{'the offline reranker' if model == OFFLINE else Path(model).name} ({backend})"


def _run_name(path: Path) -> str:
    """Name a run by its file, apart from its reranking."""
    name = well_formed(path.stem)
    return f"{name} (run)" if name == _RERANKED else name


def _dense_index(data: Dataset, name: str) -> VectorStore:
    from langchain_rerank.cli.index import cached_index

    folder = Path(name).expanduser()
    place = str(folder.resolve()) if folder.is_dir() else f"ir_datasets:{name}"
    return cached_index("eval", place, data.documents)


def _retrievers(store: VectorStore, reranker: Reranker, fetch_k: int) -> dict[str, AnySystem]:
    from langchain_rerank.retriever import create_rerank_retriever

    dense = store.as_retriever(search_kwargs={"k": fetch_k})
    reranked = create_rerank_retriever(store, reranker=reranker, k=fetch_k, fetch_k=fetch_k)
    return {"dense": dense, _RERANKED: reranked}


def _report(
    systems: dict[str, AnySystem], data: Dataset, measures: list[str], min_relevance: int
) -> Report:
    from langchain_rerank.evaluation import evaluate as run_evaluation

    return run_evaluation(systems, data, measures, min_relevance=min_relevance)


def _swept(
    source: Source, data: Dataset, report: Report, rerankers: dict[str, Reranker], fetch_k: int
) -> Sweep:
    from langchain_rerank.evaluation import sweep as run_sweep
    from langchain_rerank.evaluation.sweeper import DEFAULT_WEIGHTS

    return run_sweep(
        source,
        data,
        models=rerankers,
        # One query can't be halved, to choose a weight on one part and to judge it on the other.
        first_stage_weights=DEFAULT_WEIGHTS if len(report.queries) > 1 else (0,),
        fetch_k=[*(depth for depth in _DEPTHS if depth < fetch_k), fetch_k],
        measure=report.settings.measures[0],
        k=min(_MOST_RETURNED, fetch_k),
        min_relevance=report.settings.min_relevance,
    )
