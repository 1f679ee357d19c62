"""Trying settings of the second stage on one data set."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore

from langchain_rerank.compressor import Reranker
from langchain_rerank.cross_encoders.base import DEFAULT_MODEL
from langchain_rerank.cross_encoders.onnx import OnnxCrossEncoder
from langchain_rerank.cross_encoders.torch import TorchCrossEncoder
from langchain_rerank.evaluation.measures import parse_measures, per_query_values
from langchain_rerank.evaluation.notes import check_ids, find_notes
from langchain_rerank.evaluation.runs import Run
from langchain_rerank.evaluation.statistics import bootstrap_interval, check_confidence, check_draws
from langchain_rerank.evaluation.sweep_report import Setting, Sweep, Trial, WeightChoice
from langchain_rerank.evaluation.systems import (
    Answer,
    as_ranking,
    best_of_run,
    failure,
    is_query_itself,
)
from langchain_rerank.first_stage import as_first_stage, with_fetch_k
from langchain_rerank.ranking import candidates, check_document, ranked
from langchain_rerank.retriever import check_depths
from langchain_rerank.scoring import score_pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    import ir_measures
    from langchain_core.documents import Document

    from langchain_rerank.cross_encoders.base import LocalCrossEncoder
    from langchain_rerank.evaluation.datasets import Dataset
    from langchain_rerank.evaluation.statistics import Interval
    from langchain_rerank.ranking import Candidate

Source = VectorStore | BaseRetriever | Run
Backend = Literal["torch", "onnx"]
logger = logging.getLogger(__name__)
DEFAULT_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5)
_FIRST_STAGE = "the first stage"


def sweep(  # noqa: PLR0913  # all but the first two have defaults
    source: Source,
    dataset: Dataset,
    *,
    models: Sequence[str] | Mapping[str, str | BaseCrossEncoder | Reranker] = (DEFAULT_MODEL,),
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
    depths, weights = sorted(set(fetch_k)), _checked_weights(first_stage_weights)
    check_confidence(confidence)
    check_draws(resamples, seed)
    [parsed] = parse_measures([measure], min_relevance=min_relevance)
    rerankers = named_rerankers(models, backends)
    judged = dataset.judged()
    choosing = judged.split(0.5, seed=seed)[0].qrels if len(weights) > 1 else {}
    draws = {"confidence": confidence, "resamples": resamples, "seed": seed}
    method = _Method(judged, parsed, depths, weights, k, id_key, draws)

    fetched = _fetch(source, method, show_progress=show_progress)
    answers = {query: _first(one, method) for query, one in fetched.items()}
    check_ids({_FIRST_STAGE: answers}, judged)
    notes = find_notes({_FIRST_STAGE: answers}, judged, [parsed], min_relevance)
    if isinstance(source, Mapping):
        notes.append("The first stage is a run made elsewhere: latencies leave out its own.")
    for note in notes:
        logger.warning("%s", note)
    trials: list[Trial] = []
    for name, backend, reranker in rerankers:
        scored = _score(name, backend, reranker, fetched, method, show_progress=show_progress)
        trials += _trials(name, backend, reranker, fetched, scored, method)
    return Sweep(
        dataset=dataset.name,
        measure=str(parsed),
        k=k,
        confidence=confidence,
        first_stage=method.trial(
            Setting(None, None, k, 0.0),
            {query: [one.id for one in answer.ranking] for query, answer in answers.items()},
            [one.seconds for one in fetched.values()],
        ),
        trials=tuple(trials),
        weight_choices=tuple(_weight_choices(trials, choosing, method)) if choosing else (),
        choosing_queries=tuple(choosing),
        notes=tuple(notes),
    )


@dataclass(frozen=True, slots=True)
class _Method:
    """What is tried, and how it is measured."""

    dataset: Dataset
    measure: ir_measures.Measure
    depths: Sequence[int]
    """Rising."""
    weights: Sequence[float]
    """Rising from 0."""
    k: int
    id_key: str | None
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
        return bootstrap_interval(values, **self.draws)


@dataclass(frozen=True, slots=True)
class _Fetched:
    """What the first stage gave for one query; a run takes no time."""

    documents: Sequence[Document]
    seconds: float
    own_left_out: bool


@dataclass(frozen=True, slots=True)
class _Scored:
    """A query's candidates with their scores; scoring is timed by depth, all steps up to it."""

    found: Sequence[Candidate]
    scores: Sequence[float]
    seconds: Mapping[int, float]


def build_cross_encoder(model: str, backend: str) -> LocalCrossEncoder:
    """Build the cross encoder that runs a model: "torch", or "onnx" in int8.

    Raises:
        ValueError: There is no such backend.
    """
    if backend not in get_args(Backend):
        msg = f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}"
        raise ValueError(msg)
    built = TorchCrossEncoder if backend == "torch" else OnnxCrossEncoder
    return built(model=model)


def named_rerankers(
    models: Sequence[str] | Mapping[str, str | BaseCrossEncoder | Reranker],
    backends: Sequence[Backend],
) -> list[tuple[str, Backend | None, Reranker]]:
    """List what to compare: models in their order, each one given by name with every backend."""
    for name, value in (("models", models), ("backends", backends)):
        if isinstance(value, str):
            msg = f"{name} must be a sequence, got the single str {value!r}"
            raise TypeError(msg)
    named = dict(models) if isinstance(models, Mapping) else {_short(one): one for one in models}
    if len(named) < len(models):
        msg = f"the models {list(models)} don't have names of their own: give a mapping by name"
        raise ValueError(msg)
    if not named or not backends:
        msg = f"expected a model and a backend, got {list(models)} and {list(backends)}"
        raise ValueError(msg)
    listed: list[tuple[str, Backend | None, Reranker]] = []
    for name, model in named.items():
        if isinstance(model, str):
            for one in dict.fromkeys(backends):
                listed.append((name, one, Reranker(model=build_cross_encoder(model, one))))
        elif isinstance(model, BaseCrossEncoder | Reranker):
            given = model if isinstance(model, Reranker) else Reranker(model=model)
            listed.append((name, None, given))
        else:
            kind = type(model).__name__
            msg = f"model '{name}' must be a name, a BaseCrossEncoder or a Reranker, got {kind}"
            raise TypeError(msg)
    return listed


def _short(model: str) -> str:
    """Name a folder by its last part, a hub's model as the hub does."""
    if not isinstance(model, str):
        kind = type(model).__name__
        msg = f"models must be names; to give a {kind}, map a name of your own to it"
        raise TypeError(msg)
    return Path(model).name if Path(model).is_dir() else model


def _checked_weights(weights: Sequence[float]) -> list[float]:
    """Sort the weights, with 0 among them."""
    for weight in weights:
        if not 0 <= weight <= 1:
            msg = f"first_stage_weights must be from 0 to 1, got {weight!r}"
            raise ValueError(msg)
    return sorted({0.0, *map(float, weights)})


def _fetch(source: Source, method: _Method, *, show_progress: bool) -> dict[str, _Fetched]:
    """Fetch every query's candidates, after one query unmeasured: stores load at their first."""
    from tqdm.auto import tqdm

    fetch = _fetcher(source, method)
    fetched: dict[str, _Fetched] = {}
    bar = tqdm(method.dataset.qrels, desc=_FIRST_STAGE, unit="query", disable=not show_progress)
    for query_id in bar:
        try:
            if not fetched:
                fetch(query_id)
            fetched[query_id] = fetch(query_id)
        except Exception as error:
            raise failure(_FIRST_STAGE, method.dataset, query_id, error) from error
    return fetched


def _fetcher(source: Source, method: _Method) -> Callable[[str], _Fetched]:
    dataset, depth = method.dataset, method.depths[-1]
    if isinstance(source, Mapping):
        if dataset.corpus is None:
            msg = "a run as source needs a data set with a corpus, this one has none"
            raise ValueError(msg)

        def look_up(query_id: str) -> _Fetched:
            documents, own = best_of_run(source, dataset, query_id, depth)
            return _Fetched(documents, 0.0, own)

        return look_up
    if not isinstance(source, VectorStore | BaseRetriever):
        msg = f"source must be a VectorStore, a retriever or a run, got {type(source).__name__}"
        raise TypeError(msg)
    first_stage = with_fetch_k(as_first_stage(source, None, hybrid=False), depth, {})

    def fetch(query_id: str) -> _Fetched:
        start = time.perf_counter()
        documents = first_stage.invoke(dataset.queries[query_id])[:depth]
        seconds = time.perf_counter() - start
        for position, document in enumerate(documents):
            check_document(document, position)
        kept = [one for one in documents if not _is_own(one, method, query_id)]
        return _Fetched(kept, seconds, len(kept) < len(documents))

    return fetch


def _is_own(document: Document, method: _Method, query_id: str) -> bool:
    key = document.id if method.id_key is None else document.metadata.get(method.id_key)
    return key == query_id and is_query_itself(method.dataset, query_id, document.page_content)


def _first(fetched: _Fetched, method: _Method) -> Answer:
    """Return what the first stage alone would answer."""
    found, texts = as_ranking(fetched.documents[: method.k], method.id_key)
    ids = tuple(one.id for one in found)
    return Answer(found, ids, {"retrieval": fetched.seconds}, texts, fetched.own_left_out)


def _score(  # noqa: PLR0913  # what to score, by what, and how
    name: str,
    backend: Backend | None,
    reranker: Reranker,
    fetched: Mapping[str, _Fetched],
    method: _Method,
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
        for query_id, one in bar:
            query = method.dataset.queries[query_id]
            try:
                if one.documents and not any(given.scores for given in scored.values()):
                    _scored(one.documents[:1], query, reranker, [1])
                scored[query_id] = _scored(one.documents, query, reranker, method.depths)
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
    return _Scored(found, scores, seconds)


def _trials(  # noqa: PLR0913  # as `_score`
    name: str,
    backend: Backend | None,
    reranker: Reranker,
    fetched: Mapping[str, _Fetched],
    scored: Mapping[str, _Scored],
    method: _Method,
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
                size = sum(candidate.rank <= depth for candidate in one.found)
                documents = ranked(
                    one.found[:size],
                    one.scores[:size],
                    top_n=method.k,
                    score_threshold=reranker.score_threshold,
                    first_stage_weight=weight,
                )
                rankings[query] = [given.id for given in as_ranking(documents, method.id_key)[0]]
            yield method.trial(Setting(name, backend, depth, weight), rankings, seconds)


def _weight_choices(
    trials: Sequence[Trial], choosing: Collection[str], method: _Method
) -> Iterator[WeightChoice]:
    """Choose a weight for each model and depth on some queries, and judge it on the others."""
    judging = [query for query in method.dataset.qrels if query not in choosing]
    for start in range(0, len(trials), len(method.weights)):
        tried = trials[start : start + len(method.weights)]
        plain = tried[0]
        gains = [float(np.mean(_gains(one, plain, choosing))) for one in tried]
        # Of equal gains the first one has the smallest weight.
        best = tried[gains.index(max(gains))]
        judged = _gains(best, plain, judging)
        yield WeightChoice(
            setting=plain.setting,
            best_weight=best.setting.first_stage_weight,
            choosing_gain=max(gains),
            judging_gain=float(np.mean(judged)),
            judging_interval=None if best is plain else method.interval(judged),
        )


def _gains(trial: Trial, plain: Trial, queries: Collection[str]) -> list[float]:
    """Return the differences to plain reranking, query by query."""
    return [trial.per_query[query] - plain.per_query[query] for query in queries]
