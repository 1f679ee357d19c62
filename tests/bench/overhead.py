"""What everything around the scoring costs: ranking policy, retriever, tracing, score cache."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.stores import InMemoryByteStore
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from langchain_rerank import CachedCrossEncoder, create_rerank_retriever
from tests.fakes import RecordingRetriever

if TYPE_CHECKING:
    from tests.bench.systems import Pairs

_RUNS = 50


class _Instant(BaseCrossEncoder):
    """Scores that cost nothing."""

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        return [float(position % 7) for position in range(len(text_pairs))]


def overhead_s(pairs: Pairs, *, cached: bool) -> float:
    """Median seconds of a traced `RerankRetriever.invoke` but for first stage and scoring."""
    documents = [
        Document(passage, id=str(number), metadata={"source": "bench", "place": number})
        for number, (_, passage) in enumerate(pairs)
    ]
    scorer: BaseCrossEncoder = _Instant()
    if cached:
        scorer = CachedCrossEncoder(scorer, InMemoryByteStore(), namespace="bench")
    retriever = create_rerank_retriever(
        RecordingRetriever(documents=documents), reranker=scorer, fetch_k=len(documents), k=1
    )
    seconds = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        retriever.invoke(pairs[0][0], {"callbacks": [RunCollectorCallbackHandler()]})
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
