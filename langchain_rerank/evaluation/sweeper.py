"""Trying settings of the second stage: candidates are fetched once, and each scored once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore

from langchain_rerank.compressor import Reranker
from langchain_rerank.cross_encoders.base import DEFAULT_MODEL
from langchain_rerank.evaluation.evaluator import checked_notes
from langchain_rerank.evaluation.measures import (
    bootstrap_interval,
    check_draws,
    parse_measures,
    per_query_values,
)
from langchain_rerank.evaluation.runs import Run
from langchain_rerank.evaluation.sweep_report import Setting, Sweep, Trial
from langchain_rerank.evaluation.systems import (
    Answer,
    as_ranking,
    best_of_run,
    failure,
    is_query_itself,
)
from langchain_rerank.first_stage import FirstStage, as_first_stage, with_fetch_k
from langchain_rerank.ranking import Candidate, candidates, check_document, ranked
from langchain_rerank.retriever import check_depths
from langchain_rerank.scoring import score_pairs

if TYPE_CHECKING:
    import ir_measures

    from langchain_rerank.evaluation.datasets import Dataset

Source = VectorStore | BaseRetriever | Run
FIRST_STAGE = "the first stage"
DEFAULT_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)


@dataclass(frozen=True, slots=True)
class _Scored:
    """A query's candidates and scores; by depth, how many they are, and the seconds up to it."""

    found: Sequence[Candidate]
    scores: Sequence[float]
    sizes: Mapping[int, int]
    seconds: Mapping[int, float]


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
    check_draws(confidence, resamples, seed)
    [parsed] = parse_measures([measure], min_relevance=min_relevance)
    rerankers = _named_rerankers(models)
    judged = dataset.judged()
    draws: Any = {"confidence": confidence, "resamples": resamples, "seed": seed}

    def trial(
        setting: Setting, rankings: Mapping[str, Sequence[str]], seconds: Sequence[float]
    ) -> Trial:
        [values] = per_query_values([parsed], rankings, judged.qrels).values()
        numbers = list(values.values())
        interval = bootstrap_interval(numbers, **draws)
        return Trial(setting, values, float(np.mean(numbers)), interval, tuple(seconds))

    stage = _first_stage(source, judged, depths[-1])
    fetched, answers = _fetch_all(stage, judged, depths[-1], k, id_key, show_progress)
    notes = checked_notes({FIRST_STAGE: answers}, judged, [parsed], min_relevance)
    if isinstance(source, Mapping):
        notes.append("The first stage is a run made elsewhere: latencies leave out its own.")
    retrieval = [answer.seconds["retrieval"] for answer in answers.values()]
    ids = {query: [one.id for one in answer.ranking] for query, answer in answers.items()}
    first_stage = trial(Setting(None, k, 0.0), ids, retrieval)
    trials = []
    for name, reranker in rerankers.items():
        scored = _score_all(fetched, judged, name, reranker, depths, show_progress)
        for depth, weight in product(depths, weights):
            rankings = {}
            for query, one in scored.items():
                size = one.sizes[depth]
                documents = ranked(
                    one.found[:size],
                    one.scores[:size],
                    top_n=k,
                    score_threshold=reranker.score_threshold,
                    first_stage_weight=weight,
                )
                rankings[query] = [given.id for given in as_ranking(documents, id_key)[0]]
            seconds = np.add(retrieval, [one.seconds[depth] for one in scored.values()]).tolist()
            trials.append(trial(Setting(name, depth, weight), rankings, seconds))
    return Sweep(dataset.name, str(parsed), k, draws, first_stage, tuple(trials), tuple(notes))


def _fetch_all(  # noqa: PLR0913, PLR0917  # what one loop needs
    stage: FirstStage | Run,
    dataset: Dataset,
    depth: int,
    k: int,
    id_key: str | None,
    show: bool,  # noqa: FBT001
) -> tuple[dict[str, list[Document]], dict[str, Answer]]:
    """Return the candidates of each query, and the first stage's own answer."""
    fetched: dict[str, list[Document]] = {}
    answers: dict[str, Answer] = {}
    for query in _progress(dataset.qrels, FIRST_STAGE, show):
        try:
            if not fetched:  # once unmeasured, as stores load at their first query
                _fetch(stage, dataset, query, depth, id_key)
            fetched[query], seconds, own = _fetch(stage, dataset, query, depth, id_key)
            found, _ = as_ranking(fetched[query][:k], id_key)
        except Exception as error:
            raise failure(FIRST_STAGE, dataset, query, error) from error
        answers[query] = Answer(found, (), {"retrieval": seconds}, {}, own)
    return fetched, answers


def _score_all(  # noqa: PLR0913, PLR0917  # what one loop needs
    fetched: Mapping[str, Sequence[Document]],
    dataset: Dataset,
    name: str,
    reranker: Reranker,
    depths: Sequence[int],
    show: bool,  # noqa: FBT001
) -> dict[str, _Scored]:
    scored: dict[str, _Scored] = {}
    for query in _progress(dataset.qrels, name, show):
        text, documents = dataset.queries[query], fetched[query]
        try:
            if documents and not any(one.scores for one in scored.values()):
                _score(documents[:1], text, reranker, [1])  # unmeasured, as models load
            scored[query] = _score(documents, text, reranker, depths)
        except Exception as error:
            raise failure(name, dataset, query, error) from error
    return scored


def _progress(queries: Mapping[str, object], name: str, show: bool) -> Sequence[str]:  # noqa: FBT001
    from tqdm.auto import tqdm

    bar: Sequence[str] = tqdm(queries, desc=name, unit="query", disable=not show)
    return bar


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


def _first_stage(source: Source, dataset: Dataset, depth: int) -> FirstStage | Run:
    if isinstance(source, Mapping):
        if dataset.corpus is None:
            msg = "a run as source needs a data set with a corpus, this one has none"
            raise ValueError(msg)
        return source
    if not isinstance(source, VectorStore | BaseRetriever):
        msg = f"source must be a VectorStore, a retriever or a run, got {type(source).__name__}"
        raise TypeError(msg)
    stage: FirstStage = with_fetch_k(as_first_stage(source, None, hybrid=False), depth, {})
    return stage


def _fetch(
    stage: FirstStage | Run, dataset: Dataset, query_id: str, depth: int, id_key: str | None
) -> tuple[list[Document], float, bool]:
    """Return a query's candidates, the seconds, and whether its own document was left out."""
    if isinstance(stage, Mapping):
        documents, own = best_of_run(stage, dataset, query_id, depth)
        return documents, 0.0, own
    start = time.perf_counter()
    documents = stage.invoke(dataset.queries[query_id])[:depth]
    seconds = time.perf_counter() - start
    kept = []
    for position, one in enumerate(documents):
        check_document(one, position)
        key = one.id if id_key is None else one.metadata.get(id_key)
        if key != query_id or not is_query_itself(dataset, query_id, one.page_content):
            kept.append(one)
    return kept, seconds, len(kept) < len(documents)


def _score(
    documents: Sequence[Document], query: str, reranker: Reranker, depths: Sequence[int]
) -> _Scored:
    """Score candidates, each once, in steps from depth to depth, each of them timed."""
    found = candidates(
        documents, query, rank_fields=reranker.rank_fields, deduplicate=reranker.deduplicate
    )
    scores: list[float] = []
    seconds: dict[int, float] = {}
    start = time.perf_counter()
    for depth in depths:
        step = [one.pair for one in found[len(scores) :] if one.rank <= depth]
        scores += score_pairs(reranker.model, step, reranker.instruction)
        seconds[depth] = time.perf_counter() - start
    sizes = {depth: sum(one.rank <= depth for one in found) for depth in depths}
    # A retriever counts ranks after it has dropped repeats.
    distinct = [replace(one, rank=rank) for rank, one in enumerate(found, start=1)]
    return _Scored(distinct, scores, sizes, seconds)
