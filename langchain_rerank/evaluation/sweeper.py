"""Trying settings of the second stage on one data set."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from langchain_rerank.cross_encoders.base import DEFAULT_MODEL
from langchain_rerank.errors import EvaluationError
from langchain_rerank.evaluation.contenders import contenders
from langchain_rerank.evaluation.grid import Grid
from langchain_rerank.evaluation.measures import parse_measures
from langchain_rerank.evaluation.notes import check_ids, find_notes
from langchain_rerank.evaluation.pools import fetcher, score_pool, warm_up
from langchain_rerank.evaluation.statistics import check_confidence, check_draws
from langchain_rerank.evaluation.sweep_report import Sweep
from langchain_rerank.retriever import check_depths

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import ir_measures

    from langchain_rerank.evaluation.contenders import Backend, Contender, Models
    from langchain_rerank.evaluation.datasets import Dataset
    from langchain_rerank.evaluation.pools import Pool, ScoredPool, Source
    from langchain_rerank.evaluation.sweep_records import Trial

logger = logging.getLogger(__name__)
DEFAULT_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5)
_FIRST_STAGE = "the first stage"


def sweep(  # noqa: PLR0913  # all but the first two have defaults
    source: Source,
    dataset: Dataset,
    *,
    models: Models = (DEFAULT_MODEL,),
    backends: Sequence[Backend] = ("torch",),
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
    them once (besides one pair, unmeasured, at which it loads). From these scores the ranking of
    every depth and weight is made as `Reranker` makes it.

    The candidates of a depth are the first ones of the deepest list. That is what a retriever
    asked for this depth returns, unless it chooses by how many it is asked for, as hybrid search
    and MMR do: there, compare retrievers of each depth by `evaluate`.

    Scoring goes in steps: the first 10 candidates, the next 10, the next 30, … The time of a depth
    is the sum of its steps, so it is measured, not computed; it lies a little above the time of a
    single call with all candidates. Retrieval is timed once, at the largest depth, and counts the
    same for each. Queries run one after another.

    The best of several weights looks better than it is. So for each model and depth the weight is
    chosen on one half of the queries, and judged on the other half: unless the interval of its
    gain there is above 0, weight 0 is recommended.

    Args:
        source: Of the candidates: a vector store, a retriever, or a run, whose documents come from
            the data set's corpus.
        dataset: The queries and judgments.
        models: Names or paths of models, or a mapping from names of your own to names, cross
            encoders or `Reranker`s. A reranker's settings hold, but for `top_n`, `on_error` and
            `first_stage_weight`.
        backends: What runs models given by name, each of them: "torch" and "onnx".
        fetch_k: Depths to try.
        first_stage_weights: Weights to try; 0 is always among them.
        measure: What to optimise.
        k: How many documents to return.
        min_relevance: Grade from which a document counts as relevant in binary measures.
        id_key: Metadata field with the id by which the judgments name a document; None takes
            `Document.id`.
        confidence: Of the bootstrap intervals.
        resamples: Of the bootstrap; at least 2.
        seed: Of the bootstrap, and of the halves; at least 0.
        show_progress: Show a progress bar for the first stage and for each model.

    Returns:
        All trials; `recommend()` picks one.

    Raises:
        EvaluationError: The first stage or a model failed on a query; nothing is kept.
        ValueError: A setting is wrong, there is no judgment, or the documents are not those of
            the data set.
        TypeError: `source` or a model is of another type.
        MissingDependencyError: The extra `eval`, or a backend, is not installed.

    Example:
        >>> from langchain_core.documents import Document
        >>> from langchain_core.vectorstores import InMemoryVectorStore
        >>> from langchain_rerank.evaluation import Dataset, sweep
        >>> from langchain_rerank.offline import OfflineEmbeddings, offline_reranker
        >>> documents = [
        ...     Document("Berlin has famous museums.", id="museums"),
        ...     Document("Berlin had a population of 3,520,031 in 2015.", id="people"),
        ... ]
        >>> dataset = Dataset.from_questions(
        ...     [("How many people live in Berlin?", ["people"]), ("What to see?", ["museums"])],
        ...     documents,
        ... )
        >>> store = InMemoryVectorStore.from_documents(documents, OfflineEmbeddings())
        >>> models = {"MiniLM": offline_reranker()}
        >>> found = sweep(store, dataset, models=models, fetch_k=[1, 2], k=1, show_progress=False)
        >>> found.recommend().best.mean
        1.0
    """
    for depth in fetch_k or [0]:
        check_depths(k, depth)
    weights = _checked_weights(first_stage_weights)
    check_confidence(confidence)
    check_draws(resamples, seed)
    [parsed] = parse_measures([measure], min_relevance=min_relevance)
    tried = contenders(models, backends)
    judged = dataset.judged()
    choosing = judged.split(0.5, seed=seed)[0].qrels if len(weights) > 1 else {}
    depths = sorted(set(fetch_k))
    grid = Grid(judged.qrels, parsed, depths, weights, k, id_key, confidence, resamples, seed)

    pools = _fetch(fetcher(source, judged, depths[-1]), judged, show_progress=show_progress)
    first_stage = {_FIRST_STAGE: {pool.query_id: pool.answer(k, id_key) for pool in pools}}
    check_ids(first_stage, judged)
    notes = find_notes(first_stage, judged, [parsed], min_relevance)
    if isinstance(source, Mapping):
        notes.append("The first stage is a run made elsewhere: latencies leave out its own.")
    for note in notes:
        logger.warning("%s", note)
    trials: list[Trial] = []
    for one in tried:
        trials += grid.trials(one, _score(one, pools, depths, show_progress=show_progress))
    return Sweep(
        dataset=dataset.name,
        measure=str(parsed),
        k=k,
        confidence=confidence,
        first_stage=grid.first_stage(pools),
        trials=tuple(trials),
        weight_choices=tuple(grid.weight_choices(trials, choosing)) if choosing else (),
        choosing_queries=tuple(choosing),
        notes=tuple(notes),
    )


def _checked_weights(weights: Sequence[float]) -> list[float]:
    """Sort the weights, with 0 among them."""
    for weight in weights:
        if not 0 <= weight <= 1:
            msg = f"first_stage_weights must be from 0 to 1, got {weight!r}"
            raise ValueError(msg)
    return sorted({0.0, *map(float, weights)})


def _fetch(fetch: Callable[[str], Pool], dataset: Dataset, *, show_progress: bool) -> list[Pool]:
    """Fetch every query's candidates, after one query unmeasured: stores load at their first."""
    from tqdm.auto import tqdm

    pools: list[Pool] = []
    queries = list(dataset.qrels)
    bar = tqdm(queries, desc=_FIRST_STAGE, unit="query", disable=not show_progress)
    for query_id in bar:
        try:
            if not pools:
                fetch(query_id)
            pools.append(fetch(query_id))
        except Exception as error:
            query = dataset.queries[query_id]
            raise _failure(_FIRST_STAGE, query_id, query, error) from error
    return pools


def _score(
    contender: Contender, pools: Sequence[Pool], depths: Sequence[int], *, show_progress: bool
) -> list[ScoredPool]:
    """Score every query's candidates by one model."""
    from tqdm.auto import tqdm

    scored: list[ScoredPool] = []
    name = contender.name if contender.backend is None else f"{contender.name} {contender.backend}"
    try:
        for pool in tqdm(pools, desc=name, unit="query", disable=not show_progress):
            try:
                if not scored:
                    warm_up(pools, contender.reranker)
                scored.append(score_pool(pool, contender.reranker, depths))
            except Exception as error:
                raise _failure(name, pool.query_id, pool.query, error) from error
    finally:
        contender.close()
    return scored


def _failure(what: str, query_id: str, query: str, error: Exception) -> EvaluationError:
    """Build the error of a query."""
    return EvaluationError(
        f"{what} failed on query '{query_id}' ({query:.80}): {type(error).__name__}: {error}"
    )
