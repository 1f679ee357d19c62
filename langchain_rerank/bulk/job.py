"""A job's output folder: what decides its content, and whose it is."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.cross_encoders import BaseCrossEncoder
from pydantic import BaseModel

from langchain_rerank.bulk.blocks import PARQUET
from langchain_rerank.files import UNFINISHED, replacing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from langchain_rerank.bulk.blocks import Columns

_ENDINGS = (*PARQUET, ".jsonl", ".ndjson", ".json")
# Readers of a folder of Parquet files or JSON lines leave out names that start with "_".
MANIFEST, SUMMARY, _LOCK = "_job.json", "_summary.json", ".lock"
# Settings that decide how scores are got, not what they are: another run may have others. Not
# `batch_tokens`: what is scored beside a pair changes its score a little, in int8 by up to 0.18.
_FREE_TO_CHANGE = {
    *("num_threads", "show_progress", "api_key", "headers", "max_concurrency", "max_documents"),
    *("max_reply_bytes", "max_retries", "timeout", "connect_timeout", "read_timeout"),
}
# Raise it with every change of what the manifest holds or of how blocks are cut.
_VERSION = 3


def input_files(inputs: str | Path | Iterable[str | Path]) -> list[Path]:
    """Give the absolute paths of the input files, those of a folder sorted by name.

    Hidden files, and those whose names start with "_", are left out of folders.

    Raises:
        FileNotFoundError: A path is not there, or a folder holds no input file.
        ValueError: No path was given, one was given twice, or the files are of two formats.
    """
    files: list[Path] = []
    for path in map(Path, [inputs] if isinstance(inputs, str | Path) else inputs):
        if not path.exists():
            msg = f"expected an input file or a folder of them, got {path}, which is not there"
            raise FileNotFoundError(msg)
        found = [path]
        if path.is_dir():
            visible = (file for file in sorted(path.iterdir()) if file.name[0] not in "._")
            found = [file for file in visible if file.suffix.lower() in _ENDINGS]
        if not found:
            msg = f"expected files that end in {', '.join(_ENDINGS)} in {path}, found none"
            raise FileNotFoundError(msg)
        files += [file.resolve() for file in found]
    if not files:
        msg = "expected at least one input file, got none"
        raise ValueError(msg)
    for file in files:
        if file.suffix.lower() not in _ENDINGS:
            msg = f"expected a file that ends in {', '.join(_ENDINGS)}, got {file}"
            raise ValueError(msg)
        if files.count(file) > 1:
            msg = f"expected each input file once, got {file} twice"
            raise ValueError(msg)
    if len({file.suffix.lower() in PARQUET for file in files}) > 1:
        msg = "expected input files of one format, got jsonl and parquet: give each its own job"
        raise ValueError(msg)
    return files


def manifest(
    files: list[Path],
    block_rows: int,
    columns: Columns,
    top_n: int | None,
    cross_encoder: BaseCrossEncoder,
) -> dict[str, Any]:
    """Describe a job by all that changes its output, so that another run can tell it."""
    return {
        "version": _VERSION,
        "inputs": {str(file): _stamp(file) for file in files},
        "block_rows": block_rows,
        "columns": asdict(columns),
        "top_n": top_n,
        "model": describe(cross_encoder),
    }


def _stamp(file: Path) -> list[int]:
    return [file.stat().st_size, file.stat().st_mtime_ns]


def describe(thing: Any) -> Any:
    """Describe what decides the scores of a cross encoder, of one around another the inner's too.

    A text that may be a secret is told by its digest.
    """
    if isinstance(thing, BaseModel):
        settings = thing.model_dump(mode="json", exclude=_FREE_TO_CHANGE, fallback=describe)
    else:
        if not isinstance(thing, BaseCrossEncoder):
            return type(thing).__name__
        settings = {name: _setting(name, value) for name, value in vars(thing).items()}
        settings = {name: value for name, value in settings.items() if value is not None}
    described = {"class": type(thing).__name__, **settings}
    for name in ("model", "model_name"):
        if isinstance(value := getattr(thing, name, None), str):
            described[name] = value
            # Other weights under the same path are another model.
            if files := sorted(file for file in Path(value).glob("**/*") if file.is_file()):
                described["files"] = {str(file.relative_to(value)): _stamp(file) for file in files}
    return described


def _setting(name: str, value: Any) -> Any:
    if isinstance(value, BaseCrossEncoder):
        return describe(value)
    if isinstance(value, str | os.PathLike) and name not in _FREE_TO_CHANGE:
        return hashlib.sha256(os.fsencode(value)).hexdigest()[:16]
    return value if isinstance(value, bool | int | float) and name not in _FREE_TO_CHANGE else None


@contextmanager
def claimed(output: Path, wanted: dict[str, Any]) -> Iterator[None]:
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
        _check(output, json.loads(json.dumps(wanted)))
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
        was, now = _flat(json.loads(path.read_text(encoding="utf-8"))), _flat(wanted)
    except (ValueError, RecursionError) as error:
        msg = f"{path} is no manifest of a bulk job ({error}): choose another output folder"
        raise ValueError(msg) from error
    names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    if names:
        said = [f"{name} was {was.get(name)!r}, is now {now.get(name)!r}" for name in names]
        msg = (
            f"{output} holds another job: {'; '.join(said[:5])}. Run that job again to finish it, "
            "choose another output folder, or delete this one"
        )
        raise ValueError(msg)


def _flat(content: Any, name: str = "") -> dict[str, Any]:
    """Name each value of nested settings by all names on the way there."""
    if not isinstance(content, dict):
        return {name: content}
    nested = (_flat(value, f"{name} {key}".strip()) for key, value in content.items())
    return {key: value for one in nested for key, value in one.items()}


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with replacing(path, binary=True) as file:
        file.write(json.dumps(content, indent=2).encode() + b"\n")
