"""The whole pipeline with real parts: Chroma, embeddings, cross encoder, chat model."""

from __future__ import annotations

import pytest
from langchain_core.documents import Document

from langchain_rerank import Reranker, create_rag_chain, create_rerank_retriever, index_documents
from langchain_rerank.offline import offline_chat_model

pytestmark = pytest.mark.integration

FACTS = {
    "berlin": "Berlin had a population of 3,520,031 registered inhabitants in 2015.",
    "museums": "Berlin is well known for its museums.",
    "paris": "Paris had a population of 2,187,526 in 2017.",
    "soup": "Soup is best served warm.",
}
QUESTION = "How many people live in Berlin?"


@pytest.fixture(scope="module")
def retriever(embeddings, cross_encoder):
    documents = [Document(text, metadata={"source": name}) for name, text in FACTS.items()]
    store = index_documents(documents, embeddings, collection_name="rag-end-to-end")
    return create_rerank_retriever(store, reranker=Reranker(model=cross_encoder), k=2, fetch_k=4)


@pytest.fixture(scope="module")
def chain(retriever):
    return create_rag_chain(offline_chat_model(max_tokens=60), retriever)


async def test_real_chat_model_answers_and_streams_from_the_reranked_context(chain):
    result = chain.invoke(QUESTION)
    assert result["context"][0].metadata["source"] == "berlin"
    assert len(result["context"]) == 2
    assert "3,520,031" in result["answer"]
    assert all(citation["document"] in result["context"] for citation in result["citations"])
    pieces = [piece["answer"] async for piece in chain.astream(QUESTION) if "answer" in piece]
    assert len(pieces) > 5
    assert "".join(pieces) == result["answer"]


def test_follow_up_question_goes_through_the_real_chat_model(chain):
    history = [("human", QUESTION), ("ai", "3,520,031 [1].")]
    result = chain.invoke({"question": "And how many live in Paris?", "chat_history": history})
    assert result["context"][0].metadata["source"] == "paris"
    assert result["answer"].strip()


def test_without_chat_model_the_reader_answers(retriever):
    result = create_rag_chain(None, retriever).invoke(QUESTION)
    assert result["answer"] == f"{FACTS['berlin']} [1]"
    assert result["citations"] == [{"number": 1, "document": result["context"][0]}]
