"""A Chroma folder that several processes have open: who writes, and what Chroma loses.

Each process keeps a graph of the vectors in memory, hears of another one's writes only in part, and
writes its own graph over the other's. Texts and metadata are in SQLite, and safe.
"""

from __future__ import annotations

import logging
import os
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection

    Vectors = dict[str, npt.NDArray[np.float32]]

logger = logging.getLogger(__name__)

T = TypeVar("T")
_LOCK = ".langchain-rerank.lock"
_LAST_WRITER = ".langchain-rerank.writer"
_PROCESS = uuid4().hex
_BATCH = 256


def batches(items: list[T]) -> Iterator[list[T]]:
    """Cut into parts of what Chroma is given at once."""
    return (items[start : start + _BATCH] for start in range(0, len(items), _BATCH))


def local_folder(client: ClientAPI) -> Path | None:
    """Return where a client keeps its collections; None if in memory or on a server."""
    settings = client.get_settings()
    if settings.is_persistent and not settings.chroma_server_host:
        return Path(settings.persist_directory)
    return None


@contextmanager
def only_writer(folder: str | Path | None) -> Iterator[bool]:
    """Keep other processes and threads from indexing into a folder; None locks nothing.

    Yields:
        Whether another process or client may have indexed into it since this one did.
    """
    if folder is None:
        yield False
        return
    from filelock import FileLock, Timeout

    Path(folder).mkdir(parents=True, exist_ok=True)
    lock = FileLock(Path(folder, _LOCK))
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        logger.warning("%s is being indexed into elsewhere: waiting for the end of it", folder)
        held = lock.acquire()
    with held:
        writer = Path(folder, _LAST_WRITER)
        # Clients of one process that spell the folder differently share nothing either.
        me = f"{os.getpid()}-{_PROCESS} {str(folder)!a}"
        mine = writer.is_file() and writer.read_text(encoding="utf-8") == me
        # Whoever is killed while writing is another one to all.
        writer.unlink(missing_ok=True)
        yield not mine
        writer.write_text(me, encoding="utf-8")


def take_over(client: ClientAPI, collection: Collection) -> None:
    """Bring the vectors that other processes have written into this process's graph."""
    import chromadb

    # Chroma shares one graph between all clients of a folder that spell it alike.
    path = f"{local_folder(client)}{os.sep}."
    elsewhere: Any = chromadb.PersistentClient(path, tenant=client.tenant, database=client.database)
    with closing(elsewhere):
        theirs = elsewhere.get_collection(collection.name, embedding_function=None)
        for ids in batches(collection.get(include=[])["ids"]):
            known = vectors(collection, ids)
            changed = {
                key: vector
                for key, vector in vectors(theirs, ids).items()
                if key not in known or not np.allclose(vector, known[key], atol=1e-6)
            }
            if changed:
                collection.upsert(list(changed), np.stack(list(changed.values())))


def lost_vectors(collection: Collection) -> list[str]:
    """Return the ids of documents without a vector; takes .6 s for 20,000."""
    parts = batches(collection.get(include=[])["ids"])
    return [key for ids in parts for key in sorted(set(ids) - vectors(collection, ids).keys())]


def vectors(collection: Collection, ids: list[str]) -> Vectors:
    """Return the vectors of those of the documents whose vectors are not lost."""
    from chromadb.errors import InternalError

    if not ids:
        return {}
    try:
        found = collection.get(ids=ids, include=["embeddings"])
    except InternalError as error:
        if "Error finding id" not in str(error):
            raise
        half = len(ids) // 2
        return vectors(collection, ids[:half]) | vectors(collection, ids[half:]) if half else {}
    return dict(zip(found["ids"], np.asarray(found["embeddings"], np.float32), strict=True))
