"""What the systems are asked to score, and how well ours rank it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from langchain_rerank.evaluation import Dataset
    from tests.bench.systems import Pairs, Weights

    Run = Mapping[str, Mapping[str, float]]

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


def python_queries(queries: int, candidates: int) -> list[Pairs]:
    """Take questions on the Python language reference, each with chunks of it at random."""
    from langchain_rerank.corpus import python_reference

    chunks = [chunk.page_content for chunk in python_reference()]
    return [
        [(_QUESTIONS[seed % len(_QUESTIONS)], text) for text in _sample(chunks, candidates, seed)]
        for seed in range(queries)
    ]


def run_file(folder: Path) -> Path | None:
    """Find the run of a first stage in a BEIR folder: BM25's, else the first by name."""
    found = sorted((folder / "runs").glob("*.trec"), key=lambda path: (path.stem != "bm25", path))
    return found[0] if found else None


def dataset_queries(
    dataset: Dataset, run: Run | None, queries: int, candidates: int
) -> list[Pairs]:
    """Take queries evenly spread, with the best candidates of a run, or passages at random."""
    corpus = {key: document.page_content for key, document in (dataset.corpus or {}).items()}
    asked = [query_id for query_id in dataset.qrels if run is None or query_id in run]
    if not asked:
        msg = f"the run answers none of the {len(dataset.qrels)} judged queries"
        raise ValueError(msg)
    queries = min(queries, len(asked))
    chosen: list[Pairs] = []
    for query_id in (asked[number * len(asked) // queries] for number in range(queries)):
        if run is None:
            passages = _sample(list(corpus.values()), candidates, len(chosen))
        else:
            # Candidates outside the corpus, which may be a part, cost no places.
            passages = [corpus[one] for one in run[query_id] if one in corpus][:candidates]
        if not passages:
            msg = f"the run names no document of the corpus for query {query_id!r}"
            raise ValueError(msg)
        chosen.append([(dataset.queries[query_id], passage) for passage in passages])
    return chosen


def _sample(texts: list[str], size: int, seed: int) -> list[str]:
    generator = random.Random(seed)  # noqa: S311  # the choice of passages is no secret
    return generator.sample(texts, min(size, len(texts)))


def ndcg_at_10(
    dataset: Dataset, run: Run, weights: Weights, keys: set[str], candidates: int
) -> dict[str, float]:
    """Measure the first stage, and those of our "torch" and "onnx" that were timed."""
    from langchain_rerank import OnnxCrossEncoder, Reranker, TorchCrossEncoder
    from langchain_rerank.evaluation import RerankedRun, evaluate

    systems = {"first stage": run}
    for key, model in (
        ("torch", TorchCrossEncoder(model=weights.checkpoint, device=weights.device)),
        ("onnx", OnnxCrossEncoder(model=weights.checkpoint)),
    ):
        if key in keys:
            reranker = Reranker(model=model, top_n=None, deduplicate=False)
            systems[key] = RerankedRun(run, reranker, fetch_k=candidates)
    report = evaluate(systems, dataset, ("nDCG@10",), show_progress=False)
    return {name: found.summaries["nDCG@10"].mean for name, found in report.systems.items()}
