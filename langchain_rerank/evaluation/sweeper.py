"""Trying settings of the second stage on one data set."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from langchain_core.cross_encoders import BaseCrossEncoder

from langchain_rerank.compressor import Reranker
from langchain_rerank.cross_encoders.base import DEFAULT_MODEL
from langchain_rerank.cross_encoders.onnx import OnnxCrossEncoder
from langchain_rerank.cross_encoders.torch import TorchCrossEncoder
from langchain_rerank.evaluation.measures import parse_measures
from langchain_rerank.evaluation.notes import check_ids, find_notes
from langchain_rerank.evaluation.statistics import check_confidence, check_draws
from langchain_rerank.evaluation.sweep_candidates import (
    FIRST_STAGE,
    Method,
    fetch_all,
    first_stage_answer,
    score_all,
    trials_of,
)
from langchain_rerank.evaluation.sweep_report import Setting, Sweep, Trial, WeightChoice
from langchain_rerank.retriever import check_depths

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    import ir_measures

    from langchain_rerank.cross_encoders.base import LocalCrossEncoder
    from langchain_rerank.evaluation.datasets import Dataset
    from langchain_rerank.evaluation.sweep_candidates import Source

Backend = Literal["torch", "onnx"]
logger = logging.getLogger(__name__)
DEFAULT_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5)


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
    them once. From these scores the ranking of every depth and weight is made as `Reranker` makes
    it. A depth's candidates are the first ones of the deepest list: where a retriever chooses by
    how many it is asked for, as hybrid search and MMR do, compare depths by `evaluate`.

    Scoring goes in steps from depth to depth, so latencies are measured, a little above those of
    one call for all. Retrieval is timed at the largest depth, and counts the same for each.

    The best of several weights looks better than it is: for each model and depth it is chosen on
    one half of the queries and judged on the other. Unless the interval of its gain there is above
    0, weight 0 is recommended.

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
        min_relevance: As `evaluate`'s, and so are the others.
        id_key: Names the document that was judged.
        confidence: Of the bootstrap intervals.
        resamples: Of the bootstrap.
        seed: Of the bootstrap, and of the halves.
        show_progress: Show a progress bar for the first stage and for each model.

    Returns:
        All trials; `recommend()` picks one.

    Raises:
        EvaluationError: The first stage or a model failed on a query; nothing is kept.
        ValueError: A setting is wrong, there is no judgment, or the documents are not those of
            the data set.
        TypeError: `source` or a model is of another type.
        MissingDependencyError: The extra `eval`, or a backend, is not installed.
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
    method = Method(judged, parsed, depths, weights, k, id_key, isinstance(source, Mapping), draws)

    fetched = fetch_all(source, method, show_progress=show_progress)
    answers = {query: first_stage_answer(one, method) for query, one in fetched.items()}
    check_ids({FIRST_STAGE: answers}, judged)
    notes = find_notes({FIRST_STAGE: answers}, judged, [parsed], min_relevance)
    if isinstance(source, Mapping):
        notes.append("The first stage is a run made elsewhere: latencies leave out its own.")
    for note in notes:
        logger.warning("%s", note)
    trials: list[Trial] = []
    for name, backend, reranker in rerankers:
        scored = score_all(name, backend, reranker, fetched, method, show_progress=show_progress)
        trials += trials_of(name, backend, reranker, fetched, scored, method)
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


def build_cross_encoder(model: str, backend: str) -> LocalCrossEncoder:
    """Build the cross encoder that runs a model: "torch", or "onnx" in int8."""
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
            listed += [
                (name, one, Reranker(model=build_cross_encoder(model, one)))
                for one in dict.fromkeys(backends)
            ]
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


def _weight_choices(
    trials: Sequence[Trial], choosing: Collection[str], method: Method
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
