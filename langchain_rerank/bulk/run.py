"""Bulk reranking over Ray Data: a job that can be killed and started again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.cross_encoders import BaseCrossEncoder

from langchain_rerank.bulk import job as jobs
from langchain_rerank.bulk import session
from langchain_rerank.bulk.blocks import input_files, plan
from langchain_rerank.bulk.records import BulkProgress, BulkResult
from langchain_rerank.bulk.rows import Columns
from langchain_rerank.bulk.scorer import ERRORS, BlockScorer
from langchain_rerank.cross_encoders.base import DEFAULT_MODEL
from langchain_rerank.cross_encoders.torch import TorchCrossEncoder
from langchain_rerank.errors import ScoringError, require
from langchain_rerank.ray_session import connected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# Each of Ray's blocks costs the driver memory and time; past this, one holds several of ours.
_MOST_RAY_BLOCKS = 10_000


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
    for name, value in (("workers", workers), ("top_n", top_n)):
        if value is not None and value < 1:
            msg = f"{name} must be at least 1, got {value}"
            raise ValueError(msg)
    cross_encoder = TorchCrossEncoder(model=model) if isinstance(model, str) else model
    job = jobs.Job(input_files(inputs), block_rows, columns or Columns(), top_n, cross_encoder)
    output = Path(output).resolve()
    blocks = plan(job.files, block_rows)
    with jobs.claimed(output, job):
        parts = [jobs.part_path(output, block, job.files) for block in blocks]
        tasks = [
            {**asdict(block), "part": str(part)}
            for block, part in zip(blocks, parts, strict=True)
            if not part.exists()
        ]
        tally = _Tally(len(blocks), len(blocks) - len(tasks), progress)
        summary = output / jobs.SUMMARY
        if tasks:
            # It says that the job is finished.
            summary.unlink(missing_ok=True)
            share = session.Share(min(workers, len(tasks)), cpus_per_worker, gpus_per_worker)
            _run(tasks, job, share, tally.add)
        result = tally.result(output)
        if not summary.exists():
            jobs.write_summary(output, result)
    return result


class _Tally:
    """Adds up what the actors report."""

    def __init__(
        self, blocks: int, skipped: int, progress: Callable[[BulkProgress], None] | None
    ) -> None:
        self._blocks = blocks
        self._skipped = skipped
        self._progress = progress
        self._finished = skipped
        self._rows = self._pairs = 0
        self._started, self._ended = float("inf"), 0.0

    def add(self, done: dict[str, Any]) -> None:
        """Count one block.

        Raises:
            Exception: That by which the block failed, of one of the types in `ERRORS`.
        """
        if done["error"]:
            raise ERRORS[done["error"]](done["message"])
        self._finished += 1
        self._rows += done["rows"]
        self._pairs += done["pairs"]
        self._started = min(self._started, done["started"])
        self._ended = max(self._ended, done["ended"])
        if self._progress:
            rate = self._pairs / max(self._seconds, 1e-9)
            self._progress(BulkProgress(self._blocks, self._finished, self._pairs, rate))

    @property
    def _seconds(self) -> float:
        return max(0.0, self._ended - self._started)

    def result(self, output: Path) -> BulkResult:
        """Sum up, all blocks being finished."""
        return BulkResult(
            output, self._blocks, self._skipped, self._rows, self._pairs, self._seconds
        )


def _run(
    tasks: list[dict[str, Any]],
    job: jobs.Job,
    share: session.Share,
    add: Callable[[dict[str, Any]], None],
) -> None:
    """Score blocks in actors, handing on what is reported of each as it is finished."""
    with connected():
        import ray
        from ray.exceptions import RayError

        cpus, gpus = share.of_this_ray()
        scorer = (job.cross_encoder, job.columns, job.top_n, max(1, int(cpus)))
        with session.quiet_data():
            reports = ray.data.from_items(
                tasks, override_num_blocks=min(len(tasks), _MOST_RAY_BLOCKS)
            ).map_batches(
                BlockScorer,
                fn_constructor_args=scorer,
                batch_size=1,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(
                    size=share.workers, max_tasks_in_flight_per_actor=1
                ),
                num_cpus=cpus,
                num_gpus=gpus,
            )
            try:
                for done in reports.iter_rows():
                    add(done)
            except RayError as error:
                msg = f"Ray could not finish the job, whose finished blocks stay: {error}"
                raise ScoringError(msg) from error
