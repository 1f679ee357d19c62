"""Trying settings of the second stage: candidates are fetched once, and each scored once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.runnables import Runnable
from langchain_core.vectorstores import VectorStore

from langchain_rerank.compressor import Reranker
from langchain_rerank.cross_encoders.base import DEFAULT_MODEL
from langchain_rerank.evaluation.evaluator import checked_notes
from langchain_rerank.evaluation.measures import (
    Run,
    check_draws,
    parse_measures,
    per_query_values,
)
from langchain_rerank.evaluation.sweep_report import (
    FIRST_STAGE_ALONE,
    Setting,
    Sweep,
    summarize,
)
from langchain_rerank.evaluation.systems import (
    Answer,
    as_ranking,
    ask,
    failure,
    progress,
)
from langchain_rerank.first_stage import as_first_stage, with_fetch_k
from langchain_rerank.ranking import Candidate, candidates, ranked
from langchain_rerank.retriever import check_depths
from langchain_rerank.scoring import score_pairs

if TYPE_CHECKING:
    import ir_measures
    import pandas as pd

    from langchain_rerank.evaluation.datasets import Dataset

Source = VectorStore | Runnable[str, list[Document]] | Run
FIRST_STAGE = "the first stage"
DEFAULT_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)


def sweep(  # noqa: PLR0913  # all but the first two have defaults
    source: Source,
    dataset: Dataset,
    *,
    models: Sequence[str] | Mapping[str, str | BaseCrossEncoder | Reranker] = (DEFAULT_MODEL,),
    fetch_k: Sequence[int] = (10, 20, 50, 100, 200),
    first_stage_weights: Sequence[float] = DEFAULT_WEIGHTS,
    measure: str | ir_measures.Measure = "nDCG@10",
    k: int = 10,
    min_relevance: int = 1,
    id_key: str | None = None,
    confidence: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
    show_progress: bool = True,
) -> Sweep:
    """Measure models, depths and first-stage weights: quality against latency.

    Candidates are fetched once, as deep as the deepest `fetch_k`, and each model scores each of
    them once. From these scores the ranking of every depth and weight is made as `Reranker` makes
    it. A depth's candidates are the first ones of the deepest list: where a retriever chooses by
    how many it is asked for, as hybrid search and MMR do, compare depths by `evaluate`.

    Scoring goes in steps from depth to depth, so latencies are measured, a little above those of
    one call for all. Retrieval is timed at the largest depth, and counts the same for each.

    Args:
        source: Of the candidates: a vector store, a retriever, or a run, whose documents come from
            the data set's corpus.
        dataset: The queries and judgments.
        models: Names or paths of models, or a mapping from names of your own to names, cross
            encoders or `Reranker`s. A reranker's settings hold, but for `top_n`, `on_error` and
            `first_stage_weight`.
        fetch_k: Depths to try.
        first_stage_weights: Weights to try; 0 is always among them.
        measure: What to optimise.
        k: How many documents to return.
        min_relevance: As `evaluate`'s, and so are the others.
        id_key: Names the document that was judged.
        confidence: Of the bootstrap intervals.
        resamples: Of the bootstrap.
        seed: Of the bootstrap, and of the folds on which advice is tried.
        show_progress: Show a progress bar for the first stage and for each model.

    Returns:
        All trials; `recommend()` picks one.

    Raises:
        EvaluationError: The first stage or a model failed on a query; nothing is kept.
        ValueError: A setting is wrong, there is no judgment, or the documents are not those of
            the data set.
        TypeError: `source` or a model is of another type.
        MissingDependencyError: The extra `eval`, or a model's backend, is not installed.
    """
    for depth in fetch_k or [0]:
        check_depths(k, depth)
    for weight in first_stage_weights:
        if not 0 <= weight <= 1:
            msg = f"first_stage_weights must be from 0 to 1, got {weight!r}"
            raise ValueError(msg)
    depths, weights = sorted(set(fetch_k)), sorted({0.0, *map(float, first_stage_weights)})
    draws = check_draws(confidence, resamples, seed)
    [parsed] = parse_measures([measure], min_relevance=min_relevance)
    import pandas as pd

    rerankers = _named_rerankers(models)
    judged = dataset.judged()

    values: dict[Setting, pd.Series[float]] = {}
    seconds: dict[Setting, Sequence[float]] = {}

    def measured(
        setting: Setting, documents: Mapping[str, Sequence[Document]], took: Sequence[float]
    ) -> None:
        ids = {q: [one.id for one in as_ranking(given, id_key)] for q, given in documents.items()}
        values[setting] = per_query_values([parsed], ids, judged.qrels)[str(parsed)]
        seconds[setting] = took

    answers = _first_stage(source, judged, depths[-1], id_key, show=show_progress)
    returned = {query: one._replace(ranking=one.ranking[:k]) for query, one in answers.items()}
    notes = checked_notes({FIRST_STAGE: returned}, judged, [parsed], min_relevance)
    if isinstance(source, Mapping):
        notes.append("The first stage is a run made elsewhere: latencies leave out its own.")
    retrieval = [answer.seconds.get("total", 0.0) for answer in answers.values()]
    as_they_came = {query: one.documents[:k] for query, one in answers.items()}
    measured(Setting(FIRST_STAGE_ALONE, k, 0.0), as_they_came, retrieval)
    for name, reranker in rerankers.items():
        scored = {
            query: _score(answers[query].documents, judged, query, name, reranker, depths)
            for query in _warmed_up(answers, judged, name, reranker, show=show_progress)
        }
        for depth, weight in product(depths, weights):
            documents = {
                query: ranked(
                    one.found[: one.sizes[depth]],
                    one.scores[: one.sizes[depth]],
                    top_n=k,
                    score_threshold=reranker.score_threshold,
                    first_stage_weight=weight,
                )
                for query, one in scored.items()
            }
            took = np.add(retrieval, [one.seconds[depth] for one in scored.values()]).tolist()
            measured(Setting(name, depth, weight), documents, took)
    measures, times = (pd.DataFrame(one, index=list(judged.qrels)) for one in (values, seconds))
    measures.columns.names = times.columns.names = Setting._fields
    summary = summarize(measures, times, str(parsed), draws)
    return Sweep(dataset.name, str(parsed), k, draws, measures, times, summary, notes=tuple(notes))


def _named_rerankers(
    models: Sequence[str] | Mapping[str, str | BaseCrossEncoder | Reranker],
) -> dict[str, Reranker]:
    """Build what to compare."""
    if not isinstance(models, Mapping):
        if isinstance(models, str) or not all(isinstance(one, str) for one in models):
            msg = f"models must be a sequence of names, or a mapping by names, got {models!r}"
            raise TypeError(msg)
        models = {name: name for name in models}
    if not models:
        msg = "expected at least one model, got none"
        raise ValueError(msg)
    for name, model in models.items():
        if not isinstance(model, str | BaseCrossEncoder | Reranker):
            kind = type(model).__name__
            msg = f"model '{name}' must be a name, a BaseCrossEncoder or a Reranker, got {kind}"
            raise TypeError(msg)
    return {
        name: model if isinstance(model, Reranker) else Reranker(model=model)
        for name, model in models.items()
    }


def _first_stage(
    source: Source, dataset: Dataset, depth: int, id_key: str | None, *, show: bool
) -> dict[str, Answer]:
    """Fetch each query's candidates, after one unmeasured: stores load at their first query."""
    if isinstance(source, Mapping):
        stage: Any = source
        if dataset.corpus is None:
            msg = "a run as source needs a data set with a corpus, this one has none"
            raise ValueError(msg)
    else:
        stage = with_fetch_k(as_first_stage(source, None, hybrid=False), depth, {})
        ask(FIRST_STAGE, stage, dataset, next(iter(dataset.qrels)), id_key)
    queries = progress(FIRST_STAGE, dataset, show=show)
    return {query: ask(FIRST_STAGE, stage, dataset, query, id_key, depth) for query in queries}


def _warmed_up(
    answers: Mapping[str, Answer], dataset: Dataset, name: str, reranker: Reranker, *, show: bool
) -> Iterable[str]:
    """Go through the queries after one unmeasured pair, at which a model loads."""
    for query, answer in answers.items():
        if answer.documents:
            _score(answer.documents[:1], dataset, query, name, reranker, [1])
            break
    return progress(name, dataset, show=show)


class _Scored(NamedTuple):
    """A query's candidates and scores; by depth, how many they are, and the seconds up to it."""

    found: Sequence[Candidate]
    scores: Sequence[float]
    sizes: Mapping[int, int]
    seconds: Mapping[int, float]


def _score(  # noqa: PLR0913, PLR0917  # what one query needs
    documents: Sequence[Document],
    dataset: Dataset,
    query: str,
    name: str,
    reranker: Reranker,
    depths: Sequence[int],
) -> _Scored:
    """Score candidates, each once, in steps from depth to depth, each of them timed."""
    text, fields = dataset.queries[query], reranker.rank_fields
    scores: list[float] = []
    seconds: dict[int, float] = {}
    try:
        found = candidates(documents, text, rank_fields=fields, deduplicate=reranker.deduplicate)
        start = time.perf_counter()
        for depth in depths:
            step = [one.pair for one in found[len(scores) :] if one.rank <= depth]
            scores += score_pairs(reranker.model, step, reranker.instruction)
            seconds[depth] = time.perf_counter() - start
    except Exception as error:
        raise failure(name, dataset, query, error) from error
    sizes = {depth: sum(one.rank <= depth for one in found) for depth in depths}
    # A retriever counts ranks after it has dropped repeats.
    distinct = [replace(one, rank=rank) for rank, one in enumerate(found, start=1)]
    return _Scored(distinct, scores, sizes, seconds)
