"""Several processes that index into one folder: nobody's documents are lost without a word."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import chromadb
import numpy as np
import pytest
from filelock import FileLock
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_rerank import RerankError, index_documents
from langchain_rerank.shared_folder import lost_vectors, vectors
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

EMBEDDINGS = DeterministicFakeEmbedding(size=16)


def texts(prefix: str, numbers: range) -> list[Document]:
    return [Document(f"{prefix} {i}", id=str(i)) for i in numbers]


def open_anew(folder: Path) -> chromadb.Collection:
    """As another process sees it: clients that spell a folder alike share what they hold."""
    client = chromadb.PersistentClient(f"{folder}/../{folder.name}")
    return client.get_collection("langchain", embedding_function=None)


def check(collection: chromadb.Collection, count: int) -> None:
    """Each document is there with the vector of its own text."""
    found = collection.get()
    held = vectors(collection, found["ids"])
    assert len(held) == len(found["ids"]) == count
    expected = np.array(EMBEDDINGS.embed_documents(found["documents"]))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    given = np.array([held[key] for key in found["ids"]])
    given /= np.linalg.norm(given, axis=1, keepdims=True)
    assert np.allclose(given, expected, atol=1e-5)


def write_a_lot(folder: str) -> None:
    """Updates, deletes and adds, so many that Chroma writes its graph."""
    for start in (100, 600):
        documents = texts("new", range(start, start + 500))
        store = index_documents(documents, EMBEDDINGS, persist_directory=folder)
    store.delete([str(i) for i in range(100)])


def write_in_another_process(folder: Path) -> None:
    code = "import sys; from tests.test_shared_folder import *; write_a_lot(sys.argv[1])"
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code, folder], check=True, cwd=root)


def write_by_another_spelling(folder: Path) -> None:
    write_a_lot(f"{folder}/../{folder.name}/")


@pytest.mark.parametrize("write", [write_in_another_process, write_by_another_spelling])
def test_what_others_wrote_while_the_folder_was_open_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, write: Callable[[Path], None]
) -> None:
    store = index_documents(texts("old", range(500)), EMBEDDINGS, persist_directory=tmp_path)
    store.similarity_search("old 1")
    write(tmp_path)
    more = texts("old", range(1100, 2200))
    store = index_documents(more, EMBEDDINGS, persist_directory=tmp_path)
    check(store._collection, 2100)
    check(open_anew(tmp_path), 2100)
    assert "lost" not in caplog.text


def damage(folder: Path, *, with_texts: bool = True) -> None:
    """Lose the vectors 500 to 999, by writing past `index_documents`."""
    folder.mkdir()
    one, other = (
        chromadb.PersistentClient(f"{folder.parent}/{spelling}").get_or_create_collection(
            "langchain", configuration={"hnsw": {"space": "cosine"}}, embedding_function=None
        )
        for spelling in (folder.name, f"./{folder.name}")
    )
    for collection, start in ((one, 0), (other, 500), (one, 1000)):
        for first in (start, start + 250):
            words = [f"old {i}" for i in range(first, first + 250)]
            ids = [word[4:] for word in words]
            embedded = EMBEDDINGS.embed_documents(words)
            collection.add(ids, embedded, documents=words if with_texts else None)
    assert len(lost_vectors(open_anew(folder))) == 500


def test_lost_vectors_are_written_again_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "db"
    damage(folder)
    # Also those of documents that are not indexed now.
    store = index_documents(texts("old", range(3)), EMBEDDINGS, persist_directory=folder)
    check(store._collection, 1500)
    assert "had lost the vectors of 500 documents" in caplog.text
    caplog.clear()
    index_documents([], EMBEDDINGS, persist_directory=folder)
    assert caplog.text == ""


def test_vectors_that_cannot_be_written_again_are_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "db"
    damage(folder, with_texts=False)
    with pytest.raises(RerankError, match="lacks the vectors of 500 documents, such as '500'"):
        index_documents([], EMBEDDINGS, persist_directory=folder)


def test_folder_is_locked_while_another_indexes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def index() -> None:
        index_documents(texts("new", range(3)), EMBEDDINGS, persist_directory=tmp_path)

    second = threading.Thread(target=index)
    with FileLock(tmp_path / ".langchain-rerank.lock"):
        second.start()
        wait_until(lambda: "indexed into elsewhere: waiting" in caplog.text, "a warning")
        assert not (tmp_path / "chroma.sqlite3").exists()
    second.join(timeout=60)
    check(open_anew(tmp_path), 3)


def test_lock_ends_with_an_error(tmp_path: Path) -> None:
    index_documents(texts("old", range(3)), EMBEDDINGS, persist_directory=tmp_path)
    other = DeterministicFakeEmbedding(size=8)
    with pytest.raises(ValueError, match="made with other embeddings"):
        index_documents([], other, persist_directory=tmp_path)
    store = index_documents(texts("old", range(5)), EMBEDDINGS, persist_directory=tmp_path)
    check(store._collection, 5)
