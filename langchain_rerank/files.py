"""Files and folders that appear whole or not at all, and the user's cache of such folders."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
from contextlib import contextmanager, suppress
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


def make_folder(folder: Path, fill: Callable[[Path], None], *, lock_timeout_s: float) -> Path:
    """Make a folder of the cache once, whichever of several processes comes first, and check it.

    Args:
        folder: Where it is there already, it is only checked, without a lock, so that a cache on a
            read-only disk works.
        fill: Writes all its files into the folder that it is given, a sibling of `folder` that
            is renamed once it is complete.
        lock_timeout_s: A process that has held the lock for this long hangs.

    Returns:
        The folder, whose files are those that were written.

    Raises:
        ModelLoadError: The cache can't be written, the lock was held too long, or a file is missing
            or damaged; the message names the way out.
    """
    from filelock import FileLock

    with cache_errors(folder.parent):
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.parent / f".{folder.name}.lock", timeout=lock_timeout_s):
                if not folder.is_dir():
                    _make(folder, fill)
    damaged = _MANIFEST
    try:
        sums = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["sha256"]
        if sums:
            wrong = (name for name in sums if sha256_or_none(folder / name) != sums[name])
            damaged = next(wrong, "")
    except (OSError, ValueError, KeyError, TypeError):
        pass
    if damaged:
        msg = f"{folder / damaged} is damaged or missing. Delete the folder {folder} and run again."
        raise ModelLoadError(msg)
    return folder


def _make(folder: Path, fill: Callable[[Path], None]) -> None:
    partial = folder.with_name(f".{folder.name}.partial")
    if partial.exists():
        # Whoever wrote it held the lock and is gone.
        shutil.rmtree(partial)
    partial.mkdir()
    try:
        fill(partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sums = {path.name: sha256_or_none(path) for path in sorted(partial.iterdir())}
    (partial / _MANIFEST).write_text(json.dumps({"sha256": sums}, indent=2), encoding="utf-8")
    partial.rename(folder)


def remove_folders(parent: Path, prefix: str) -> None:
    """Remove what `make_folder` made under names that start alike, as far as nobody makes it now.

    Processes that have files of it open keep them; where the system allows no such removal, the
    folder stays.
    """
    from filelock import FileLock, Timeout

    for lock in parent.glob(f".{glob.escape(prefix)}*.lock"):
        folder = parent / lock.name[1 : -len(".lock")]
        with suppress(Timeout, OSError), FileLock(lock, timeout=0):
            aside = folder.with_name(f".{folder.name}.partial")
            if folder.is_dir() and not aside.exists():
                # At once, so that nobody finds half of it.
                folder.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)


def sha256_or_none(path: Path) -> str | None:
    """Return the SHA-256 sum of a file in hexadecimal, None where there is no file."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
