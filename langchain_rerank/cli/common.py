"""What the commands share: the console, errors, `--model` and `--backend`, a cached index."""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langchain_chroma import Chroma
    from langchain_core.documents import Document

    from langchain_rerank.cross_encoders.base import LocalCrossEncoder

console = Console(highlight=False)
OFFLINE = "offline"
Model = Annotated[
    str, typer.Option(help="Reranker: a hub name, a folder, or 'offline', the extra of that name.")
]
Backend = Annotated[
    Literal["torch", "onnx"],
    typer.Option(help="'torch', or 'onnx': in int8, faster on a CPU."),
]


Docs = Annotated[Path | None, typer.Option(help="Folder of .txt, .md, .rst, .py to ask.")]
Llm = Annotated[
    str | None, typer.Option(help="Who answers: 'offline', or provider:model as openai:gpt-4.1.")
]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End in one line and exit status 2 whatever a user, a file or a provider did wrong."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        line = " ".join(str(error).split()) or type(error).__name__
        Console(stderr=True, highlight=False, soft_wrap=True).print(Text(f"error: {line}", "red"))
        raise typer.Exit(2) from error


def build_cross_encoder(model: str, backend: str = "torch") -> LocalCrossEncoder:
    """Build the cross encoder that `--model` and `--backend` name; nothing is loaded.

    Raises:
        MissingDependencyError: "offline", and its extra is not installed.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if model == OFFLINE:
        # Said before transformers is imported, which reads it once: no hub is to be asked.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from langchain_rerank.offline import offline_reranker

        model = offline_reranker()
    from langchain_rerank import OnnxCrossEncoder, TorchCrossEncoder

    return OnnxCrossEncoder(model=model) if backend == "onnx" else TorchCrossEncoder(model=model)


def cached_index(command: str, place: str, documents: Sequence[Document]) -> Chroma:
    """Open the collection of a place's corpus in the cache folder, brought up to date.

    Raises:
        ModelLoadError: The cache folder can't be written.
        MissingDependencyError: The extra `offline` is not installed.
    """
    import chromadb

    from langchain_rerank.chroma import document_id, index_documents
    from langchain_rerank.files import cache_dir, cache_errors
    from langchain_rerank.offline import OfflineEmbeddings

    index = cache_dir() / "chroma"
    with cache_errors(index):
        index.mkdir(parents=True, exist_ok=True)
    store = index_documents(
        documents,
        OfflineEmbeddings(),
        collection_name=f"{command}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:16]}",
        client=chromadb.PersistentClient(str(index)),
        show_progress=True,
    )
    outdated = set(store.get(include=[])["ids"]).difference(map(document_id, documents))
    if outdated:
        store.delete(list(outdated))
    return store
