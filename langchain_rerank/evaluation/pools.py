"""The candidates of each query, fetched once and scored once, for rankings at many depths."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore

from langchain_rerank.evaluation.runs import Run, ranking
from langchain_rerank.evaluation.systems import Answer, as_ranking
from langchain_rerank.first_stage import as_first_stage, with_fetch_k
from langchain_rerank.ranking import Candidate, candidates, check_document, ranked
from langchain_rerank.scoring import score_pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_core.documents import Document

    from langchain_rerank.compressor import Reranker
    from langchain_rerank.evaluation.datasets import Dataset

Source = VectorStore | BaseRetriever | Run


@dataclass(frozen=True, slots=True)
class Pool:
    """What the first stage gave for one query."""

    query_id: str
    query: str
    documents: tuple[Document, ...]
    seconds: float
    """Of the retrieval; 0 for a run."""

    def answer(self, k: int, id_key: str | None) -> Answer:
        """Return what the first stage alone would answer with `k` documents."""
        found, texts = as_ranking(self.documents[:k], id_key)
        return Answer(found, tuple(one.id for one in found), {"retrieval": self.seconds}, texts)


@dataclass(frozen=True, slots=True)
class ScoredPool:
    """A pool's candidates with their scores."""

    pool: Pool
    found: tuple[Candidate, ...]
    scores: tuple[float, ...]
    seconds: Mapping[int, float]
    """Of scoring, by depth: all steps up to it."""

    def rank(
        self, reranker: Reranker, *, fetch_k: int, k: int, first_stage_weight: float
    ) -> list[Document]:
        """Return what the reranker would, had it been given the first `fetch_k` documents.

        The candidates among them are those that it would choose, as of equal documents the one
        that came first is chosen, at any depth.
        """
        size = sum(candidate.rank <= fetch_k for candidate in self.found)
        return ranked(
            self.found[:size],
            self.scores[:size],
            top_n=k,
            score_threshold=reranker.score_threshold,
            first_stage_weight=first_stage_weight,
        )


def fetcher(source: Source, dataset: Dataset, depth: int) -> Callable[[str], Pool]:
    """Return what fetches a query's pool from a store, a retriever or a run.

    Args:
        source: Of the candidates.
        dataset: The queries, and the texts of a run.
        depth: How many documents to fetch.

    Raises:
        TypeError: `source` is none of these.
        ValueError: It is a run, and the data set has no corpus.
    """
    if isinstance(source, Mapping):
        if dataset.corpus is None:
            msg = "a run as source needs a data set with a corpus, this one has none"
            raise ValueError(msg)
        return lambda query_id: _from_run(source, dataset, depth, query_id)
    if not isinstance(source, VectorStore | BaseRetriever):
        msg = f"source must be a VectorStore, a retriever or a run, got {type(source).__name__}"
        raise TypeError(msg)
    first_stage = with_fetch_k(as_first_stage(source, None, hybrid=False), depth, {})

    def fetch(query_id: str) -> Pool:
        query = dataset.queries[query_id]
        start = time.perf_counter()
        documents = first_stage.invoke(query)
        seconds = time.perf_counter() - start
        for position, document in enumerate(documents):
            check_document(document, position)
        return Pool(query_id, query, tuple(documents[:depth]), seconds)

    return fetch


def _from_run(run: Run, dataset: Dataset, depth: int, query_id: str) -> Pool:
    corpus = dataset.corpus or {}
    ids = ranking(run.get(query_id, {}))[:depth]
    if lacking := next((one for one in ids if one not in corpus), None):
        msg = f"the run's document '{lacking}' is not in the corpus of the data set"
        raise ValueError(msg)
    documents = tuple(corpus[one] for one in ids)
    return Pool(query_id, dataset.queries[query_id], documents, 0.0)


def score_pool(pool: Pool, reranker: Reranker, depths: Sequence[int]) -> ScoredPool:
    """Score a pool's candidates, each once, in steps from depth to depth, each of them timed.

    Args:
        pool: One query's.
        reranker: Its cross encoder scores, its settings choose the candidates.
        depths: Rising.
    """
    found = candidates(
        pool.documents,
        pool.query,
        rank_fields=reranker.rank_fields,
        deduplicate=reranker.deduplicate,
    )
    scores: list[float] = []
    seconds: dict[int, float] = {}
    total = 0.0
    for depth in depths:
        step = [one.pair for one in found[len(scores) :] if one.rank <= depth]
        start = time.perf_counter()
        scores += score_pairs(reranker.cross_encoder, step)
        total += time.perf_counter() - start
        seconds[depth] = total
    return ScoredPool(pool, tuple(found), tuple(scores), seconds)


def warm_up(pools: Sequence[Pool], reranker: Reranker) -> None:
    """Score one pair and forget it: models load at their first call."""
    first = next((pool for pool in pools if pool.documents), None)
    if first is not None:
        alone = Pool(first.query_id, first.query, first.documents[:1], 0.0)
        score_pool(alone, reranker, [1])
