"""Evaluating systems side by side on one data set."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from langchain_rerank.evaluation.measures import (
    Draws,
    Estimate,
    check_draws,
    depth,
    estimate,
    paired_test,
    parse_measures,
    per_query_values,
)
from langchain_rerank.evaluation.report import STAGES, Report
from langchain_rerank.evaluation.systems import Answer, AnySystem, ask, check_system, progress
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    from collections.abc import Sequence

    import ir_measures
    import pandas as pd

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
        ValueError: A measure or setting is wrong, there is no judgment, or a system's documents
            are not those of the data set's corpus.
        TypeError: `systems` is no mapping or empty, or a system is of another type.
        MissingDependencyError: The extra `eval` is not installed.
    """
    parsed = parse_measures(measures, min_relevance=min_relevance)
    draws = check_draws(confidence, resamples, seed)
    if not isinstance(systems, Mapping) or not systems:
        msg = f"systems must map one name or more to systems, got {systems!r:.100}"
        raise TypeError(msg)
    for name, system in systems.items():
        check_system(name, system, dataset)
    judged = dataset.judged()
    answers = {}
    for name, system in systems.items():
        if not isinstance(system, Mapping):
            # Models load at their first call.
            ask(name, system, judged, next(iter(judged.qrels)), id_key)
        queries = progress(name, judged, show=show_progress)
        answers[name] = {query: ask(name, system, judged, query, id_key) for query in queries}
    notes = checked_notes(answers, judged, parsed, min_relevance)
    values = {
        name: _values(given, judged, parsed, min_relevance) for name, given in answers.items()
    }
    names, first = list(map(str, parsed)), next(iter(values.values()))
    rows = [_summary(one, None if one is first else first, names, draws) for one in values.values()]
    # Of an id_key, an id may stand for several passages.
    texts = {
        one.id: well_formed(one.page_content)
        for given in ({} if id_key else answers).values()
        for answer in given.values()
        for one in answer.documents
        if one.id and one.page_content
    }
    import pandas as pd

    return Report(
        dataset=dataset.name,
        queries={query: well_formed(text) for query, text in judged.queries.items()},
        measures=tuple(names),
        min_relevance=min_relevance,
        draws=draws,
        summary=pd.DataFrame(rows, index=pd.Index(list(values), name="system")),
        per_query=pd.concat(values, names=["system"]).astype(float),
        documents=_documents(answers, judged),
        texts=texts,
        notes=tuple(notes),
    )


def _values(
    answers: Mapping[str, Answer],
    dataset: Dataset,
    measures: Sequence[ir_measures.Measure],
    min_relevance: int,
) -> pd.DataFrame:
    """Measure one system's answers: a row a query."""
    candidates = {query: answer.candidates for query, answer in answers.items()}
    ids = {query: list(answer.ranking) for query, answer in answers.items()}
    values = per_query_values(measures, ids, dataset.qrels)
    recall = parse_measures(["SetR"], min_relevance=min_relevance)
    values["candidates"] = list(map(len, candidates.values()))
    values["candidate recall"] = per_query_values(recall, candidates, dataset.qrels)
    timed = {stage for answer in answers.values() for stage in answer.seconds}
    for stage in filter(timed.__contains__, STAGES):
        # Where the first stage found nothing there was nothing to rerank.
        values[stage] = [answer.seconds.get(stage, 0.0) for answer in answers.values()]
    return values


def _summary(
    values: pd.DataFrame, baseline: pd.DataFrame | None, measures: Sequence[str], draws: Draws
) -> dict[str, float]:
    """Average one system's values, and compare them to the first system's."""
    row: dict[str, float] = {}
    flips = {"resamples": draws["resamples"], "seed": draws["seed"]}
    for measure in measures:
        found, difference, p = estimate(values[measure], **draws), Estimate(*[np.nan] * 3), np.nan
        if baseline is not None:
            differences = (values[measure] - baseline[measure]).to_numpy()
            difference = estimate(differences, **draws)
            p = paired_test(differences, **flips)
        for name, one in ((measure, found), (f"{measure} difference", difference)):
            row |= {name: one.mean, f"{name} low": one.low, f"{name} high": one.high}
        row[f"{measure} p"] = p
    row["candidate recall"] = values["candidate recall"].mean()
    for stage in filter(values.__contains__, STAGES):
        for percent in (50, 95):
            row[f"{stage} p{percent} ms"] = float(np.percentile(values[stage], percent)) * 1000
    return row


def _documents(answers: Mapping[str, Mapping[str, Answer]], data: Dataset) -> pd.DataFrame:
    import pandas as pd

    rows = [
        (name, query, rank, key, *scored, data.qrels[query].get(key))
        for name, given in answers.items()
        for query, answer in given.items()
        for rank, (key, scored) in enumerate(answer.ranking.items(), start=1)
    ]
    columns = ["system", "query", "rank", "id", "score", "retrieval_rank", "grade"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[4:], float))


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
            f"{len(own)} of {len(grades)} queries are documents of the corpus themselves: as by "
            "BEIR's rule, a query's own document is left out of its results."
        )
    for name, given in answers.items():
        returned = {one for answer in given.values() for one in answer.ranking}
        if corpus is not None and returned and returned.isdisjoint(corpus):
            msg = (
                f"system '{name}' returned no document of the data set's corpus: expected ids "
                f"such as '{next(iter(corpus))}', got such as '{min(returned)}'. Give documents "
                "the ids of the data set, or name the metadata field that holds them as id_key"
            )
            raise ValueError(msg)
        longest = max(len(answer.ranking) for answer in given.values())
        deeper = [str(measure) for measure in measures if longest < depth(measure) < math.inf]
        if deeper and (corpus is None or longest < len(corpus)):
            notes.append(
                f"{name} returned at most {longest} documents a query, {', '.join(deeper)} would "
                "look at more."
            )
        if not any(one in dataset.qrels[q] for q, a in given.items() for one in a.ranking):
            notes.append(
                f"{name} returned no judged document: do its ids match those of the qrels?"
            )
    for note in notes:
        logger.warning("%s", note)
    return notes
