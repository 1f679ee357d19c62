"""Trying settings of the second stage: candidates are fetched once, and each scored once."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.runnables import Runnable
from langchain_core.vectorstores import VectorStore

from langchain_rerank.compressor import Reranker
from langchain_rerank.cross_encoders.base import DEFAULT_MODEL
from langchain_rerank.evaluation.evaluator import checked_notes
from langchain_rerank.evaluation.measures import Run, check_draws, parse_measures, per_query_values
from langchain_rerank.evaluation.sweep_report import FIRST_STAGE_ALONE, Setting, Sweep, summarize
from langchain_rerank.evaluation.systems import Answer, as_ranking, ask, failure, progress
from langchain_rerank.first_stage import as_first_stage, with_fetch_k
from langchain_rerank.ranking import ranked
from langchain_rerank.retriever import check_depths
from langchain_rerank.scoring import score_pairs

if TYPE_CHECKING:
    import ir_measures

    from langchain_rerank.evaluation.datasets import Dataset

Source = VectorStore | Runnable[str, list[Document]] | Run
FIRST_STAGE = "the first stage"
DEFAULT_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)


def sweep(  # noqa: C901, PLR0913  # loops within loops; all but the first two have defaults
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

    if isinstance(models, str) or not models:
        msg = f"models must be a sequence of names, or a mapping by names, got {models!r}"
        raise TypeError(msg)
    named = models if isinstance(models, Mapping) else {str(one): one for one in models}
    rerankers = {
        name: model if isinstance(model, Reranker) else Reranker(model=model)
        for name, model in named.items()
    }
    judged = dataset.judged()
    answers = _first_stage(source, judged, depths[-1], id_key, show=show_progress)
    returned = {
        query: one._replace(ranking=dict(islice(one.ranking.items(), k)))
        for query, one in answers.items()
    }
    notes = checked_notes({FIRST_STAGE: returned}, judged, [parsed], min_relevance)
    if isinstance(source, Mapping):
        notes.append("The first stage is a run made elsewhere: latencies leave out its own.")
    rankings: defaultdict[Setting, dict[str, list[str]]] = defaultdict(dict)
    times: defaultdict[Setting, dict[str, float]] = defaultdict(dict)

    def keep(setting: Setting, query: str, documents: Sequence[Document], seconds: float) -> None:
        rankings[setting][query] = list(as_ranking(documents, id_key))
        # What a run took elsewhere isn't known.
        times[setting][query] = seconds + answers[query].seconds.get("total", 0.0)

    for query, answer in answers.items():
        keep(Setting(FIRST_STAGE_ALONE, k, 0.0), query, answer.documents[:k], 0.0)
    for name, reranker in rerankers.items():
        loaded = False
        for query in progress(name, judged, show=show_progress):
            text, found = judged.queries[query], answers[query].documents
            try:
                if found and not loaded:
                    # Models load at their first call, which is not measured.
                    loaded = bool(list(_tried(reranker, text, found[:1], [1], [0.0], k)))
                for depth, weight, documents, took in _tried(
                    reranker, text, found, depths, weights, k
                ):
                    keep(Setting(name, depth, weight), query, documents, took)
            except Exception as error:
                raise failure(name, judged, query, error) from error
    values = {
        setting: per_query_values([parsed], given, judged.qrels)[str(parsed)]
        for setting, given in rankings.items()
    }
    measured, seconds = pd.DataFrame(values), pd.DataFrame(times)
    measured.columns.names = seconds.columns.names = Setting._fields
    summary = summarize(measured, seconds, str(parsed), draws)
    return Sweep(dataset.name, str(parsed), k, draws, measured, seconds, summary, tuple(notes))


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


def _tried(  # noqa: PLR0913, PLR0917  # what one query needs
    reranker: Reranker,
    query: str,
    documents: Sequence[Document],
    depths: Sequence[int],
    weights: Sequence[float],
    k: int,
) -> Iterator[tuple[int, float, list[Document], float]]:
    """Score candidates, each once, from depth to depth: depth, weight, the ranking, the seconds."""
    found = reranker.candidates(documents, query)
    # A retriever counts ranks after it has dropped repeats.
    distinct = [replace(one, rank=rank) for rank, one in enumerate(found, start=1)]
    scores: list[float] = []
    seconds = 0.0
    for depth in depths:
        start = time.perf_counter()
        step = [one.pair for one in found[len(scores) :] if one.rank <= depth]
        scores += score_pairs(reranker.model, step, reranker.instruction)
        seconds += time.perf_counter() - start
        for weight in weights:
            best = ranked(
                distinct[: len(scores)],
                scores,
                top_n=k,
                score_threshold=reranker.score_threshold,
                first_stage_weight=weight,
            )
            yield depth, weight, best, seconds
