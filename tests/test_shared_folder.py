"""Several processes that index into one folder: nobody's documents are lost without a word."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import chromadb
import numpy as np
import pytest
from filelock import FileLock
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_rerank import RerankError, index_documents
from langchain_rerank.shared_folder import lost_vectors, vectors
from tests.support import wait_until

EMBEDDINGS = DeterministicFakeEmbedding(size=16)
# Chroma writes its graph once it has so many new vectors: as a rule, 1,000.
SOON = {"space": "cosine", "ef_search": 400, "batch_size": 10, "sync_threshold": 20}


def open_collection(path: str) -> chromadb.Collection:
    """Clients that spell a folder differently share nothing, as those of two processes."""
    client = chromadb.PersistentClient(path)
    return client.get_or_create_collection(
        "langchain", configuration={"hnsw": SOON}, embedding_function=None
    )


def index(folder: Path | str, prefix: str, numbers: range) -> chromadb.Collection:
    documents = [Document(f"{prefix} {i}", id=str(i)) for i in numbers]
    return index_documents(documents, EMBEDDINGS, persist_directory=folder)._collection


def check(collection: chromadb.Collection, count: int) -> None:
    """Each document is there with the vector of its own text."""
    found = collection.get()
    held = vectors(collection, found["ids"])
    assert len(held) == len(found["ids"]) == count
    expected = np.array(EMBEDDINGS.embed_documents(found["documents"]))
    given = np.array([held[key] for key in found["ids"]])
    norms = np.linalg.norm(given, axis=1) * np.linalg.norm(expected, axis=1)
    assert np.allclose((given * expected).sum(axis=1), norms, rtol=1e-5)


def write_a_lot(folder: str) -> None:
    """Updates, deletes and adds, so many that Chroma writes its graph."""
    for start in (10, 60):
        collection = index(folder, "new", range(start, start + 50))
    collection.delete([str(i) for i in range(10)])


def write_in_another_process(folder: Path) -> None:
    code = "import sys; from tests.test_shared_folder import *; write_a_lot(sys.argv[1])"
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code, folder], check=True, cwd=root)


def write_by_another_spelling(folder: Path) -> None:
    write_a_lot(f"{folder}/../{folder.name}/")


@pytest.mark.parametrize("write", [write_in_another_process, write_by_another_spelling])
def test_what_others_wrote_while_the_folder_was_open_stays(tmp_path, caplog, write):
    open_collection(str(tmp_path))
    index(tmp_path, "old", range(50)).query([[1.0] * 16])
    write(tmp_path)
    collection = index(tmp_path, "old", range(110, 220))
    check(collection, 210)
    check(open_collection(f"{tmp_path}/../{tmp_path.name}"), 210)
    assert "lost" not in caplog.text


def damage(folder: Path, *, with_texts: bool = True) -> None:
    """Lose the vectors 50 to 99, by writing past `index_documents`."""
    folder.mkdir()
    one, other = (open_collection(f"{folder.parent}/{name}{folder.name}") for name in ("", "./"))
    for collection, start in ((one, 0), (other, 50), (one, 100)):
        for first in (start, start + 25):
            words = [f"old {i}" for i in range(first, first + 25)]
            embedded = EMBEDDINGS.embed_documents(words)
            texts = words if with_texts else None
            collection.add([word[4:] for word in words], embedded, documents=texts)
    assert len(lost_vectors(open_collection(f"{folder}/../{folder.name}"))) == 50


def test_lost_vectors_are_written_again_and_said(tmp_path, caplog):
    damage(tmp_path / "db")
    # Also those of documents that are not indexed now.
    check(index(tmp_path / "db", "old", range(3)), 150)
    assert "had lost the vectors of 50 documents" in caplog.text
    caplog.clear()
    index(tmp_path / "db", "old", range(0))
    assert caplog.text == ""


def test_vectors_that_cannot_be_written_again_are_an_error(tmp_path):
    damage(tmp_path / "db", with_texts=False)
    with pytest.raises(RerankError, match="lacks the vectors of 50 documents, such as '50'"):
        index(tmp_path / "db", "old", range(0))


def test_folder_is_locked_while_another_indexes_and_no_longer(tmp_path, caplog):
    second = threading.Thread(target=index, args=(tmp_path, "new", range(3)))
    with FileLock(tmp_path / ".langchain-rerank.lock"):
        second.start()
        wait_until(lambda: "indexed into elsewhere: waiting" in caplog.text, "a warning")
        assert not (tmp_path / "chroma.sqlite3").exists()
    second.join(timeout=60)
    other = DeterministicFakeEmbedding(size=8)
    with pytest.raises(ValueError, match="made with other embeddings"):
        index_documents([], other, persist_directory=tmp_path)
    check(index(tmp_path, "new", range(5)), 5)
