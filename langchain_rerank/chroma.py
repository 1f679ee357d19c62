"""An idempotent Chroma collection made for reranking."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from langchain_core.documents import Document

from langchain_rerank.errors import RerankError
from langchain_rerank.ranking import check_document
from langchain_rerank.shared_folder import (
    any_vector,
    is_open,
    local_folder,
    lost_vectors,
    only_writer,
    take_over,
)
from langchain_rerank.text import well_formed

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from chromadb.api import ClientAPI
    from chromadb.api.collection_configuration import CreateHNSWConfiguration
    from chromadb.api.models.Collection import Collection
    from langchain_chroma import Chroma
    from langchain_core.embeddings import Embeddings

# HNSW looks at no more than ef_search neighbours, so fetch_k above it would quietly return fewer
# or worse candidates. Chroma's default is 100; this serves fetch_k up to 200 with room to spare.
_HNSW: CreateHNSWConfiguration = {"space": "cosine", "ef_search": 400, "ef_construction": 200}
_BATCH = 256
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

    A document keeps its id; one without gets an id made of its text and its metadata, so the same
    text of two pages or files is kept twice. What the collection already holds in the same form is
    neither embedded nor written again: running a notebook cell twice adds nothing, and an
    interrupted run goes on where it stopped. (One document is embedded each time, to see that the
    embeddings are still the same.) A known id with another text or other metadata is updated;
    documents that are in the collection and not in `documents` stay.

    One process at a time indexes into a folder; another one waits, and says so. What others have
    written while this process had the folder open is taken over, as Chroma would write this
    process's vectors over theirs. Vectors that Chroma has lost all the same, now or earlier, are
    embedded and written again, and a warning says how many.

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
    from langchain_chroma import Chroma

    if client is not None and persist_directory is not None:
        msg = f"expected client or persist_directory, got both ({persist_directory})"
        raise ValueError(msg)
    prepared = _prepare(documents)
    folder = persist_directory if client is None else local_folder(client)
    with only_writer(folder) as others_wrote:
        was_open = client is not None or is_open(persist_directory)
        client = client or _client(persist_directory)
        collection = client.get_or_create_collection(
            collection_name, configuration={"hnsw": _HNSW}, embedding_function=None
        )
        _check_space(collection)
        if others_wrote and was_open:
            take_over(client, collection)
        _check_embeddings(collection, embeddings)
        store = Chroma(collection_name, embeddings, client=client)
        _add(store, _missing(collection, prepared), show_progress=show_progress)
        _restore(store, collection)
    return store


def document_id(document: Document) -> str:
    """Return the document's id, or the one it gets from its text and metadata."""
    if document.id:
        return well_formed(document.id)
    metadata = {str(name): one for name, one in document.metadata.items() if one is not None}
    content = json.dumps([document.page_content, metadata], sort_keys=True, default=repr)
    return hashlib.sha256(content.encode()).hexdigest()


def _client(persist_directory: str | Path | None) -> ClientAPI:
    import chromadb

    # Settings stay Chroma's own: a second client of one process must have the same ones as the
    # first. Telemetry is off without them, Chroma's capture has done nothing since 1.5.
    if persist_directory is None:
        return chromadb.EphemeralClient()
    return chromadb.PersistentClient(str(persist_directory))


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
    """Metadata as Chroma gives them back: without the fields that are None."""
    stored: dict[str, Any] = {}
    for name, value in metadata.items():
        if not isinstance(name, str):
            msg = f"metadata field {name!r} of document {position} must be named by a str"
            raise TypeError(msg)
        if value is None:
            continue
        if not name or name[0] in "#$" or name == "chroma:document":
            msg = f"metadata field '{name}' of document {position} has a name that Chroma reserves"
            raise ValueError(msg)
        values = value if isinstance(value, list) else [value]
        if len({type(one) for one in values}) != 1 or not all(map(_storable, values)):
            msg = (
                f"metadata field '{name}' of document {position} must be a str, bool, finite "
                f"float, 64-bit int or a list of one of these for Chroma, got {value!r:.80}: "
                "convert or drop it"
            )
            raise ValueError(msg)
        values = [well_formed(one) if isinstance(one, str) else one for one in values]
        stored[well_formed(name)] = values if isinstance(value, list) else values[0]
    return stored


def _storable(value: object) -> bool:
    """Whether Chroma can keep the value; some that it accepts it loses, or chokes on for ever."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return isinstance(value, str)


def _check_space(collection: Collection) -> None:
    space = (collection.configuration_json.get("hnsw") or {}).get("space")
    if space != _HNSW["space"]:
        msg = (
            f"collection '{collection.name}' exists in {space} space, expected cosine: choose "
            "another collection_name, or delete it and index again"
        )
        raise ValueError(msg)


def _check_embeddings(collection: Collection, embeddings: Embeddings) -> None:
    """Embed one known document again: another model's vectors must not join those that are there.

    Two models may share a vector size; the mixture would search wrongly and say nothing.
    """
    known = any_vector(collection)
    if known is None:
        return
    key, then = known
    texts = collection.get(ids=[key], include=["documents"])["documents"]
    if not texts or texts[0] is None:
        return
    [now] = embeddings.embed_documents(texts)
    if len(now) == len(then):
        cosine = float(np.dot(now, then) / max(np.linalg.norm(now) * np.linalg.norm(then), 1e-12))
        if cosine >= _SAME_MODEL_COSINE:
            return
    msg = (
        f"collection '{collection.name}' was made with other embeddings: its document '{key}' "
        "now gets another vector. Use the same model, or another collection_name"
    )
    raise ValueError(msg)


def _restore(store: Chroma, collection: Collection) -> None:
    """Embed and write again the documents whose vectors are lost."""
    lost = lost_vectors(collection)
    for start in range(0, len(lost), _BATCH):
        found = collection.get(ids=lost[start : start + _BATCH], include=["documents", "metadatas"])
        rows = zip(found["ids"], found["documents"] or (), found["metadatas"] or (), strict=True)
        documents = [
            Document(text, metadata=dict(metadata or {}), id=key)
            for key, text, metadata in rows
            if text is not None
        ]
        if documents:
            store.add_documents(documents)
    if still := lost and lost_vectors(collection):
        msg = (
            f"collection '{collection.name}' lacks the vectors of {len(still)} documents, such as "
            f"'{still[0]}', and they can't be written again: delete these documents, or the "
            "collection, and index again"
        )
        raise RerankError(msg)
    if lost:
        logger.warning(
            "collection '%s' had lost the vectors of %d documents, as happens where two processes "
            "have a folder open; they have been written again",
            collection.name,
            len(lost),
        )


def _missing(collection: Collection, prepared: dict[str, Document]) -> list[Document]:
    """Return the documents that the collection lacks or holds in another form.

    Chroma merges new metadata into the old: a field that the document no longer has goes by None.
    """
    keys = list(prepared)
    known: dict[str, tuple[str | None, dict[str, Any]]] = {}
    for start in range(0, len(keys), _BATCH):
        found = collection.get(ids=keys[start : start + _BATCH], include=["documents", "metadatas"])
        for key, text, metadata in zip(
            found["ids"], found["documents"] or (), found["metadatas"] or (), strict=True
        ):
            known[key] = (text, dict(metadata or {}))
    missing = []
    for key, document in prepared.items():
        held, fields = known.get(key) or (None, {})
        if held != document.page_content or not _equal(fields, document.metadata):
            update = {"metadata": {**dict.fromkeys(fields), **document.metadata}}
            missing.append(document.model_copy(update=update))
    return missing


def _equal(stored: object, given: object) -> bool:
    """Whether metadata are the same; Chroma's floats come back off by one in the last place."""
    if isinstance(stored, dict) and isinstance(given, dict):
        return stored.keys() == given.keys() and all(_equal(stored[k], given[k]) for k in given)
    if isinstance(stored, list) and isinstance(given, list):
        return len(stored) == len(given) and all(map(_equal, stored, given))
    if isinstance(stored, float) and isinstance(given, float):
        return math.isclose(stored, given, rel_tol=1e-12)
    return stored == given


def _add(store: Chroma, documents: list[Document], *, show_progress: bool) -> None:
    """Embed and write in batches, each of them whole."""
    from tqdm.auto import tqdm

    with tqdm(
        total=len(documents), desc="Indexing", unit="doc", disable=not (show_progress and documents)
    ) as bar:
        for start in range(0, len(documents), _BATCH):
            batch = documents[start : start + _BATCH]
            store.add_documents(batch)
            bar.update(len(batch))
