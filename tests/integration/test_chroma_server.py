"""A real Chroma server on loopback, through `chromadb.HttpClient`."""

from __future__ import annotations

import math
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import chromadb
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_rerank import create_rerank_retriever, index_documents
from tests.fakes import WordOverlapCrossEncoder

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClientAPI]:
    folder = tmp_path_factory.mktemp("chroma")
    port = free_port()
    program = Path(sys.executable).with_name("chroma")
    command = [program, "run", "--path", folder, "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        yield wait_for(server, port, folder / "server.log")
    finally:
        server.terminate()
        server.wait(timeout=20)


def wait_for(server: subprocess.Popen[bytes], port: int, log: Path) -> ClientAPI:
    for _ in range(100):
        try:
            found = chromadb.HttpClient(host="127.0.0.1", port=port)
            found.heartbeat()
        except ValueError:  # what chromadb makes of a refused connection
            try:
                server.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                continue
            break
        return found
    msg = f"no Chroma server: {log.read_text()}"
    raise RuntimeError(msg)


@pytest.fixture
def collection_name() -> str:
    return f"test-{uuid.uuid4().hex}"


def test_indexing_twice_adds_nothing(client: ClientAPI, collection_name: str) -> None:
    for _ in range(2):
        index_documents(DOCUMENTS, EMBEDDINGS, collection_name=collection_name, client=client)
        assert client.get_collection(collection_name).count() == 301
    hnsw = client.get_collection(collection_name).configuration_json["hnsw"]
    assert (hnsw["space"], hnsw["ef_search"] >= 400) == ("cosine", True)


def test_second_run_embeds_nothing(client: ClientAPI, collection_name: str) -> None:
    class RefusingEmbeddings(DeterministicFakeEmbedding):
        """Embeds one text, by which the model is checked."""

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            assert len(texts) == 1
            return super().embed_documents(texts)

    index_documents(DOCUMENTS, EMBEDDINGS, collection_name=collection_name, client=client)
    refusing = RefusingEmbeddings(size=16)
    store = index_documents(DOCUMENTS, refusing, collection_name=collection_name, client=client)
    assert len(store.get()["ids"]) == 301


def test_changed_metadata_replace_the_old(client: ClientAPI, collection_name: str) -> None:
    options = {"collection_name": collection_name, "client": client}
    before = Document("text", id="1", metadata={"a": 1, "b": ["x"]})
    index_documents([before], EMBEDDINGS, **options)
    store = index_documents([Document("text", id="1", metadata={"a": 2})], EMBEDDINGS, **options)
    assert store.get()["metadatas"] == [{"a": 2}]


def test_wrong_collections_are_refused(client: ClientAPI, collection_name: str) -> None:
    client.create_collection(collection_name, embedding_function=None)
    with pytest.raises(ValueError, match="exists in l2 space, expected cosine"):
        index_documents(DOCUMENTS, EMBEDDINGS, collection_name=collection_name, client=client)
    other = f"{collection_name}-2"
    index_documents(DOCUMENTS[:1], EMBEDDINGS, collection_name=other, client=client)
    with pytest.raises(ValueError, match="was made with other embeddings"):
        index_documents(
            DOCUMENTS,
            DeterministicFakeEmbedding(size=8),
            collection_name=other,
            client=client,
        )


async def test_retrieves_filters_and_batches(client: ClientAPI, collection_name: str) -> None:
    store = index_documents(DOCUMENTS, EMBEDDINGS, collection_name=collection_name, client=client)
    model = WordOverlapCrossEncoder()
    retriever = create_rerank_retriever(store, reranker=model, k=3)

    assert len(retriever.invoke("number 7")) == 3
    assert len(set(model.calls[-1])) == 100

    below = {"n": {"$lt": 9}}
    for found in (
        retriever.invoke("text number 7", filter=below),
        await retriever.ainvoke("text number 7", filter=below),
    ):
        assert found[0].page_content == "text number 7"
    batches = retriever.batch(["text number 7", "text number 8"], filter=below)
    assert [batch[0].page_content for batch in batches] == ["text number 7", "text number 8"]
    assert [len(call) for call in model.calls] == [100, 10, 10, 20]


async def test_hybrid_finds_the_identifier(client: ClientAPI, collection_name: str) -> None:
    store = index_documents(DOCUMENTS, EMBEDDINGS, collection_name=collection_name, client=client)
    query = "what does ERR_TLS_0x8F31 mean"
    assert "needle" not in [found.id for found in store.similarity_search(query, k=20)]
    retriever = create_rerank_retriever(
        store, reranker=WordOverlapCrossEncoder(), k=2, fetch_k=20, hybrid=True
    )
    assert retriever.invoke(query)[0].id == "needle"
    assert (await retriever.ainvoke(query))[0].id == "needle"
    assert "needle" not in [found.id for found in retriever.invoke(query, filter={"owner": "bob"})]
