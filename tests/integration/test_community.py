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
from tests.support import every_way, texts

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


@pytest.fixture
def store() -> Chroma:
    embeddings = DeterministicFakeEmbedding(size=16)
    return Chroma.from_documents(DOCUMENTS, embeddings, collection_name=f"test-{uuid.uuid4().hex}")


@pytest.mark.parametrize("hybrid", [False, True])
def test_chroma_as_source(store, cross_encoder, hybrid):
    retriever = create_rerank_retriever(
        store, reranker=cross_encoder, k=2, fetch_k=33, hybrid=hybrid
    )
    assert texts(retriever.invoke(QUESTION))[0] == ANSWER
    for found in every_way(retriever, QUESTION, filter={"berlin": True}):
        assert texts(found) == [ANSWER, TEXTS[0]]


def test_bm25_as_source(cross_encoder):
    bm25 = BM25Retriever.from_documents(DOCUMENTS)
    retriever = create_rerank_retriever(bm25, reranker=cross_encoder, k=1, fetch_k=33)
    for found in every_way(retriever, QUESTION):
        assert [(one.page_content, one.id) for one in found] == [(ANSWER, "2")]
    # The caller's own retriever keeps its depth.
    assert len(bm25.invoke(QUESTION)) == 4


def test_our_cross_encoder_in_langchains_reranker(store, cross_encoder):
    retriever = ContextualCompressionRetriever(
        base_retriever=store.as_retriever(search_kwargs={"k": 33}),
        base_compressor=CrossEncoderReranker(model=cross_encoder, top_n=1),
    )
    assert texts(retriever.invoke(QUESTION)) == [ANSWER]
