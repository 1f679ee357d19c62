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
MANIFEST, _LOCK = "_job.json", ".lock"
# Settings that decide how scores are got, not what they are: another run may have others. Not
# `batch_tokens`: what is scored beside a pair changes its score a little, in int8 by up to 0.18.
_FREE_TO_CHANGE = {
    *("num_threads", "show_progress", "api_key", "headers", "max_concurrency", "max_documents"),
    *("max_reply_bytes", "max_retries", "timeout", "connect_timeout", "read_timeout"),
}
# Raise it with every change of what the manifest holds or of how blocks are cut.
_VERSION = 4


def input_files(inputs: str | Path | Iterable[str | Path]) -> list[Path]:
    """Give the absolute paths of the input files, those of a folder sorted by name.

    Hidden files, and those whose names start with "_", are left out of folders.

    Raises:
        FileNotFoundError: A path is not there, or a folder holds no input file.
        ValueError: One was given twice, or they are of no format or of two.
    """
    files: list[Path] = []
    for path in map(Path, [inputs] if isinstance(inputs, str | Path) else inputs):
        found = sorted(path.iterdir()) if path.is_dir() else [path]
        if path.is_dir():
            found = [
                one for one in found if one.suffix.lower() in _ENDINGS and one.name[0] not in "._"
            ]
        if not found or not path.exists():
            msg = f"expected an input file or a folder of {', '.join(_ENDINGS)}, none is at {path}"
            raise FileNotFoundError(msg)
        files += [one.resolve() for one in found]
    if strangers := [one for one in files if one.suffix.lower() not in _ENDINGS]:
        msg = f"expected files that end in {', '.join(_ENDINGS)}, got {strangers[0]}"
        raise ValueError(msg)
    if len({one.suffix.lower() in PARQUET for one in files}) != 1:
        msg = f"expected input files of one format, JSON lines or Parquet, got {len(files)}"
        raise ValueError(msg)
    if twice := [one for one in files if files.count(one) > 1]:
        msg = f"expected each input file once, got {twice[0]} twice"
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
        "model": _described(cross_encoder),
    }


def _stamp(file: Path) -> list[int]:
    return [file.stat().st_size, file.stat().st_mtime_ns]


def _described(thing: Any) -> Any:
    """Tell what decides the scores of a cross encoder, also of one inside another."""
    if isinstance(thing, bool | int | float | None):
        return thing
    if isinstance(thing, str | os.PathLike):  # it may be a secret
        return hashlib.sha256(os.fsencode(thing)).hexdigest()[:16]
    if isinstance(thing, BaseModel):
        settings = thing.model_dump(mode="json", exclude=_FREE_TO_CHANGE, fallback=_described)
    elif isinstance(thing, BaseCrossEncoder):
        own = {name: value for name, value in vars(thing).items() if name not in _FREE_TO_CHANGE}
        settings = {name: _described(value) for name, value in own.items()}
    else:
        return type(thing).__name__
    described = {"class": type(thing).__name__, **settings}
    for name in ("model", "model_name"):
        if isinstance(value := getattr(thing, name, None), str):
            described[name] = value
            # Other weights under the same path are another model.
            for file in sorted(one for one in Path(value).glob("**/*") if one.is_file()):
                described[f"file {file.relative_to(value)}"] = _stamp(file)
    return described


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
        for other in output.iterdir():
            if other.name != _LOCK:
                msg = f"{output} holds other files, such as {other.name}: choose an empty folder"
                raise ValueError(msg)
        with replacing(path) as file:
            json.dump(wanted, file, indent=2)
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
