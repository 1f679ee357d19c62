"""Evaluating systems side by side on one data set."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import numpy as np

from langchain_rerank.evaluation.measures import parse_measures, per_query_values
from langchain_rerank.evaluation.notes import check_ids, find_notes
from langchain_rerank.evaluation.report import Report
from langchain_rerank.evaluation.results import EvaluationSettings, Summary, SystemResult
from langchain_rerank.evaluation.statistics import (
    bootstrap_interval,
    check_confidence,
    check_draws,
    paired_test,
)
from langchain_rerank.evaluation.systems import Answer, AnySystem, ask, check_system

if TYPE_CHECKING:
    from collections.abc import Sequence

    import ir_measures

    from langchain_rerank.evaluation.datasets import Dataset

DEFAULT_MEASURES = ("nDCG@10", "RR@10", "P@5", "R@100")
_PACKAGES = ("langchain-rerank", "langchain-core", "ir-measures", "scipy", "numpy")

logger = logging.getLogger(__name__)


def evaluate(  # noqa: PLR0913  # all but the first two have defaults
    systems: Mapping[str, AnySystem],
    dataset: Dataset,
    measures: Sequence[str | ir_measures.Measure] = DEFAULT_MEASURES,
    *,
    min_relevance: int = 1,
    id_key: str | None = None,
    confidence: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
    show_progress: bool = True,
) -> Report:
    """Measure systems on the judged queries of a data set, and compare them to the first one.

    Queries are asked one after another, as by a single user, after one unmeasured, at which models
    load. A system is measured by what it returns: for R@100 a retriever must return 100 documents.
    Where a query is itself a document of the corpus, as in ArguAna, that one is left out, with a
    note.

    Args:
        systems: By name: retrievers (any `Runnable` from a str to documents), runs (of
            `read_run`), or `RerankedRun`s. The first is the baseline.
        dataset: The queries and judgments, and the corpus of reranked runs.
        measures: Names as ir_measures has them, or its objects.
        min_relevance: Grade from which a document counts as relevant in binary measures (RR, P,
            R, …); TREC's passage tracks ask for 2. A `rel=` in a measure's name wins.
        id_key: Metadata field with the id by which the judgments name a document; None takes
            `Document.id`. The first chunk of a document stands for it.
        confidence: Of the bootstrap intervals.
        resamples: Of the bootstrap, and random sign flips of the paired test; at least 2.
        seed: Of both, at least 0.
        show_progress: Show a progress bar for each system.

    Returns:
        The report. A query without results counts 0.

    Raises:
        EvaluationError: A system failed on a query; nothing is kept.
        ValueError: A measure or setting is wrong, there is no system or no judgment, or a
            system's documents are not those of the data set's corpus.
        TypeError: `systems` is no mapping, or a system is of another type.
        MissingDependencyError: The extra `eval` is not installed.

    """
    parsed = parse_measures(measures, min_relevance=min_relevance)
    check_confidence(confidence)
    check_draws(resamples, seed)
    if not isinstance(systems, Mapping):
        msg = f"systems must map names to systems, got {type(systems).__name__}"
        raise TypeError(msg)
    if not systems:
        msg = "expected at least one system, got none"
        raise ValueError(msg)
    for name, system in systems.items():
        check_system(name, system, dataset)
    judged = dataset.judged()
    qrels = {query: dict(grades) for query, grades in judged.qrels.items()}
    settings = EvaluationSettings(
        measures=tuple(map(str, parsed)),
        min_relevance=min_relevance,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
        versions=_versions(),
    )
    answers = {
        name: _ask_all(name, system, judged, id_key, show_progress=show_progress)
        for name, system in systems.items()
    }
    check_ids(answers, dataset)
    results: dict[str, SystemResult] = {}
    for name, given in answers.items():
        baseline = next(iter(results.values()), None)
        results[name] = _result(given, baseline, qrels, parsed, settings)
    notes = find_notes(answers, dataset, parsed, min_relevance)
    for note in notes:
        logger.warning("%s", note)
    return Report(
        dataset=dataset.name,
        queries=judged.queries,
        qrels=qrels,
        systems=results,
        settings=settings,
        texts=_texts(answers),
        notes=tuple(notes),
    )


def _texts(answers: Mapping[str, Mapping[str, Answer]]) -> dict[str, str]:
    """Return the texts by document id, without those of ids that several passages share."""
    texts: dict[str, str] = {}
    shared = set()
    for given in answers.values():
        for answer in given.values():
            for one, text in answer.texts.items():
                if texts.setdefault(one, text) != text:
                    shared.add(one)
    return {one: text for one, text in texts.items() if one not in shared}


def _versions() -> dict[str, str]:
    """Return the versions that the numbers depend on; a package run from a checkout has none."""
    versions = {}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def _ask_all(
    name: str, system: AnySystem, dataset: Dataset, id_key: str | None, *, show_progress: bool
) -> dict[str, Answer]:
    """Put every query to a system, the first one twice: models load at their first call."""
    from tqdm.auto import tqdm

    queries = list(dataset.qrels)
    if not isinstance(system, Mapping):
        ask(name, system, dataset, queries[0], id_key)
    bar = tqdm(queries, desc=name, unit="query", disable=not show_progress)
    return {query: ask(name, system, dataset, query, id_key) for query in bar}


def _result(
    answers: Mapping[str, Answer],
    baseline: SystemResult | None,
    qrels: Mapping[str, Mapping[str, int]],
    measures: Sequence[ir_measures.Measure],
    settings: EvaluationSettings,
) -> SystemResult:
    """Measure one system's answers, and compare them to the first system's."""
    rankings = {query: answer.ranking for query, answer in answers.items()}
    ids = {query: [document.id for document in found] for query, found in rankings.items()}
    values = per_query_values(measures, ids, qrels)
    candidates = {query: answer.candidates for query, answer in answers.items()}
    [recall] = parse_measures(["SetR"], min_relevance=settings.min_relevance)
    [found] = per_query_values([recall], candidates, qrels).values()
    stages = dict.fromkeys(stage for answer in answers.values() for stage in answer.seconds)
    return SystemResult(
        rankings=rankings,
        candidates=candidates,
        seconds={
            # Where the first stage found nothing there was nothing to rerank.
            stage: tuple(answer.seconds.get(stage, 0.0) for answer in answers.values())
            for stage in stages
        },
        per_query=values,
        summaries={
            measure: _summary(
                list(given.values()),
                None if baseline is None else list(baseline.per_query[measure].values()),
                settings,
            )
            for measure, given in values.items()
        },
        candidate_recall=float(np.mean(list(found.values()))),
    )


def _summary(
    values: list[float], baseline: list[float] | None, settings: EvaluationSettings
) -> Summary:
    draws = {"resamples": settings.resamples, "seed": settings.seed}
    mean = float(np.mean(values))
    interval = bootstrap_interval(values, confidence=settings.confidence, **draws)
    if baseline is None:
        return Summary(mean, interval)
    differences = [value - before for value, before in zip(values, baseline, strict=True)]
    return Summary(
        mean=mean,
        interval=interval,
        difference=float(np.mean(differences)),
        difference_interval=bootstrap_interval(
            differences, confidence=settings.confidence, **draws
        ),
        p_value=paired_test(values, baseline, **draws),
    )
