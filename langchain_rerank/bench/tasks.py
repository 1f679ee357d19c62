"""What a bench run scores: the Python reference, a data set, or synthetic pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_rerank.bench import inputs, synthetic
from langchain_rerank.bench.systems import CPU_SYSTEMS, GPU_SYSTEMS, Models
from langchain_rerank.evaluation.loading import load_beir
from langchain_rerank.evaluation.runs import read_run
from langchain_rerank.offline.reranker import offline_reranker
from langchain_rerank.offline.wheels import RERANKER, verified_folder

if TYPE_CHECKING:
    from pathlib import Path

    from langchain_rerank.bench.inputs import BenchQuery
    from langchain_rerank.bench.systems import System
    from langchain_rerank.evaluation.datasets import Dataset
    from langchain_rerank.evaluation.runs import Run


@dataclass(frozen=True, slots=True)
class Size:
    """How much is scored."""

    queries: int = 3
    candidates: int = 100
    rounds: int = 3
    growth: bool = False
    """Time growing numbers and lengths of passages as well."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is scored, by whose weights, and how often."""

    models: Models
    queries: list[BenchQuery]
    data: str
    """Shown in the report."""
    size: Size
    judged: tuple[Dataset, Run] | None = None
    """Judgments and a first stage, to measure nDCG@10 on as well."""
    systems: tuple[System, ...] = CPU_SYSTEMS
    """Whom to time, as far as they are installed."""


def offline_models(graph: Path | None = None) -> Models:
    """Take the offline reranker, and the int8 graph that it was unpacked from unless one is given.

    Raises:
        MissingDependencyError: The extra `offline` is not installed.
    """
    given = graph or verified_folder(RERANKER, "The benchmark's model")
    return Models(offline_reranker(), str(given))


def python_task(models: Models, size: Size) -> Task:
    """Score questions on the Python language reference with chunks of it, taken at random."""
    queries = inputs.python_queries(size.queries, size.candidates)
    return Task(models, queries, "Python language reference", size)


def dataset_task(
    models: Models, size: Size, folder: Path, *, run: Path | None, qrels: str | None
) -> Task:
    """Score queries of a BEIR folder with the candidates of a run.

    Args:
        models: The weights.
        size: How much is scored.
        folder: In BEIR's layout; its corpus may be only a part of what was judged.
        run: TREC run of a first stage; None takes the folder's own, `runs/*.trec`, or passages at
            random where it has none.
        qrels: Judgments to measure nDCG@10 on as well, all queries of them; None measures none.

    Raises:
        ValueError: A file is malformed, or there is no run to measure nDCG@10 on.
        OSError: A file is missing.
    """
    dataset = load_beir(folder, qrels or "test", partial_corpus=True)
    run = run or inputs.run_file(folder)
    found = read_run(run) if run else None
    if qrels and found is None:
        msg = f"nDCG@10 needs the run of a first stage: give --run, {folder} has no runs/*.trec"
        raise ValueError(msg)
    queries = inputs.dataset_queries(dataset, found, size.queries, size.candidates)
    name = f"{folder.resolve().name}, {f'candidates of {run.name}' if run else 'random passages'}"
    judged = (dataset, found) if qrels and found else None
    return Task(models, queries, name, size, judged)


def synthetic_task(shape: str, device: str, size: Size, *, tokens: int) -> Task:
    """Score pairs of a fixed length, in tokens, by random weights of a real model's shape.

    The systems are those of a GPU, whatever the device, so that the same run can be tried on a CPU.
    """
    models = Models(synthetic.synthetic_checkpoint(shape), device=device)
    queries = synthetic.synthetic_queries(shape, size.queries, size.candidates, tokens)
    data = f"{shape} shape, random weights, pairs of {tokens} tokens"
    return Task(models, queries, data, size, systems=GPU_SYSTEMS)
