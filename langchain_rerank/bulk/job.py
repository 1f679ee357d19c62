"""A job's output folder: what decides its content, and whose it is."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from langchain_core.cross_encoders import BaseCrossEncoder
from pydantic import BaseModel

from langchain_rerank.files import UNFINISHED, replacing

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def manifest(
    files: list[Path], cross_encoder: BaseCrossEncoder, settings: dict[str, Any]
) -> dict[str, Any]:
    """Describe a job by all that changes its output, so that another run can tell it."""
    inputs = {str(file): _stamp(file) for file in files}
    return {"version": _VERSION, "inputs": inputs, **settings, "model": _described(cross_encoder)}


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
    output.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(output / _LOCK).acquire(timeout=0)
    except Timeout as error:
        msg = f"another run is at work in {output}: wait for it, or choose another output folder"
        raise ValueError(msg) from error
    with held:
        # What a killed writer has left.
        for path in output.glob(f"{UNFINISHED}*"):
            path.unlink(missing_ok=True)
        _check(output, json.loads(json.dumps(wanted)))
        yield


def _check(output: Path, wanted: dict[str, Any]) -> None:
    """Compare a job with the one whose folder it is; a new folder gets its manifest."""
    path = output / MANIFEST
    if not path.exists():
        if others := [other.name for other in output.iterdir() if other.name != _LOCK]:
            msg = f"{output} holds other files, such as {others[0]}: choose an empty folder"
            raise ValueError(msg)
        with replacing(path) as file:
            json.dump(wanted, file, indent=2)
        return
    try:
        was, now = _flat(json.loads(path.read_text(encoding="utf-8"))), _flat(wanted)
    except (ValueError, RecursionError) as error:
        msg = f"{path} is no manifest of a bulk job ({error}): choose another output folder"
        raise ValueError(msg) from error
    if names := [name for name in {**was, **now} if was.get(name) != now.get(name)]:
        said = [f"{name} was {was.get(name)!r}, is now {now.get(name)!r}" for name in names[:5]]
        msg = (
            f"{output} holds another job: {'; '.join(said)}. Run that job again to finish it, "
            "choose another output folder, or delete this one"
        )
        raise ValueError(msg)


def _flat(content: Any, name: str = "") -> dict[str, Any]:
    """Name each value of nested settings by all names on the way there."""
    if not isinstance(content, dict):
        return {name: content}
    nested = (_flat(value, f"{name} {key}".strip()) for key, value in content.items())
    return {key: value for one in nested for key, value in one.items()}
