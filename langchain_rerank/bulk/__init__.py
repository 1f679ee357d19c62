"""Bulk reranking: millions of (query, candidates) rows in files, over Ray Data.

A job that was killed goes on: its folder holds what decides its content, and its finished parts.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import time
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_rerank.bulk.blocks import BlockScorer, Columns, plan
from langchain_rerank.bulk.job import claimed, input_files, manifest
from langchain_rerank.cores import available_cores
from langchain_rerank.cross_encoders.base import DEFAULT_MODEL
from langchain_rerank.cross_encoders.torch import TorchCrossEncoder
from langchain_rerank.errors import ScoringError, require

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from langchain_core.cross_encoders import BaseCrossEncoder

__all__ = ["BulkResult", "Columns", "rerank_files"]

# Each of Ray's blocks costs the driver memory and time; past this, one holds several of ours.
_MOST_RAY_BLOCKS = 10_000


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
    cpus_per_worker: float | None = None,
    gpus_per_worker: float | None = None,
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
        workers: How many actors score at once, each with a model of its own.
        block_rows: Rows of a block: what a kill can cost, and what one actor holds in memory. A
            block of a Parquet file decodes its row group up to its own rows, so that row groups of
            at most some ten thousand rows are read fastest.
        columns: Names of the columns.
        cpus_per_worker: Cores of an actor; None shares those that there are.
        gpus_per_worker: GPUs of an actor, also a fraction; None shares those that there are.
        progress: Called after each block.

    Raises:
        MissingDependencyError: The extra `ray` is not installed.
        ValueError: An argument is out of range, the folder holds another job, or a row is not what
            is expected; the message names file, line or row, and column.
        ScoringError: The model failed, or ended its process several times.
        ModelLoadError: The model could not be loaded.
        OSError: A file can't be read or written.
    """
    require("ray", "pyarrow", "filelock", install="langchain-rerank[ray]", purpose="Bulk reranking")
    for name, value in (("workers", workers), ("top_n", top_n), ("block_rows", block_rows)):
        if value is not None and value < 1:
            msg = f"{name} must be at least 1, got {value}"
            raise ValueError(msg)
    cross_encoder = TorchCrossEncoder(model=model) if isinstance(model, str) else model
    columns, output, files = columns or Columns(), Path(output).resolve(), input_files(inputs)
    blocks = plan(files, block_rows)
    with claimed(output, manifest(files, block_rows, columns, top_n, cross_encoder)):
        left = [asdict(block) for block in blocks if not block.part(output).exists()]
        skipped, started = len(blocks) - len(left), time.monotonic()
        result = BulkResult(output, len(blocks), skipped, finished=skipped)
        scorer = (output, cross_encoder, columns, top_n)
        reports = _scored(left, scorer, min(workers, len(left)), cpus_per_worker, gpus_per_worker)
        # Closed at once after an error too: no actor works on in a folder that is free.
        with closing(reports):
            for done in reports:
                result = replace(
                    result,
                    finished=result.finished + 1,
                    rows=result.rows + done["rows"],
                    pairs=result.pairs + done["pairs"],
                    seconds=time.monotonic() - started,
                )
                if progress:
                    progress(result)
    return result


def _scored(
    blocks: list[dict[str, Any]],
    scorer: tuple[Any, ...],
    workers: int,
    cpus: float | None,
    gpus: float | None,
) -> Generator[dict[str, Any]]:
    """Score blocks in actors, giving what is reported of each as it is finished."""
    if not blocks:
        return
    with _connected():
        import ray
        from ray.exceptions import RayError

        cpus, gpus = _share("CPU", workers, cpus), _share("GPU", workers, gpus)
        of_ray = min(len(blocks), _MOST_RAY_BLOCKS)
        reports = ray.data.from_items(blocks, override_num_blocks=of_ray).map(
            BlockScorer,  # type: ignore[arg-type]  # a class whose objects are called, as Ray says
            fn_constructor_args=(*scorer, max(1, int(cpus))),
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
            num_cpus=cpus,
            num_gpus=gpus,
        )
        reports.context.enable_progress_bars = False
        try:
            for report in reports.iter_rows():
                if report["error"]:
                    raise pickle.loads(report["error"])  # noqa: S301  # our own worker made it
                yield report
        except RayError as error:
            msg = f"Ray could not finish the job, whose finished blocks stay: {error}"
            raise ScoringError(msg) from error


def _share(kind: str, workers: int, wanted: float | None) -> float:
    """Settle the CPUs or GPUs of a worker on the connected Ray, which would wait for missing ones.

    Raises:
        ValueError: A single machine has fewer than all workers take.
    """
    import ray

    nodes = [node["Resources"].get(kind, 0.0) for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # Ray left it so
    if wanted is None:
        # What one node can give; a model runs on one GPU.
        share = min(sum(nodes) / workers, 1.0 if kind == "GPU" else max(nodes))
        # Ray takes whole numbers above 1, else four decimals.
        return float(int(share)) if share > 1 else math.floor(share * 10_000) / 10_000
    if len(nodes) == 1 and wanted * workers > nodes[0]:
        msg = (
            f"{workers} workers of {wanted:g} {kind}s need {wanted * workers:g}, this machine's "
            f"Ray has {nodes[0]:g}: take fewer workers or less for each"
        )
        raise ValueError(msg)
    return wanted


@contextmanager
def _connected() -> Iterator[None]:
    """Connect to Ray for a while, quietly; one that was connected before is left alone."""
    import ray

    own = not ray.is_initialized()
    if own:
        quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
        os.environ.update(quiet | os.environ)
        alone: dict[str, Any] = {
            "address": "local",  # never one that runs on this machine for something else
            "num_cpus": available_cores(),
            "object_store_memory": 128 * 2**20,  # about its least, as what travels is small
            "include_dashboard": False,
        }
        options = {} if os.environ.get("RAY_ADDRESS") else alone
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        if own:
            ray.shutdown()
