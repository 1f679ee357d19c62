"""A sweep's candidates: fetched once, scored once, ranked at each depth and weight."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore

from langchain_rerank.evaluation.measures import per_query_values
from langchain_rerank.evaluation.runs import Run
from langchain_rerank.evaluation.statistics import bootstrap_interval
from langchain_rerank.evaluation.sweep_report import Setting, Trial
from langchain_rerank.evaluation.systems import (
    Answer,
    as_ranking,
    best_of_run,
    failure,
    is_query_itself,
)
from langchain_rerank.first_stage import as_first_stage, with_fetch_k
from langchain_rerank.ranking import candidates, check_document, ranked
from langchain_rerank.scoring import score_pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import ir_measures
    from langchain_core.documents import Document

    from langchain_rerank.compressor import Reranker
    from langchain_rerank.evaluation.datasets import Dataset
    from langchain_rerank.evaluation.statistics import Interval
    from langchain_rerank.ranking import Candidate

Source = VectorStore | BaseRetriever | Run
FIRST_STAGE = "the first stage"


@dataclass(frozen=True, slots=True)
class Method:
    """What is tried, and how it is measured."""

    dataset: Dataset
    measure: ir_measures.Measure
    depths: Sequence[int]
    """Rising."""
    weights: Sequence[float]
    """Rising from 0."""
    k: int
    id_key: str | None
    from_run: bool
    draws: Mapping[str, Any]

    def trial(
        self, setting: Setting, rankings: Mapping[str, Sequence[str]], seconds: Sequence[float]
    ) -> Trial:
        """Measure what a setting returned."""
        [values] = per_query_values([self.measure], rankings, self.dataset.qrels).values()
        numbers = list(values.values())
        mean = float(np.mean(numbers))
        return Trial(setting, values, mean, self.interval(numbers), tuple(seconds))

    def interval(self, values: Sequence[float]) -> Interval | None:
        """Return the bootstrap interval of a mean."""
        return bootstrap_interval(values, **self.draws)


@dataclass(frozen=True, slots=True)
class Fetched:
    """What the first stage gave for one query; a run takes no time."""

    documents: Sequence[Document]
    seconds: float
    own_left_out: bool


@dataclass(frozen=True, slots=True)
class _Scored:
    """A query's candidates with their scores; scoring is timed by depth, all steps up to it."""

    found: Sequence[Candidate]
    scores: Sequence[float]
    sizes: Mapping[int, int]
    """How many of them there are at each depth."""
    seconds: Mapping[int, float]


def fetch_all(source: Source, method: Method, *, show_progress: bool) -> dict[str, Fetched]:
    """Fetch every query's candidates, after one query unmeasured: stores load at their first."""
    from tqdm.auto import tqdm

    fetch = _fetcher(source, method)
    fetched: dict[str, Fetched] = {}
    bar = tqdm(method.dataset.qrels, desc=FIRST_STAGE, unit="query", disable=not show_progress)
    for query_id in bar:
        try:
            if not fetched:
                fetch(query_id)
            fetched[query_id] = fetch(query_id)
        except Exception as error:
            raise failure(FIRST_STAGE, method.dataset, query_id, error) from error
    return fetched


def _fetcher(source: Source, method: Method) -> Callable[[str], Fetched]:
    dataset, depth = method.dataset, method.depths[-1]
    if isinstance(source, Mapping):
        if dataset.corpus is None:
            msg = "a run as source needs a data set with a corpus, this one has none"
            raise ValueError(msg)

        def look_up(query_id: str) -> Fetched:
            documents, own = best_of_run(source, dataset, query_id, depth)
            return Fetched(documents, 0.0, own)

        return look_up
    if not isinstance(source, VectorStore | BaseRetriever):
        msg = f"source must be a VectorStore, a retriever or a run, got {type(source).__name__}"
        raise TypeError(msg)
    first_stage = with_fetch_k(as_first_stage(source, None, hybrid=False), depth, {})

    def fetch(query_id: str) -> Fetched:
        start = time.perf_counter()
        documents = first_stage.invoke(dataset.queries[query_id])[:depth]
        seconds = time.perf_counter() - start
        for position, document in enumerate(documents):
            check_document(document, position)
        kept = [one for one in documents if not _is_own(one, method, query_id)]
        return Fetched(kept, seconds, len(kept) < len(documents))

    return fetch


def _is_own(document: Document, method: Method, query_id: str) -> bool:
    key = document.id if method.id_key is None else document.metadata.get(method.id_key)
    return key == query_id and is_query_itself(method.dataset, query_id, document.page_content)


def first_stage_answer(fetched: Fetched, method: Method) -> Answer:
    """Return what the first stage alone would answer."""
    found, texts = as_ranking(fetched.documents[: method.k], method.id_key)
    ids = tuple(one.id for one in found)
    return Answer(found, ids, {"retrieval": fetched.seconds}, texts, fetched.own_left_out)


def score_all(  # noqa: PLR0913  # what to score, by what, and how
    name: str,
    backend: str | None,
    reranker: Reranker,
    fetched: Mapping[str, Fetched],
    method: Method,
    *,
    show_progress: bool,
) -> dict[str, _Scored]:
    """Score every query's candidates by one model, after one pair unmeasured: models load."""
    from tqdm.auto import tqdm

    label = name if backend is None else f"{name} {backend}"
    scored: dict[str, _Scored] = {}
    model: Any = reranker.cross_encoder
    built_here = backend is not None and hasattr(model, "close")
    with closing(model) if built_here else nullcontext():
        bar = tqdm(fetched.items(), desc=label, unit="query", disable=not show_progress)
        for query_id, given in bar:
            query = method.dataset.queries[query_id]
            try:
                if given.documents and not any(one.scores for one in scored.values()):
                    _scored(given.documents[:1], query, reranker, [1])
                found = _scored(given.documents, query, reranker, method.depths)
                # A retriever counts ranks after it has dropped repeats, a reranked run before.
                distinct = [replace(one, rank=n) for n, one in enumerate(found.found, start=1)]
                scored[query_id] = found if method.from_run else replace(found, found=distinct)
            except Exception as error:
                raise failure(label, method.dataset, query_id, error) from error
    return scored


def _scored(
    documents: Sequence[Document], query: str, reranker: Reranker, depths: Sequence[int]
) -> _Scored:
    """Score candidates, each once, in steps from depth to depth, each of them timed."""
    found = candidates(
        documents, query, rank_fields=reranker.rank_fields, deduplicate=reranker.deduplicate
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
    sizes = {depth: sum(one.rank <= depth for one in found) for depth in depths}
    return _Scored(found, scores, sizes, seconds)


def trials_of(  # noqa: PLR0913, PLR0917  # as `score_all`
    name: str,
    backend: str | None,
    reranker: Reranker,
    fetched: Mapping[str, Fetched],
    scored: Mapping[str, _Scored],
    method: Method,
) -> Iterator[Trial]:
    """Measure each depth and weight of one model, by rising depth, then weight.

    The candidates at a depth are those that the reranker would choose of as many documents, as of
    equal documents the one that came first is chosen at any depth.
    """
    for depth in method.depths:
        seconds = [fetched[query].seconds + one.seconds[depth] for query, one in scored.items()]
        for weight in method.weights:
            rankings = {}
            for query, one in scored.items():
                size = one.sizes[depth]
                documents = ranked(
                    one.found[:size],
                    one.scores[:size],
                    top_n=method.k,
                    score_threshold=reranker.score_threshold,
                    first_stage_weight=weight,
                )
                rankings[query] = [given.id for given in as_ranking(documents, method.id_key)[0]]
            yield method.trial(Setting(name, backend, depth, weight), rankings, seconds)
