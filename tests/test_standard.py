"""LangChain's own suite for retrievers, over a real store and real models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.documents import Document
from langchain_tests.integration_tests import RetrieversIntegrationTests

from langchain_rerank import Reranker, RerankRetriever, TorchCrossEncoder, index_documents

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings
    from langchain_core.retrievers import BaseRetriever

ANSWER = "Berlin had a population of 3,520,031 registered inhabitants."
FACTS = [
    "Berlin is well known for its museums.",
    ANSWER,
    "Paris lies on the Seine.",
    "The Spree flows through Berlin.",
    "Hamburg has the largest port in Germany.",
]


class TestRerankRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def stages(self, embeddings: Embeddings, cross_encoder: TorchCrossEncoder) -> None:
        documents = [Document(fact) for fact in FACTS]
        self.store = index_documents(documents, embeddings, collection_name="standard-tests")
        self.cross_encoder = cross_encoder

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return RerankRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {
            "base_retriever": self.store.as_retriever(),
            "base_compressor": Reranker(model=self.cross_encoder),
        }

    @property
    def retriever_query_example(self) -> str:
        return "How many people live in Berlin?"

    def test_the_answer_comes_first(self, retriever: BaseRetriever) -> None:
        assert retriever.invoke(self.retriever_query_example)[0].page_content == ANSWER
