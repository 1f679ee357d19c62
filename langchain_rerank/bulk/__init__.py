"""Bulk reranking: millions of (query, candidates) rows in files, over Ray Data.

A job that was killed goes on: its folder holds what decides its content, and its finished parts.
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.cross_encoders import BaseCrossEncoder

from langchain_rerank.bulk.blocks import ERRORS, PARQUET, BlockScorer, Columns, plan
from langchain_rerank.bulk.job import SUMMARY, claimed, input_files, manifest, write_json
from langchain_rerank.cross_encoders.base import DEFAULT_MODEL
from langchain_rerank.cross_encoders.torch import TorchCrossEncoder
from langchain_rerank.errors import ScoringError, require
from langchain_rerank.ray_session import connected

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

__all__ = ["BulkProgress", "BulkResult", "Columns", "rerank_files"]

# Each of Ray's blocks costs the driver memory and time; past this, one holds several of ours.
_MOST_RAY_BLOCKS = 10_000


@dataclass(frozen=True, slots=True)
class BulkProgress:
    """Where a running job stands."""

    blocks: int
    """Blocks of the job."""
    finished: int
    """Blocks finished, in earlier runs too."""
    pairs: int
    """Pairs scored in this run."""
    pairs_per_s: float


@dataclass(frozen=True, slots=True)
class BulkResult:
    """What a run of a job did; the job is finished."""

    output: Path
    """Folder of the parts, in the order of the input by name."""
    blocks: int
    """Blocks of the job."""
    skipped: int
    """Blocks that were finished before this run."""
    rows: int
    """Rows scored in this run."""
    pairs: int
    """Pairs scored in this run."""
    seconds: float
    """Of this run, loading of models included."""

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
    progress: Callable[[BulkProgress], None] | None = None,
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
        cpus_per_worker: Cores of an actor; None shares this machine's cores, and takes 1 each on
            a cluster.
        gpus_per_worker: GPUs of an actor, also a fraction; None shares this machine's GPUs, and
            takes none on a cluster.
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
        ending = "parquet" if files[0].suffix.lower() in PARQUET else "jsonl"
        tasks = [
            {**asdict(block), "part": str(part)}
            for block in blocks
            if not (part := output / f"part-{block.number:08d}.{ending}").exists()
        ]
        result = BulkResult(output, len(blocks), len(blocks) - len(tasks), 0, 0, 0.0)
        summary = output / SUMMARY
        if tasks:
            # It says that the job is finished.
            summary.unlink(missing_ok=True)
            scorer = (cross_encoder, columns, top_n)
            resources = (min(workers, len(tasks)), cpus_per_worker, gpus_per_worker)
            # Closed at once after an error too: no actor works on in a folder that is free.
            with closing(_scored(tasks, scorer, *resources)) as reports:
                result = _total(result, reports, progress)
        if not summary.exists():
            last = {"rows": result.rows, "pairs": result.pairs, "seconds": result.seconds}
            write_json(summary, {"blocks": result.blocks, "last_run": last})
    return result


def _total(
    result: BulkResult,
    reports: Iterator[dict[str, Any]],
    progress: Callable[[BulkProgress], None] | None,
) -> BulkResult:
    """Add up the reports of blocks; raises what a block failed by, of a type in `ERRORS`."""
    finished, started = result.skipped, time.monotonic()
    for done in reports:
        if done["error"]:
            raise ERRORS[done["error"]](done["message"])
        finished += 1
        result = replace(
            result,
            rows=result.rows + done["rows"],
            pairs=result.pairs + done["pairs"],
            seconds=time.monotonic() - started,
        )
        if progress:
            progress(BulkProgress(result.blocks, finished, result.pairs, result.pairs_per_s))
    return result


def _scored(
    tasks: list[dict[str, Any]],
    scorer: tuple[BaseCrossEncoder, Columns, int | None],
    workers: int,
    cpus: float | None,
    gpus: float | None,
) -> Generator[dict[str, Any]]:
    """Score blocks in actors, giving what is reported of each as it is finished."""
    with connected(), _quiet_data():
        import ray
        from ray.exceptions import RayError

        cpus, gpus = _each(workers, cpus, gpus)
        blocks = min(len(tasks), _MOST_RAY_BLOCKS)
        reports = ray.data.from_items(tasks, override_num_blocks=blocks).map(
            BlockScorer,  # type: ignore[arg-type]  # a class whose objects are called, as Ray says
            fn_constructor_args=(*scorer, max(1, int(cpus))),
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
            num_cpus=cpus,
            num_gpus=gpus,
        )
        try:
            yield from reports.iter_rows()
        except RayError as error:
            msg = f"Ray could not finish the job, whose finished blocks stay: {error}"
            raise ScoringError(msg) from error


def _each(workers: int, cpus: float | None, gpus: float | None) -> tuple[float, float]:
    """Return CPUs and GPUs of each worker on the connected Ray; None shares this machine's.

    Raises:
        ValueError: A single machine has fewer than all of them take.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # Ray left it so
    if len(nodes) > 1:
        return 1 if cpus is None else cpus, gpus or 0
    there = nodes[0].get("CPU", 0.0), nodes[0].get("GPU", 0.0)
    for name, wanted, has in (("CPUs", cpus, there[0]), ("GPUs", gpus, there[1])):
        if wanted is not None and wanted * workers > has:
            msg = (
                f"{workers} workers of {wanted:g} {name} need {wanted * workers:g}, "
                f"this machine's Ray has {has:g}: take fewer workers or less for each"
            )
            raise ValueError(msg)
    return (
        _whole(there[0] / workers) if cpus is None else cpus,
        min(1.0, _whole(there[1] / workers)) if gpus is None else gpus,
    )


def _whole(number: float) -> float:
    """Cut to what Ray takes: whole numbers above 1, else four decimals."""
    return float(int(number)) if number > 1 else math.floor(number * 10_000) / 10_000


@contextmanager
def _quiet_data() -> Iterator[None]:
    """Keep Ray Data's progress bars and logs to itself for a while."""
    from ray.data import DataContext

    context = DataContext.get_current()
    logger = logging.getLogger("ray.data")
    before = context.enable_progress_bars, logger.level
    context.enable_progress_bars = False
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.enable_progress_bars = before[0]
        logger.setLevel(before[1])
