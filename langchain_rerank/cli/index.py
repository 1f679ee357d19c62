"""A corpus as a Chroma collection in the cache folder, for commands that need a dense index."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from langchain_rerank.cli.console import console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_chroma import Chroma
    from langchain_core.documents import Document


def cached_index(command: str, place: str, documents: Sequence[Document]) -> Chroma:
    """Open the collection of a corpus, after indexing what it lacks with the offline embeddings.

    Args:
        command: Who asks; each command has collections of its own.
        place: What the corpus is: a collection of the same place with other documents is deleted.
        documents: The corpus.

    Raises:
        ModelLoadError: The cache folder can't be written.
        MissingDependencyError: The extra `offline` is not installed.
    """
    import chromadb

    from langchain_rerank.cache import cache_dir, cache_errors
    from langchain_rerank.chroma import document_id, index_documents
    from langchain_rerank.offline import OfflineEmbeddings

    corpus = f"{command}-{_digest(place)}-"
    name = corpus + _digest(*sorted(map(document_id, documents)))
    index = cache_dir() / "chroma"
    with cache_errors(index):
        index.mkdir(parents=True, exist_ok=True)
    client = chromadb.PersistentClient(str(index))
    known = [collection.name for collection in client.list_collections()]
    for outdated in known:
        if outdated.startswith(corpus) and outdated != name:
            client.delete_collection(outdated)
    if name not in known:
        console.print("Indexing the passages, once:")
    return index_documents(
        documents, OfflineEmbeddings(), collection_name=name, client=client, show_progress=True
    )


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
