"""Bulk reranking: millions of (query, candidates) rows in files, in actors of Ray.

A job that was killed goes on: its folder holds what decides its content, and its finished parts.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import deque
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_rerank.bulk.blocks import Block, BlockScorer, Columns, input_files, plan
from langchain_rerank.bulk.job import claimed, manifest
from langchain_rerank.cores import available_cores
from langchain_rerank.cross_encoders.base import DEFAULT_MODEL
from langchain_rerank.cross_encoders.torch import TorchCrossEncoder
from langchain_rerank.errors import RerankError, ScoringError, require

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from langchain_core.cross_encoders import BaseCrossEncoder

__all__ = ["BulkResult", "Columns", "rerank_files"]

logger = logging.getLogger(__name__)

_TRIES = 3
_PATIENCE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class BulkResult:
    """What a run of a job has done, so far or in the end.

    Attributes:
        output: Folder of the parts, in the order of the input by name.
        blocks: Blocks of the job.
        skipped: Blocks that were finished before this run.
        finished: Blocks that are finished, in earlier runs too.
        rows: Rows scored in this run.
        pairs: Pairs scored in this run.
        seconds: Of this run, loading of models included.
    """

    output: Path
    blocks: int
    skipped: int
    finished: int
    rows: int = 0
    pairs: int = 0
    seconds: float = 0.0

    @property
    def pairs_per_s(self) -> float:
        """Pairs scored a second in this run."""
        return self.pairs / self.seconds if self.seconds else 0.0


def rerank_files(  # noqa: PLR0913  # one parameter a setting
    inputs: str | Path | Iterable[str | Path],
    output: str | Path,
    *,
    model: str | BaseCrossEncoder = DEFAULT_MODEL,
    top_n: int | None = None,
    workers: int = 1,
    block_rows: int = 256,
    columns: Columns | None = None,
    progress: Callable[[BulkResult], None] | None = None,
) -> BulkResult:
    """Rerank every row of Parquet or JSON lines files, on one machine or a Ray cluster.

    A row holds a query and a list of documents, each a text or an object with one. It is written
    as it came, in the input's format, with a column of `{"index", "relevance_score"}`, best first:
    the ranking of `Reranker` without its other policies. Blocks of rows are scored by `workers`
    actors with a model each; each block becomes one file of `output`. A job that was killed is
    finished by the same call: finished blocks are not scored again.

    Ray is started for the call, on this machine alone, unless it is already connected or
    `RAY_ADDRESS` names a cluster. On a cluster, inputs and output must be on a disk that all nodes
    share, under the same paths.

    Args:
        inputs: A file, a folder of files, or several of both; all of one format.
        output: Folder of the parts; made where it is not there. Readable as one data set.
        model: A model's name or path, from which a `TorchCrossEncoder` is built, or any
            `BaseCrossEncoder` that can be pickled.
        top_n: How many results a row keeps; None keeps all.
        workers: How many actors score at once, each with a model of its own; they share the CPUs
            and GPUs that Ray has.
        block_rows: Rows of a block: what a kill can cost, and what one actor holds in memory. A
            block of a Parquet file decodes its row group up to its own rows, so that row groups of
            at most some ten thousand rows are read fastest.
        columns: Names of the columns.
        progress: Called after each block.

    Raises:
        MissingDependencyError: The extra `ray` is not installed.
        ValueError: An argument is out of range, the folder holds another job, or a row is not what
            is expected; the message names file, line or row, and column.
        ScoringError: The model failed, or ended its process several times.
        ModelLoadError: The model could not be loaded.
        OSError: A file can't be read or written.
    """
    require("ray", "pyarrow", install="langchain-rerank[ray]", purpose="Bulk reranking")
    for name, value in (("workers", workers), ("top_n", top_n), ("block_rows", block_rows)):
        if value is not None and value < 1:
            msg = f"{name} must be at least 1, got {value}"
            raise ValueError(msg)
    cross_encoder = TorchCrossEncoder(model=model) if isinstance(model, str) else model
    columns, output, files = columns or Columns(), Path(output).resolve(), input_files(inputs)
    blocks = plan(files, block_rows)
    settings = {"block_rows": block_rows, "columns": asdict(columns), "top_n": top_n}
    with claimed(output, manifest(files, cross_encoder, settings)):
        left = [block for block in blocks if not block.part(output).exists()]
        skipped, started = len(blocks) - len(left), time.monotonic()
        result = BulkResult(output, len(blocks), skipped, finished=skipped)
        if not left:
            return result
        scorer = (output, cross_encoder, columns, top_n)
        with _connected(), closing(_scored(left, scorer, min(workers, len(left)))) as reports:
            for rows, pairs in reports:
                result = replace(
                    result,
                    finished=result.finished + 1,
                    rows=result.rows + rows,
                    pairs=result.pairs + pairs,
                    seconds=time.monotonic() - started,
                )
                if progress:
                    progress(result)
    return result


def _scored(
    blocks: list[Block], scorer: tuple[Any, ...], workers: int
) -> Generator[tuple[int, int]]:
    """Score blocks in actors, giving the numbers of rows and pairs of each as it is finished."""
    import ray

    left = deque(blocks)
    cpus, gpus = _share(workers)
    # An actor that dies is started again, and with it its block, so many times.
    again: dict[str, Any] = {"max_restarts": -1, "max_task_retries": _TRIES - 1}
    actor_of: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, **again)(BlockScorer)
    actors = [actor_of.remote(*scorer, max(1, int(cpus))) for _ in range(workers)]
    # A block goes to an actor that has started: another Ray job may hold the room of some.
    running: dict[Any, tuple[Any, Block | None]] = {
        actor.started.remote(): (actor, None) for actor in actors
    }
    try:
        while left or any(block for _, block in running.values()):
            done, _ = ray.wait(list(running), timeout=_PATIENCE_SECONDS)
            if not done and not any(block for _, block in running.values()):
                logger.warning("no room on Ray yet for a worker of %g CPUs, %g GPUs", cpus, gpus)
            for future in done:
                actor, block = running.pop(future)
                report = _reported(future, block)
                if left:
                    after = left.popleft()
                    running[actor.score.remote(after)] = actor, after
                if block:
                    yield report
    finally:
        # Also after an error: no actor works on in a folder that is free.
        for actor in actors:
            ray.kill(actor)


def _reported(future: Any, block: Block | None) -> tuple[int, int]:
    """Get what an actor reports of a block, or of its start: None; errors as `rerank_files`."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        report: tuple[int, int] = ray.get(future)
    except RayTaskError as error:
        if isinstance(error.cause, RerankError | OSError | ValueError):
            raise error.cause from None
        raise ScoringError(str(error)) from error
    except RayError as error:
        msg = f"a worker could not start: {error}"
        if block:
            msg = (
                f"{block.path}, row {block.first}: {_TRIES} times the process that scored "
                f"{block.rows} rows from there came to a sudden end, as it does when memory "
                f"runs out: take fewer block_rows or workers ({error})"
            )
        raise ScoringError(msg) from error
    return report


def _share(workers: int) -> tuple[float, float]:
    """Share the CPUs and GPUs of the connected Ray, so that all workers find room on its nodes."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # Ray left it so
    # Where some nodes have GPUs, the workers are on these.
    nodes = [node for node in nodes if node.get("GPU")] or nodes
    on_one = math.ceil(workers / len(nodes))

    def share(kind: str) -> float:
        part = min(node.get(kind, 0.0) for node in nodes) / on_one
        # Ray takes whole numbers above 1, else four decimals.
        return float(int(part)) if part > 1 else math.floor(part * 10_000) / 10_000

    # A model runs on one GPU.
    return share("CPU"), min(1.0, share("GPU"))


def _connected() -> AbstractContextManager[Any]:
    """Connect to Ray for a while, quietly; one that was connected before is left alone."""
    import ray

    if ray.is_initialized():
        return nullcontext()
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    os.environ.update(quiet | os.environ)
    alone: dict[str, Any] = {
        "address": "local",  # never one that runs on this machine for something else
        "num_cpus": available_cores(),
        "object_store_memory": 128 * 2**20,  # about its least, as what travels is small
        "include_dashboard": False,
    }
    options = {} if os.environ.get("RAY_ADDRESS") else alone
    connection: AbstractContextManager[Any] = ray.init(
        log_to_driver=False, logging_level=logging.ERROR, **options
    )
    return connection
