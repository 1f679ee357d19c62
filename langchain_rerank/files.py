"""Files and folders that appear whole or not at all, and the user's cache of such folders."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from uuid import uuid4

import platformdirs

from langchain_rerank.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CACHE_VARIABLE = "LANGCHAIN_RERANK_CACHE"
# What a killed writer leaves behind has a name that starts so.
UNFINISHED = ".unfinished-"
_MANIFEST = "manifest.json"


@contextmanager
def replacing(path: Path, *, binary: bool = False) -> Iterator[IO[Any]]:
    """Open a file to write, in UTF-8 or `binary`, which takes its place once it is on the disk.

    A file that exists is replaced; after an error it is as it was before.
    """
    temporary = path.with_name(f"{UNFINISHED}{path.name}-{uuid4().hex}")
    as_text = {} if binary else {"encoding": "utf-8", "newline": "\n"}
    try:
        with temporary.open("xb" if binary else "x", **as_text) as file:  # type: ignore[call-overload]  # a mode known at run time
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def cache_dir() -> Path:
    """Return the user's cache folder for this package, or what `LANGCHAIN_RERANK_CACHE` names.

    It holds what can be made again, and need not exist yet.
    """
    override = os.environ.get(CACHE_VARIABLE)
    if override:
        return Path(override).expanduser().absolute()
    return platformdirs.user_cache_path("langchain_rerank")


@contextmanager
def cache_errors(folder: Path) -> Iterator[None]:
    """Turn an `OSError` under a cache folder into a `ModelLoadError` that names the way out."""
    try:
        yield
    except OSError as error:
        if error.errno is None and not isinstance(error, TimeoutError):
            # No system's error: transformers raises such for a checkpoint.
            raise
        msg = (
            f"The cache folder {folder} can't be created or written: {error}. "
            f"Set the environment variable {CACHE_VARIABLE} to a folder that can."
        )
        raise ModelLoadError(msg) from error


def make_folder(
    folder: Path, fill: Callable[[Path], None], *, state: str = "", lock_timeout_s: float
) -> Path:
    """Make a folder of the cache once, whichever of several processes comes first, and check it.

    Args:
        folder: One that is there is only checked, without a lock: a read-only disk will do.
        fill: Writes all its files into a sibling of `folder`, which is renamed once complete.
        state: Of what it is made from; a folder of another state is replaced. Processes that have
            files of it open keep them.
        lock_timeout_s: A process that has held the lock for this long hangs.

    Raises:
        ModelLoadError: The cache can't be written, the lock was held too long, or a file is missing
            or damaged; the message names the way out.
    """
    from filelock import FileLock

    with cache_errors(folder.parent):
        if not _is_made(folder, state):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.parent / f".{folder.name}.lock", timeout=lock_timeout_s):
                if not _is_made(folder, state):
                    _make(folder, fill, state)
    sums = _manifest(folder).get("sha256") or {_MANIFEST: "readable"}
    for name, expected in sums.items():
        if sha256_or_none(folder / name) != expected:
            msg = (
                f"{folder / name} is damaged or missing. Delete the folder {folder} and run again."
            )
            raise ModelLoadError(msg)
    return folder


def _manifest(folder: Path) -> dict[str, Any]:
    """Read what `_make` wrote; empty where it is damaged."""
    try:
        found = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_made(folder: Path, state: str) -> bool:
    return folder.is_dir() and _manifest(folder).get("state", state) == state


def _make(folder: Path, fill: Callable[[Path], None], state: str) -> None:
    partial, old = (folder.with_name(f".{folder.name}.{mark}") for mark in ("partial", "old"))
    for left in (partial, old):
        if left.exists():
            # Whoever wrote it held the lock and is gone.
            shutil.rmtree(left)
    partial.mkdir()
    try:
        fill(partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sums = {path.name: sha256_or_none(path) for path in sorted(partial.iterdir())}
    manifest = json.dumps({"state": state, "sha256": sums}, indent=2)
    (partial / _MANIFEST).write_text(manifest, encoding="utf-8")
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def sha256_or_none(path: Path) -> str | None:
    """Return the SHA-256 sum of a file in hexadecimal, None where there is no file."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
