"""A real Chroma server on loopback, through `chromadb.HttpClient`."""

from __future__ import annotations

import math
import subprocess
import sys
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

import chromadb
import pytest
from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_rerank import create_rerank_retriever, index_documents
from langchain_rerank.hybrid import KeywordRetriever
from langchain_rerank.shared_folder import lost_vectors
from tests.fakes import WordOverlapCrossEncoder
from tests.support import every_way, free_port, ids, wait_until
from tests.test_shared_folder import damage

pytestmark = pytest.mark.integration

EMBEDDINGS = DeterministicFakeEmbedding(size=16)
DOCUMENTS = [
    Document("ERR_TLS_0x8F31 expired", id="needle", metadata={"owner": "ann", "n": -1}),
    *(
        Document(f"text number {i}", metadata={"owner": "bob", "n": i, "score": math.sin(i)})
        for i in range(300)
    ),
]


@contextmanager
def chroma_server(folder: Path):
    """Yields what makes a client."""
    port = free_port()
    program = Path(sys.executable).with_name("chroma")
    command = [program, "run", "--path", folder, "--host", "127.0.0.1", "--port", str(port)]

    def client():
        with suppress(ValueError):  # what chromadb makes of a refused connection
            return chromadb.HttpClient(host="127.0.0.1", port=port)
        assert server.poll() is None, (folder / "server.log").read_text()
        return None

    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        yield lambda: wait_until(client, "a Chroma server")
    finally:
        server.terminate()
        server.wait(timeout=20)


@pytest.fixture(scope="module")
def new_client(tmp_path_factory):
    with chroma_server(tmp_path_factory.mktemp("chroma")) as new:
        yield new


@pytest.fixture
def collection(new_client):
    """Where to index to: a client, and a name of the test's own."""
    return {"client": new_client(), "collection_name": f"test-{uuid.uuid4().hex}"}


class OneTextEmbeddings(DeterministicFakeEmbedding):
    """Embeds one text, by which the model is checked, and no more."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        assert len(texts) == 1
        return super().embed_documents(texts)


def test_indexes_once_retrieves_filters_and_finds_by_keyword(collection):
    for embeddings in (EMBEDDINGS, OneTextEmbeddings(size=16)):
        store = index_documents(DOCUMENTS, embeddings, **collection)
        assert len(store.get()["ids"]) == 301
    with pytest.raises(ValueError, match="was made with other embeddings"):
        index_documents(DOCUMENTS, DeterministicFakeEmbedding(size=8), **collection)
    model, query = WordOverlapCrossEncoder(), "what does ERR_TLS_0x8F31 mean"
    dense = create_rerank_retriever(store, reranker=model, k=3)
    assert len(dense.invoke("number 7")) == 3
    assert len(set(model.calls[-1])) == 100
    for found in every_way(dense, "text number 7", filter={"n": {"$lt": 9}}):
        assert found[0].page_content == "text number 7"
    assert "needle" not in ids(store.similarity_search(query, k=20))
    hybrid = create_rerank_retriever(store, reranker=model, k=2, fetch_k=20, hybrid=True)
    for found in every_way(hybrid, query):
        assert found[0].id == "needle"
    assert "needle" not in ids(hybrid.invoke(query, filter={"owner": "bob"}))


def test_hybrid_sees_what_another_client_writes(new_client, collection):
    store, other = (
        Chroma(embedding_function=EMBEDDINGS, **{**collection, "client": client})
        for client in (collection["client"], new_client())
    )
    keyword = KeywordRetriever(store=store)
    assert keyword.invoke("apple") == []
    other.add_documents([Document("apple", id="1"), Document("apple pear", id="2")])
    assert ids(keyword.invoke("apple")) == ["1", "2"]
    other.add_documents([Document("plum", id="1")])
    assert ids(keyword.invoke("apple")) == ["2"]
    other.delete(["2"])
    assert keyword.invoke("apple") == []


def test_server_on_a_damaged_folder_gets_its_vectors_back(tmp_path, caplog):
    damage(tmp_path / "db")
    with chroma_server(tmp_path / "db") as new:
        assert lost_vectors(index_documents([], EMBEDDINGS, client=new())._collection) == []
    assert "had lost the vectors of 50 documents" in caplog.text
