"""Evaluating systems side by side on one data set."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import numpy as np

from langchain_rerank.evaluation.measures import depth, parse_measures, per_query_values
from langchain_rerank.evaluation.records import Settings, Summary, SystemResult
from langchain_rerank.evaluation.report import Report
from langchain_rerank.evaluation.statistics import bootstrap_interval, check_settings, paired_test
from langchain_rerank.evaluation.systems import Answer, Asker, System

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import ir_measures

    from langchain_rerank.evaluation.datasets import Dataset

DEFAULT_MEASURES = ("nDCG@10", "RR@10", "P@5", "R@100")
_PACKAGES = ("langchain-rerank", "langchain-core", "ir-measures", "scipy", "numpy")

logger = logging.getLogger(__name__)


def evaluate(  # noqa: PLR0913  # all but the first two have defaults
    systems: Mapping[str, System],
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

    Queries are asked one after another, so that latencies are those of a single user; each
    system first answers one of them unmeasured, as models load at their first call. A system is
    measured by what it returns: for R@100 a retriever must be set to return 100 documents.

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
        resamples: Of the bootstrap, and random sign flips of the paired test.
        seed: Of both.
        show_progress: Show a progress bar.

    Returns:
        The report. A query without results counts 0.

    Raises:
        EvaluationError: A system failed on a query; nothing is kept.
        ValueError: A measure or setting is wrong, there is no system, or a system's documents
            are not those of the data set's corpus.
        TypeError: A system is of another type.
        MissingDependencyError: The extra `eval` is not installed.

    Example:
        >>> from langchain_core.documents import Document
        >>> from langchain_core.vectorstores import InMemoryVectorStore
        >>> from langchain_rerank import create_rerank_retriever
        >>> from langchain_rerank.evaluation import Dataset, evaluate
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
        >>> reranked = create_rerank_retriever(store, reranker=offline_reranker())
        >>> systems = {"dense": store.as_retriever(), "reranked": reranked}
        >>> report = evaluate(systems, dataset, ["nDCG@2"], show_progress=False)
        >>> report.systems["reranked"].summaries["nDCG@2"].mean
        1.0
    """
    parsed = parse_measures(measures, min_relevance=min_relevance)
    check_settings(confidence, resamples)
    if not systems:
        msg = "expected at least one system, got none"
        raise ValueError(msg)
    askers = [Asker(name, system, dataset, id_key) for name, system in systems.items()]
    queries = [query for query, judged in dataset.qrels.items() if judged]
    qrels = {query: dict(dataset.qrels[query]) for query in queries}
    settings = Settings(
        measures=tuple(map(str, parsed)),
        min_relevance=min_relevance,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
        versions=_versions(),
    )
    answers = _ask_all(askers, queries, show_progress=show_progress)
    for name, given in answers.items():
        _check_ids(name, given, dataset)
    results: dict[str, SystemResult] = {}
    for name, given in answers.items():
        baseline = next(iter(results.values()), None)
        results[name] = _result(given, baseline, qrels, _Method(parsed, settings))
    notes = _notes(answers, qrels, min_relevance)
    notes += _depth_notes(answers, parsed, dataset)
    for note in notes:
        logger.warning("%s", note)
    return Report(
        dataset=dataset.name,
        queries={query: dataset.queries[query] for query in queries},
        qrels=qrels,
        systems=results,
        settings=settings,
        texts={
            one: text
            for given in answers.values()
            for answer in given.values()
            for one, text in answer.texts.items()
        },
        notes=tuple(notes),
    )


@dataclass(frozen=True, slots=True)
class _Method:
    """What to measure, and how."""

    measures: Sequence[ir_measures.Measure]
    settings: Settings


def _versions() -> dict[str, str]:
    """Return the versions that the numbers depend on; a package run from a checkout has none."""
    versions = {}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def _ask_all(
    askers: Sequence[Asker], queries: Sequence[str], *, show_progress: bool
) -> dict[str, dict[str, Answer]]:
    """Put every query to every system: answers by system and query."""
    from tqdm.auto import tqdm

    answers: dict[str, dict[str, Answer]] = {}
    with tqdm(total=len(askers) * len(queries), unit="query", disable=not show_progress) as bar:
        for asker in askers:
            bar.set_description(asker.name)
            asker.warm_up(queries[0])
            answers[asker.name] = {}
            for query in queries:
                answers[asker.name][query] = asker.ask(query)
                bar.update()
    return answers


def _result(
    answers: Mapping[str, Answer],
    baseline: SystemResult | None,
    qrels: Mapping[str, Mapping[str, int]],
    method: _Method,
) -> SystemResult:
    """Measure one system's answers, and compare them to the first system's."""
    settings = method.settings
    rankings = {query: answer.ranking for query, answer in answers.items()}
    ids = {query: [document.id for document in found] for query, found in rankings.items()}
    values = per_query_values(method.measures, ids, qrels)
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


def _summary(values: list[float], baseline: list[float] | None, settings: Settings) -> Summary:
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


def _check_ids(name: str, answers: Mapping[str, Answer], dataset: Dataset) -> None:
    """Raise `ValueError` if a system's documents are none of the corpus: the ids don't match."""
    returned = {document.id for answer in answers.values() for document in answer.ranking}
    if dataset.corpus is not None and returned and returned.isdisjoint(dataset.corpus):
        msg = (
            f"system '{name}' returned no document of the data set's corpus: expected ids such "
            f"as '{next(iter(dataset.corpus))}', got such as '{min(returned)}'. Give documents "
            "the ids of the data set, or name the metadata field that holds them as id_key"
        )
        raise ValueError(msg)


def _notes(
    answers: Mapping[str, Mapping[str, Answer]],
    qrels: Mapping[str, Mapping[str, int]],
    min_relevance: int,
) -> list[str]:
    """Say what could mislead a reader of the numbers."""
    notes = []
    barren = sum(max(grades.values()) < min_relevance for grades in qrels.values())
    if barren:
        notes.append(
            f"{barren} of {len(qrels)} queries have no document of grade {min_relevance} or above "
            "and count 0 in binary measures."
        )
    for name, given in answers.items():
        if not any(one.id in qrels[q] for q, answer in given.items() for one in answer.ranking):
            notes.append(
                f"No document that {name} returned is judged: do the ids match the qrels'?"
            )
    return notes


def _depth_notes(
    answers: Mapping[str, Mapping[str, Answer]],
    measures: Sequence[ir_measures.Measure],
    dataset: Dataset,
) -> list[str]:
    """Name the systems that return too little for a measure: they are judged by what they lack."""
    notes = []
    for name, given in answers.items():
        longest = max(len(answer.ranking) for answer in given.values())
        wanted = [(measure, depth(measure) or 0) for measure in measures]
        short = [str(measure) for measure, ranks in wanted if ranks > longest]
        if short and (dataset.corpus is None or longest < len(dataset.corpus)):
            notes.append(
                f"{name} returned at most {longest} documents a query; {', '.join(short)} "
                "would look at more."
            )
    return notes
