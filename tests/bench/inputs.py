"""What the systems are asked to score, and how well ours rank it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from langchain_rerank.evaluation import Dataset
    from tests.bench.systems import Pairs

    Run = Mapping[str, Mapping[str, float]]

_QUESTIONS = (
    "What happens if no except clause matches?",
    "How does the with statement call __enter__ and __exit__?",
    "What is the difference between a list and a tuple?",
    "When is a default argument evaluated?",
)


def queries_of(
    data: Path | None, qrels: str, queries: int, candidates: int
) -> tuple[list[Pairs], str]:
    """Take queries of a BEIR folder or of the Python reference, and say which.

    A folder's candidates are those of runs/bm25.trec, else of the first run by name.
    """
    if data is None:
        return python_queries(queries, candidates), "the Python language reference"
    from langchain_rerank.evaluation import load_beir, read_run

    dataset = load_beir(data, qrels, partial_corpus=True)
    runs = sorted((data / "runs").glob("*.trec"), key=lambda path: (path.stem != "bm25", path))
    if not runs:
        msg = f"expected the run of a first stage in {data}/runs, got no *.trec there"
        raise ValueError(msg)
    pairs = dataset_queries(dataset, read_run(runs[0]), queries, candidates)
    return pairs, f"{data.resolve().name}, candidates of {runs[0].name}"


def python_queries(queries: int, candidates: int) -> list[Pairs]:
    """Take questions on the Python language reference, each with chunks of it at random."""
    from langchain_rerank.corpus import python_reference

    texts = [chunk.page_content for chunk in python_reference()]
    return [
        [(_QUESTIONS[seed % len(_QUESTIONS)], text) for text in generator.sample(texts, candidates)]
        for seed in range(queries)
        for generator in [random.Random(seed)]  # noqa: S311  # the choice of passages is no secret
    ]


def dataset_queries(dataset: Dataset, run: Run, queries: int, candidates: int) -> list[Pairs]:
    """Take judged queries evenly spread, with the best candidates of a run."""
    corpus = {key: document.page_content for key, document in (dataset.corpus or {}).items()}
    asked = [query_id for query_id in dataset.qrels if query_id in run]
    chosen = []
    for query_id in asked[:: max(1, len(asked) // queries)][:queries]:
        # Candidates outside the corpus, which may be a part, cost no places.
        passages = [corpus[one] for one in run[query_id] if one in corpus][:candidates]
        if not passages:
            msg = f"the run names no document of the corpus for query {query_id!r}"
            raise ValueError(msg)
        chosen.append([(dataset.queries[query_id], passage) for passage in passages])
    if not chosen:
        msg = f"the run answers none of the {len(dataset.qrels)} judged queries"
        raise ValueError(msg)
    return chosen
