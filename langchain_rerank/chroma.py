"""An idempotent Chroma collection made for reranking."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from langchain_core.documents import Document

from langchain_rerank.errors import RerankError
from langchain_rerank.ranking import check_document
from langchain_rerank.shared_folder import (
    batches,
    local_folder,
    lost_vectors,
    only_writer,
    take_over,
    vectors,
)
from langchain_rerank.text import well_formed

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from chromadb.api import ClientAPI
    from chromadb.api.collection_configuration import CreateHNSWConfiguration
    from chromadb.api.models.Collection import Collection
    from langchain_chroma import Chroma
    from langchain_core.embeddings import Embeddings

# HNSW looks at no more than ef_search neighbours, so fetch_k above it would quietly return fewer
# or worse candidates. Chroma's default is 100; this serves fetch_k up to 200 with room to spare.
_HNSW: CreateHNSWConfiguration = {"space": "cosine", "ef_search": 400, "ef_construction": 200}
# The same text's vectors by one model differ in rounding, and by int8 or batch noise, at most.
_SAME_MODEL_COSINE = 0.98


def index_documents(  # noqa: PLR0913  # the last three all have defaults
    documents: Iterable[Document],
    embeddings: Embeddings,
    *,
    collection_name: str = "langchain",
    persist_directory: str | Path | None = None,
    client: ClientAPI | None = None,
    show_progress: bool = False,
) -> Chroma:
    """Put documents into a Chroma collection in cosine space, each of them once.

    A document without an id gets one made of its text and metadata, so the same text of two pages
    or files is kept twice. What the collection already holds in the same form is neither embedded
    nor written again, so an interrupted run goes on where it stopped; one document is embedded each
    time, to see that the embeddings are still the same. A known id with another text or other
    metadata is updated; documents that are not in `documents` stay.

    One process at a time indexes into a folder; another one waits, and says so. What others wrote
    meanwhile stays. Vectors that Chroma has lost all the same are embedded and written again, and a
    warning says how many.

    Args:
        documents: What to index. They are not changed.
        embeddings: Model for documents now and for queries later.
        collection_name: Chroma's default name in LangChain, so that
            `Chroma(persist_directory=…, embedding_function=…)` opens it again.
        persist_directory: Folder to keep the collection in; None keeps it in memory, where
            Chroma shares it between all stores of that name in the process.
        client: A Chroma client to use instead, such as `chromadb.HttpClient(host=…)`.
        show_progress: Show a progress bar over the documents that have to be embedded.

    Returns:
        The vector store, to hand to `create_rerank_retriever`.

    Raises:
        TypeError: A text is not a str.
        ValueError: `client` comes with `persist_directory`, one id names two different documents,
            metadata hold what Chroma can't store, or the collection is of another space or was
            made with other embeddings. Nothing has been written then.
        RerankError: Vectors are lost and can't be written again.

    Example:
        >>> from langchain_core.documents import Document
        >>> from langchain_rerank import index_documents
        >>> from langchain_rerank.offline import OfflineEmbeddings
        >>> documents = [Document("Berlin has 3,520,031 inhabitants.")]
        >>> store = index_documents(documents, OfflineEmbeddings(), collection_name="cities")
        >>> store.similarity_search("How many people live in Berlin?", k=1)[0].page_content
        'Berlin has 3,520,031 inhabitants.'
    """
    import chromadb
    from langchain_chroma import Chroma
    from tqdm.auto import tqdm

    if client is not None and persist_directory is not None:
        msg = f"expected client or persist_directory, got both ({persist_directory})"
        raise ValueError(msg)
    prepared = _prepare(documents)
    folder = persist_directory if client is None else local_folder(client)
    with only_writer(folder) as others_wrote:
        # Settings stay Chroma's own: all clients of a folder in one process must have the same.
        if client is None and folder is not None:
            client = chromadb.PersistentClient(str(folder))
        client = client or chromadb.EphemeralClient()
        collection = client.get_or_create_collection(
            collection_name, configuration={"hnsw": _HNSW}, embedding_function=None
        )
        if others_wrote:
            take_over(client, collection)
        _check_collection(collection, embeddings)
        store = Chroma(collection_name, embeddings, client=client)
        missing = _missing(collection, prepared)
        disable = not (show_progress and missing)
        with tqdm(total=len(missing), desc="Indexing", unit="doc", disable=disable) as bar:
            for batch in batches(missing):
                store.add_documents(batch)
                bar.update(len(batch))
        _restore(store, collection)
    return store


def document_id(document: Document) -> str:
    """Return the document's id, or the one it gets from its text and metadata."""
    if document.id:
        return well_formed(document.id)
    metadata = {str(name): one for name, one in document.metadata.items() if one is not None}
    content = json.dumps([document.page_content, metadata], sort_keys=True, default=repr)
    return hashlib.sha256(content.encode()).hexdigest()


def _prepare(documents: Iterable[Document]) -> dict[str, Document]:
    """Check documents and key them by id, as Chroma will store them."""
    prepared: dict[str, Document] = {}
    for position, document in enumerate(documents):
        check_document(document, position)
        metadata = _stored_metadata(document.metadata, position)
        key = document_id(document)
        stored = Document(well_formed(document.page_content), metadata=metadata, id=key)
        if prepared.setdefault(key, stored) != stored:
            msg = f"document {position} has the id '{key}' of an earlier, different document"
            raise ValueError(msg)
    return prepared


def _stored_metadata(metadata: dict[str, Any], position: int) -> dict[str, Any]:
    """Metadata as Chroma gives them back, without None; an error for what it would lose."""
    stored: dict[str, Any] = {}
    for name, value in metadata.items():
        field = f"metadata field {name!r} of document {position}"
        if not isinstance(name, str):
            msg = f"{field} must be named by a str"
            raise TypeError(msg)
        if value is None:
            continue
        if name[:1] in ("", "#", "$") or name == "chroma:document":
            msg = f"{field} has a name that Chroma reserves"
            raise ValueError(msg)
        values = value if isinstance(value, list) else [value]
        if len(set(map(type, values))) != 1 or not all(map(_storable, values)):
            msg = (
                f"{field} must be a str, bool, finite float, 64-bit int or a list of one of these "
                f"for Chroma, got {value!r:.80}: convert or drop it"
            )
            raise ValueError(msg)
        values = [well_formed(one) if isinstance(one, str) else one for one in values]
        stored[well_formed(name)] = values if isinstance(value, list) else values[0]
    return stored


def _storable(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str) or (isinstance(value, int) and -(2**63) <= value < 2**63)


def _check_collection(collection: Collection, embeddings: Embeddings) -> None:
    """Check the space, and embed one known document again: a mixture of models finds nothing."""
    space = (collection.configuration_json.get("hnsw") or {}).get("space")
    if space != _HNSW["space"]:
        msg = (
            f"collection '{collection.name}' exists in {space} space, expected cosine: choose "
            "another collection_name, or delete it and index again"
        )
        raise ValueError(msg)
    parts = batches(collection.get(include=[])["ids"])
    held = (one for ids in parts for one in vectors(collection, ids).items())
    for key, then in islice(held, 1):
        for document in _stored(collection, [key]):
            [now] = embeddings.embed_documents([document.page_content])
            norms = max(float(np.linalg.norm(now) * np.linalg.norm(then)), 1e-12)
            if len(now) != len(then) or np.dot(now, then) / norms < _SAME_MODEL_COSINE:
                msg = (
                    f"collection '{collection.name}' was made with other embeddings: its document "
                    f"'{key}' now gets another vector. Use the same model, or another "
                    "collection_name"
                )
                raise ValueError(msg)


def _stored(collection: Collection, ids: list[str]) -> Iterator[Document]:
    """Read documents by id, those that have a text."""
    for batch in batches(ids):
        found = collection.get(ids=batch, include=["documents", "metadatas"])
        rows = zip(found["ids"], found["documents"] or (), found["metadatas"] or (), strict=True)
        for key, text, metadata in rows:
            if text is not None:
                yield Document(text, metadata=dict(metadata or {}), id=key)


def _missing(collection: Collection, prepared: dict[str, Document]) -> list[Document]:
    """Return the documents that the collection lacks or holds in another form.

    Chroma merges new metadata into the old: a field that the document no longer has goes by None.
    """
    missing = dict(prepared)
    for known in _stored(collection, list(prepared)):
        document = missing.pop(str(known.id))
        same = known.metadata.keys() == document.metadata.keys() and all(
            _equal(value, document.metadata[name]) for name, value in known.metadata.items()
        )
        if not same or known.page_content != document.page_content:
            metadata = {**dict.fromkeys(known.metadata), **document.metadata}
            missing[str(known.id)] = document.model_copy(update={"metadata": metadata})
    return list(missing.values())


def _equal(stored: object, given: object) -> bool:
    """Whether values are the same; Chroma's floats come back off by one in the last place."""
    if isinstance(stored, list) and isinstance(given, list):
        return len(stored) == len(given) and all(map(_equal, stored, given))
    if isinstance(stored, float) and isinstance(given, float):
        return math.isclose(stored, given, rel_tol=1e-12)
    # A filter tells True from 1, and 1 from 1.0.
    kinds = [[isinstance(one, kind) for kind in (bool, float)] for one in (stored, given)]
    return stored == given and kinds[0] == kinds[1]


def _restore(store: Chroma, collection: Collection) -> None:
    """Embed and write again the documents whose vectors are lost."""
    lost = lost_vectors(collection)
    if not lost:
        return
    for batch in batches(list(_stored(collection, lost))):
        store.add_documents(batch)
    if still := lost_vectors(collection):
        msg = (
            f"collection '{collection.name}' lacks the vectors of {len(still)} documents, such as "
            f"'{still[0]}', and they can't be written again: delete these documents, or the "
            "collection, and index again"
        )
        raise RerankError(msg)
    logger.warning(
        "collection '%s' had lost the vectors of %d documents, as happens where two processes "
        "have a folder open; they have been written again",
        collection.name,
        len(lost),
    )
