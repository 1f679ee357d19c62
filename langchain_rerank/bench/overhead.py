"""What everything around the scoring costs: ranking policy, retriever, tracing, score cache."""

from __future__ import annotations

import statistics
import time

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.stores import InMemoryByteStore
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from langchain_rerank.cross_encoders.cached import CachedCrossEncoder
from langchain_rerank.retriever import create_rerank_retriever

_RUNS = 50


class _Found(BaseRetriever):
    """A first stage that has its documents at hand."""

    documents: list[Document]

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        del query, run_manager
        return list(self.documents)


class _Instant(BaseCrossEncoder):
    """Scores that cost nothing."""

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        return [float(position % 7) for position in range(len(text_pairs))]


def overhead_s(query: str, passages: tuple[str, ...]) -> float:
    """Median seconds of a traced `RerankRetriever.invoke` but for first stage and scoring."""
    return _invoke_s(_Instant(), query, passages)


def cached_s(query: str, passages: tuple[str, ...]) -> float:
    """Median seconds of the same with every score in an `InMemoryByteStore`."""
    cached = CachedCrossEncoder(_Instant(), InMemoryByteStore(), namespace="bench")
    return _invoke_s(cached, query, passages)


def _invoke_s(cross_encoder: BaseCrossEncoder, query: str, passages: tuple[str, ...]) -> float:
    documents = [
        Document(passage, id=str(number), metadata={"source": "bench", "place": number})
        for number, passage in enumerate(passages)
    ]
    retriever = create_rerank_retriever(
        _Found(documents=documents), reranker=cross_encoder, fetch_k=len(documents), k=1
    )
    seconds = []
    for _ in range(_RUNS):
        config = {"callbacks": [RunCollectorCallbackHandler()]}
        start = time.perf_counter()
        retriever.invoke(query, config)  # type: ignore[arg-type]  # a RunnableConfig is such a dict
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
