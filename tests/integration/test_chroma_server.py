"""A real Chroma server on loopback, through `chromadb.HttpClient`."""

from __future__ import annotations

import math
import subprocess
import sys
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import chromadb
import pytest
from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_rerank import create_rerank_retriever, index_documents
from langchain_rerank.hybrid import KeywordRetriever
from langchain_rerank.shared_folder import lost_vectors
from tests.fakes import WordOverlapCrossEncoder
from tests.support import free_port, wait_until
from tests.test_shared_folder import damage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from chromadb.api import ClientAPI

pytestmark = pytest.mark.integration

EMBEDDINGS = DeterministicFakeEmbedding(size=16)
NEEDLE = Document("ERR_TLS_0x8F31 expired", id="needle", metadata={"owner": "ann", "n": -1})
DOCUMENTS = [
    NEEDLE,
    *(
        Document(f"text number {i}", metadata={"owner": "bob", "n": i, "score": math.sin(i)})
        for i in range(300)
    ),
]


@contextmanager
def chroma_server(folder: Path) -> Iterator[Callable[[], ClientAPI]]:
    """Yields what makes a client."""
    port = free_port()
    program = Path(sys.executable).with_name("chroma")
    command = [program, "run", "--path", folder, "--host", "127.0.0.1", "--port", str(port)]

    def client() -> ClientAPI | None:
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
def collection(new_client) -> dict[str, Any]:
    """Where to index to: a client, and a name of the test's own."""
    return {"client": new_client(), "collection_name": f"test-{uuid.uuid4().hex}"}


class OneTextEmbeddings(DeterministicFakeEmbedding):
    """Embeds one text, by which the model is checked, and no more."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        assert len(texts) == 1
        return super().embed_documents(texts)


def test_indexing_again_adds_and_embeds_nothing_and_replaces_metadata(collection):
    for embeddings in (EMBEDDINGS, OneTextEmbeddings(size=16)):
        store = index_documents(DOCUMENTS, embeddings, **collection)
        assert len(store.get()["ids"]) == 301
    hnsw = store._collection.configuration_json["hnsw"]
    assert (hnsw["space"], hnsw["ef_search"] >= 400) == ("cosine", True)
    for metadata in ({"a": 1, "b": ["x"]}, {"a": 2}):
        store = index_documents(
            [Document("1", id="1", metadata=metadata)], EMBEDDINGS, **collection
        )
        assert store.get("1")["metadatas"] == [metadata]


def test_wrong_collections_are_refused(collection):
    collection["client"].create_collection(collection["collection_name"], embedding_function=None)
    with pytest.raises(ValueError, match="exists in l2 space, expected cosine"):
        index_documents(DOCUMENTS, EMBEDDINGS, **collection)
    collection["collection_name"] += "-2"
    index_documents(DOCUMENTS[:1], EMBEDDINGS, **collection)
    with pytest.raises(ValueError, match="was made with other embeddings"):
        index_documents(DOCUMENTS, DeterministicFakeEmbedding(size=8), **collection)


async def test_retrieves_filters_and_batches(collection):
    store = index_documents(DOCUMENTS, EMBEDDINGS, **collection)
    model = WordOverlapCrossEncoder()
    retriever = create_rerank_retriever(store, reranker=model, k=3)
    assert len(retriever.invoke("number 7")) == 3
    assert len(set(model.calls[-1])) == 100
    below = {"n": {"$lt": 9}}
    for found in (
        retriever.invoke("text number 7", filter=below),
        await retriever.ainvoke("text number 7", filter=below),
        *retriever.batch(["text number 7"] * 2, filter=below),
    ):
        assert found[0].page_content == "text number 7"
    assert [len(call) for call in model.calls] == [100, 10, 10, 10, 10]


async def test_hybrid_finds_the_identifier(collection):
    store = index_documents(DOCUMENTS, EMBEDDINGS, **collection)
    query = "what does ERR_TLS_0x8F31 mean"
    assert "needle" not in [found.id for found in store.similarity_search(query, k=20)]
    retriever = create_rerank_retriever(
        store, reranker=WordOverlapCrossEncoder(), k=2, fetch_k=20, hybrid=True
    )
    assert retriever.invoke(query)[0].id == "needle"
    assert (await retriever.ainvoke(query))[0].id == "needle"
    assert "needle" not in [found.id for found in retriever.invoke(query, filter={"owner": "bob"})]


def test_hybrid_sees_what_another_client_writes(new_client, collection):
    store, other = (
        Chroma(embedding_function=EMBEDDINGS, **{**collection, "client": client})
        for client in (collection["client"], new_client())
    )
    keyword = KeywordRetriever(store=store)
    assert keyword.invoke("apple") == []
    other.add_documents([Document("apple", id="1"), Document("apple pear", id="2")])
    assert [found.id for found in keyword.invoke("apple")] == ["1", "2"]
    other.add_documents([Document("plum", id="1")])
    assert [found.id for found in keyword.invoke("apple")] == ["2"]
    assert [found.id for found in keyword.invoke("plum")] == ["1"]
    other.delete(["2"])
    assert keyword.invoke("apple") == []


def test_server_on_a_damaged_folder_gets_its_vectors_back(tmp_path, caplog):
    damage(tmp_path / "db")
    with chroma_server(tmp_path / "db") as new_client:
        store = index_documents([], EMBEDDINGS, client=new_client())
        assert lost_vectors(store._collection) == []
    assert "had lost the vectors of 500 documents" in caplog.text
