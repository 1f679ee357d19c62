"""What the systems are asked to score: queries with candidates."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_rerank.corpus import python_reference

if TYPE_CHECKING:
    from pathlib import Path

    from langchain_rerank.evaluation.datasets import Dataset
    from langchain_rerank.evaluation.runs import Run

_QUESTIONS = (
    "What happens if no except clause matches?",
    "How does the with statement call __enter__ and __exit__?",
    "What is the difference between a list and a tuple?",
    "When is a default argument evaluated?",
    "How are nested list comprehensions evaluated?",
    "What does yield from do?",
    "How is attribute access customised?",
    "What is a metaclass?",
    "How does the import statement find a module?",
    "Which operators bind more tightly than comparisons?",
)
_SEED = 0


@dataclass(frozen=True, slots=True)
class BenchQuery:
    """A query and the passages to rerank for it."""

    query: str
    passages: tuple[str, ...]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The (query, passage) pairs to score."""
        return [(self.query, passage) for passage in self.passages]


def python_queries(queries: int, candidates: int) -> list[BenchQuery]:
    """Take questions on the Python language reference, each with chunks of it at random."""
    chunks = [chunk.page_content for chunk in python_reference()]
    return [
        BenchQuery(query, _sample(chunks, candidates, seed)) for seed, query in _spread(queries)
    ]


def _spread(queries: int) -> list[tuple[int, str]]:
    return [(number, _QUESTIONS[number % len(_QUESTIONS)]) for number in range(queries)]


def dataset_queries(
    dataset: Dataset, run: Run | None, queries: int, candidates: int
) -> list[BenchQuery]:
    """Take queries of a data set, evenly spread, with the best candidates of a run.

    Args:
        dataset: With its corpus.
        run: A first stage's results; None takes passages of the corpus at random.
        queries: How many, at most.
        candidates: Of each query, at most.

    Raises:
        ValueError: The run has no document of the corpus for a query.
    """
    corpus = dataset.corpus or {}
    asked = [query_id for query_id in dataset.qrels if run is None or query_id in run]
    if not asked:
        msg = f"the run answers none of the {len(dataset.qrels)} judged queries"
        raise ValueError(msg)
    queries = min(queries, len(asked))
    chosen: list[BenchQuery] = []
    for query_id in (asked[number * len(asked) // queries] for number in range(queries)):
        if run is None:
            texts = tuple(document.page_content for document in corpus.values())
            passages = _sample(texts, candidates, len(chosen))
        else:
            known = [doc_id for doc_id in run[query_id] if doc_id in corpus]
            passages = tuple(corpus[doc_id].page_content for doc_id in known[:candidates])
        if not passages:
            msg = f"the run names no document of the corpus for query {query_id!r}"
            raise ValueError(msg)
        chosen.append(BenchQuery(dataset.queries[query_id], passages))
    return chosen


def _sample(texts: list[str] | tuple[str, ...], size: int, seed: int) -> tuple[str, ...]:
    generator = random.Random(_SEED + seed)  # noqa: S311  # the choice of passages is no secret
    return tuple(generator.sample(texts, min(size, len(texts))))


def with_candidates(queries: list[BenchQuery], count: int) -> BenchQuery:
    """Give the first query as many candidates as asked, taken from all and repeated if need be."""
    every = [passage for query in queries for passage in query.passages]
    repeated = every * (count // len(every) + 1)
    return BenchQuery(queries[0].query, tuple(repeated[:count]))


def with_words(queries: list[BenchQuery], words: int) -> BenchQuery:
    """Give the first query its passages cut and filled to a number of words."""
    first = queries[0]
    every = " ".join(first.passages).split()
    stream = every * (words * (len(first.passages) + 1) // len(every) + 1)
    starts = range(0, words * len(first.passages), words)
    return BenchQuery(first.query, tuple(" ".join(stream[at : at + words]) for at in starts))


def run_file(folder: Path) -> Path | None:
    """Find the run of a first stage in a BEIR folder: BM25's, else the first by name."""
    found = sorted((folder / "runs").glob("*.trec"), key=lambda path: (path.stem != "bm25", path))
    return found[0] if found else None
