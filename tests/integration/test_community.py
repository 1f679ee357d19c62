"""langchain-community's parts, old but in use, on either side of ours."""

from __future__ import annotations

import uuid

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
from langchain_community.retrievers import BM25Retriever
from langchain_community.vectorstores import Chroma
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_rerank import create_rerank_retriever

pytestmark = pytest.mark.integration

QUESTION = "How many people live in Berlin?"
ANSWER = "Berlin had a population of 3,520,031 registered inhabitants."
TEXTS = [
    "Berlin is well known for its museums.",
    "Many people live in Hamburg, how many is known.",
    ANSWER,
    *(f"How do people live in town number {i}?" for i in range(30)),
]
DOCUMENTS = [
    Document(text, id=str(i), metadata={"berlin": "Berlin" in text}) for i, text in enumerate(TEXTS)
]


def texts(documents: list[Document]) -> list[str]:
    return [document.page_content for document in documents]


@pytest.fixture
def store() -> Chroma:
    embeddings = DeterministicFakeEmbedding(size=16)
    return Chroma.from_documents(DOCUMENTS, embeddings, collection_name=f"test-{uuid.uuid4().hex}")


@pytest.mark.parametrize("hybrid", [False, True])
async def test_chroma_as_source(store, cross_encoder, hybrid):
    retriever = create_rerank_retriever(
        store, reranker=cross_encoder, k=2, fetch_k=33, hybrid=hybrid
    )
    assert texts(retriever.invoke(QUESTION))[0] == ANSWER
    only = {"berlin": True}
    assert texts(retriever.invoke(QUESTION, filter=only)) == [ANSWER, TEXTS[0]]
    assert texts(await retriever.ainvoke(QUESTION, filter=only)) == [ANSWER, TEXTS[0]]


async def test_bm25_as_source(cross_encoder):
    bm25 = BM25Retriever.from_documents(DOCUMENTS)
    retriever = create_rerank_retriever(bm25, reranker=cross_encoder, k=1, fetch_k=33)
    (found,) = retriever.invoke(QUESTION)
    assert (found.page_content, found.id) == (ANSWER, "2")
    assert texts(await retriever.ainvoke(QUESTION)) == [ANSWER]
    # The caller's own retriever keeps its depth.
    assert len(bm25.invoke(QUESTION)) == 4


async def test_our_cross_encoder_in_langchains_reranker(store, cross_encoder):
    retriever = ContextualCompressionRetriever(
        base_retriever=store.as_retriever(search_kwargs={"k": 33}),
        base_compressor=CrossEncoderReranker(model=cross_encoder, top_n=1),
    )
    assert texts(retriever.invoke(QUESTION)) == [ANSWER]
    assert texts(await retriever.ainvoke(QUESTION)) == [ANSWER]
