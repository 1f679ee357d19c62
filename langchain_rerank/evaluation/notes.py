"""What could mislead a reader of an evaluation's numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_rerank.evaluation.measures import depth

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import ir_measures

    from langchain_rerank.evaluation.datasets import Dataset
    from langchain_rerank.evaluation.systems import Answer


def check_ids(answers: Mapping[str, Mapping[str, Answer]], dataset: Dataset) -> None:
    """Check that systems return the data set's documents."""
    for name, given in answers.items():
        returned = {document.id for answer in given.values() for document in answer.ranking}
        if dataset.corpus is not None and returned and returned.isdisjoint(dataset.corpus):
            msg = (
                f"system '{name}' returned no document of the data set's corpus: expected ids "
                f"such as '{next(iter(dataset.corpus))}', got such as '{min(returned)}'. Give "
                "documents the ids of the data set, or name the metadata field that holds them "
                "as id_key"
            )
            raise ValueError(msg)


def find_notes(
    answers: Mapping[str, Mapping[str, Answer]],
    dataset: Dataset,
    measures: Sequence[ir_measures.Measure],
    min_relevance: int,
) -> list[str]:
    """Say what could mislead."""
    notes = []
    grades = [dataset.qrels[query].values() for query in next(iter(answers.values()))]
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
        notes += _depth_notes(name, given, dataset, measures)
        if not any(one.id in dataset.qrels[q] for q, a in given.items() for one in a.ranking):
            notes.append(
                f"{name} returned no judged document: do its ids match those of the qrels?"
            )
    return notes


def _depth_notes(
    name: str,
    answers: Mapping[str, Answer],
    dataset: Dataset,
    measures: Sequence[ir_measures.Measure],
) -> Iterator[str]:
    """Say which measures look deeper than the system's lists go, if it could return more."""
    longest = max(len(answer.ranking) for answer in answers.values())
    deeper = [str(measure) for measure in measures if (depth(measure) or 0) > longest]
    if deeper and (dataset.corpus is None or longest < len(dataset.corpus)):
        yield (
            f"{name} returned at most {longest} documents a query, {', '.join(deeper)} would look "
            "at more."
        )
