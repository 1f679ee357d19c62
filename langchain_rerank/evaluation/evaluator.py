"""Evaluating systems side by side on one data set."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from langchain_rerank.evaluation.measures import (
    bootstrap_interval,
    check_draws,
    depth,
    paired_test,
    parse_measures,
    per_query_values,
)
from langchain_rerank.evaluation.report import EvaluationSettings, Report, Summary, SystemResult
from langchain_rerank.evaluation.systems import Answer, AnySystem, ask, check_system

if TYPE_CHECKING:
    from collections.abc import Sequence

    import ir_measures

    from langchain_rerank.evaluation.datasets import Dataset

DEFAULT_MEASURES = ("nDCG@10", "RR@10", "P@5", "R@100")

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
        measures: Names as ir_measures has them, or its objects. The first is spoken of on top.
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
    check_draws(confidence, resamples, seed)
    if not isinstance(systems, Mapping):
        msg = f"systems must map names to systems, got {type(systems).__name__}"
        raise TypeError(msg)
    if not systems:
        msg = "expected at least one system, got none"
        raise ValueError(msg)
    for name, system in systems.items():
        check_system(name, system, dataset)
    judged = dataset.judged()
    names = tuple(map(str, parsed))
    settings = EvaluationSettings(names, min_relevance, confidence, resamples, seed)
    answers = {
        name: _ask_all(name, system, judged, id_key, show_progress=show_progress)
        for name, system in systems.items()
    }
    notes = checked_notes(answers, judged, parsed, min_relevance)
    results: dict[str, SystemResult] = {}
    for name, given in answers.items():
        baseline = next(iter(results.values()), None)
        results[name] = _result(given, baseline, judged, parsed, settings)
    qrels = {query: dict(grades) for query, grades in judged.qrels.items()}
    # Of an id_key, an id may stand for several passages.
    texts = {
        key: text
        for given in answers.values()
        for answer in given.values()
        for key, text in answer.texts.items()
        if id_key is None
    }
    return Report(dataset.name, judged.queries, qrels, results, settings, texts, tuple(notes))


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
    dataset: Dataset,
    measures: Sequence[ir_measures.Measure],
    settings: EvaluationSettings,
) -> SystemResult:
    """Measure one system's answers, and compare them to the first system's."""
    rankings = {query: answer.ranking for query, answer in answers.items()}
    ids = {query: [document.id for document in found] for query, found in rankings.items()}
    candidates = {query: answer.candidates for query, answer in answers.items()}
    values = per_query_values(measures, ids, dataset.qrels)
    recall = parse_measures(["SetR"], min_relevance=settings.min_relevance)
    [found] = per_query_values(recall, candidates, dataset.qrels).values()
    stages = dict.fromkeys(stage for answer in answers.values() for stage in answer.seconds)
    # Where the first stage found nothing there was nothing to rerank.
    seconds = {s: tuple(a.seconds.get(s, 0.0) for a in answers.values()) for s in stages}
    before = None if baseline is None else baseline.per_query
    summaries = {
        measure: _summary(
            list(given.values()),
            None if before is None else list(before[measure].values()),
            settings,
        )
        for measure, given in values.items()
    }
    mean_recall = float(np.mean(list(found.values())))
    return SystemResult(rankings, candidates, seconds, values, summaries, mean_recall)


def _summary(
    values: list[float], baseline: list[float] | None, settings: EvaluationSettings
) -> Summary:
    draws = {"resamples": settings.resamples, "seed": settings.seed}
    mean = float(np.mean(values))
    interval = bootstrap_interval(values, confidence=settings.confidence, **draws)
    if baseline is None:
        return Summary(mean, interval)
    differences = np.subtract(values, baseline).tolist()
    return Summary(
        mean=mean,
        interval=interval,
        difference=float(np.mean(differences)),
        difference_interval=bootstrap_interval(
            differences, confidence=settings.confidence, **draws
        ),
        p_value=paired_test(differences, **draws),
    )


def checked_notes(
    answers: Mapping[str, Mapping[str, Answer]],
    dataset: Dataset,
    measures: Sequence[ir_measures.Measure],
    min_relevance: int,
) -> list[str]:
    """Say what could mislead, in the log as well.

    Raises:
        ValueError: A system returned documents, and none of the data set's corpus.
    """
    corpus, grades = dataset.corpus, [given.values() for given in dataset.qrels.values()]
    notes = []
    if barren := sum(max(given) < min_relevance for given in grades):
        notes.append(
            f"{barren} of {len(grades)} queries have no document of grade {min_relevance} or above "
            "and count 0 in binary measures."
        )
    if own := {q for given in answers.values() for q, a in given.items() if a.own_left_out}:
        notes.append(
            f"The documents of {len(own)} of {len(grades)} queries are those queries themselves: "
            "as by BEIR's rule, a query's own document is left out of its results, though it is in "
            "the corpus."
        )
    for name, given in answers.items():
        returned = {one.id for answer in given.values() for one in answer.ranking}
        if corpus is not None and returned and returned.isdisjoint(corpus):
            msg = (
                f"system '{name}' returned no document of the data set's corpus: expected ids "
                f"such as '{next(iter(corpus))}', got such as '{min(returned)}'. Give documents "
                "the ids of the data set, or name the metadata field that holds them as id_key"
            )
            raise ValueError(msg)
        longest = max(len(answer.ranking) for answer in given.values())
        deeper = [str(measure) for measure in measures if (depth(measure) or 0) > longest]
        if deeper and (corpus is None or longest < len(corpus)):
            notes.append(
                f"{name} returned at most {longest} documents a query, {', '.join(deeper)} would "
                "look at more."
            )
        if not any(one.id in dataset.qrels[q] for q, a in given.items() for one in a.ranking):
            notes.append(
                f"{name} returned no judged document: do its ids match those of the qrels?"
            )
    for note in notes:
        logger.warning("%s", note)
    return notes
