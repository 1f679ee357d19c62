"""A job's output folder: what is to be done, and what is done."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_rerank.bulk.blocks import Block, format_of
from langchain_rerank.files import UNFINISHED, replacing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_core.cross_encoders import BaseCrossEncoder

    from langchain_rerank.bulk.rows import Columns
    from langchain_rerank.bulk.run import BulkResult

# Readers of a folder of Parquet files or JSON lines leave out names that start with "_".
MANIFEST = "_job.json"
SUMMARY = "_summary.json"
_LOCK = ".lock"
# Settings that decide how scores are got, not what they are: another run may have others. Not
# `batch_tokens`: what is scored beside a pair changes its score a little, in int8 by up to 0.18.
_FREE_TO_CHANGE = {
    *("num_threads", "show_progress"),
    *("api_key", "headers", "max_concurrency", "max_documents", "max_reply_bytes", "max_retries"),
    *("timeout", "connect_timeout", "read_timeout"),
}
# Raise it with every change of what the manifest holds or of how blocks are cut.
_VERSION = 2


@dataclass(frozen=True, slots=True)
class Job:
    """What decides the content of the output folder."""

    files: list[Path]
    block_rows: int
    columns: Columns
    top_n: int | None
    cross_encoder: BaseCrossEncoder

    def manifest(self) -> dict[str, Any]:
        """Describe the job, so that another run can tell whether it is the same."""
        return {
            "version": _VERSION,
            "inputs": [
                {"path": str(file), "bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}
                for file in self.files
                for stat in [file.stat()]
            ],
            "block_rows": self.block_rows,
            "columns": asdict(self.columns),
            "top_n": self.top_n,
            "model": describe(self.cross_encoder),
        }


def describe(cross_encoder: BaseCrossEncoder) -> dict[str, Any]:
    """Name a cross encoder and, where it is a pydantic model, the settings that decide scores."""
    described: dict[str, Any] = {"class": type(cross_encoder).__name__}
    if hasattr(cross_encoder, "model_dump"):
        described.update(cross_encoder.model_dump(mode="json", exclude=_FREE_TO_CHANGE))
    for name in ("model", "model_name"):
        if isinstance(value := getattr(cross_encoder, name, None), str):
            described[name] = value
            # Other weights under the same path are another model.
            if files := sorted(file for file in Path(value).glob("**/*") if file.is_file()):
                stats = {str(file.relative_to(value)): file.stat() for file in files}
                described["files"] = {
                    file: [stat.st_size, stat.st_mtime_ns] for file, stat in stats.items()
                }
    return described


@contextmanager
def claimed(output: Path, job: Job) -> Iterator[None]:
    """Make the output folder a job's, or check that it is already; held by one run at a time.

    Raises:
        ValueError: The folder holds another job, or files of no job, or a run is at work in it.
        OSError: The folder can't be made or written.
    """
    from filelock import FileLock, Timeout

    output.mkdir(parents=True, exist_ok=True)
    lock = FileLock(output / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        msg = f"another run is at work in {output}: wait for it, or choose another output folder"
        raise ValueError(msg) from error
    try:
        # What a killed writer has left.
        for path in output.glob(f"{UNFINISHED}*"):
            path.unlink(missing_ok=True)
        _check(output, json.loads(json.dumps(job.manifest())))
        yield
    finally:
        lock.release()


def _check(output: Path, wanted: dict[str, Any]) -> None:
    """Compare a job with the one whose folder it is; a new folder gets its manifest."""
    path = output / MANIFEST
    if not path.exists():
        if strangers := sorted(file.name for file in output.iterdir() if file.name != _LOCK):
            msg = f"{output} holds other files, such as {strangers[0]}: choose an empty folder"
            raise ValueError(msg)
        write_json(path, wanted)
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        msg = f"{path} is no manifest of a bulk job ({error}): choose another output folder"
        raise ValueError(msg) from error
    if differences := _differences(found, wanted):
        msg = (
            f"{output} holds another job: {'; '.join(differences)}. Run that job again to finish "
            "it, choose another output folder, or delete this one"
        )
        raise ValueError(msg)


def part_path(output: Path, block: Block, files: list[Path]) -> Path:
    """Return where the rows of a block go; the file is there once the block is finished."""
    return output / f"part-{block.number:08d}.{format_of(files[0])}"


def write_summary(output: Path, result: BulkResult) -> None:
    """Mark a job as finished, with what its last run did."""
    last = {"rows": result.rows, "pairs": result.pairs, "seconds": result.seconds}
    write_json(output / SUMMARY, {"blocks": result.blocks, "last_run": last})


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with replacing(path, binary=True) as file:
        file.write(json.dumps(content, indent=2).encode("utf-8") + b"\n")


def _differences(found: Any, wanted: dict[str, Any]) -> list[str]:
    """Say where two manifests differ, nested settings by their own names."""
    if not isinstance(found, dict):
        return [f"expected a manifest, found {type(found).__name__}"]
    said = []
    for name in dict.fromkeys([*found, *wanted]):
        before, now = found.get(name), wanted.get(name)
        if before == now:
            continue
        if name == "files":
            said.append("files have changed since")
        elif isinstance(before, dict) and isinstance(now, dict):
            said += [f"{name} {one}" for one in _differences(before, now)]
        elif name == "inputs":
            said.append(_input_difference(before, wanted["inputs"]))
        else:
            said.append(f"{name} was {before!r}, is now {now!r}")
    return said


def _input_difference(before: Any, now: list[dict[str, Any]]) -> str:
    was = {one["path"]: one for one in before} if isinstance(before, list) else {}
    for one in now:
        if one["path"] not in was:
            return f"its inputs are without {one['path']}"
        if was[one["path"]] != one:
            return f"its input {one['path']} has changed since"
    return f"it has {len(was)} inputs, not {len(now)}"
