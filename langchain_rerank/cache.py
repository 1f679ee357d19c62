"""The folder for files that can be made again: unpacked models, the demo's index."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from langchain_rerank.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Iterator

CACHE_VARIABLE = "LANGCHAIN_RERANK_CACHE"


def cache_dir() -> Path:
    """Return the user's cache folder for this package, or what `LANGCHAIN_RERANK_CACHE` names.

    It need not exist yet.
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
        msg = (
            f"The cache folder {folder} can't be created or written: {error}. "
            f"Set the environment variable {CACHE_VARIABLE} to a folder that can."
        )
        raise ModelLoadError(msg) from error
