"""The report that most figures are drawn of."""

from __future__ import annotations

import dataclasses

import pytest

from langchain_rerank.evaluation import Dataset, evaluate
from tests.evaluation.plots.figures import NEW, OLD, QUERY, TEXTS, by_rank


@pytest.fixture(scope="module")
def report():
    dataset = Dataset(
        {"q": QUERY, "other": "who?"},
        {"q": {"a": 3, "b": 0, "d": 2, "c": 1}, "other": {"a": 2}},
        name="toy $x$",
    )
    systems = {
        "first": {"q": by_rank(OLD), "other": by_rank(["b", "a"])},
        "second": {"q": by_rank(NEW), "other": by_rank(["a", "b"])},
    }
    measures = ["nDCG@3", "RR", "P@1", "P@2", "P@3"]
    found = evaluate(systems, dataset, measures, min_relevance=2, resamples=99, show_progress=False)
    return dataclasses.replace(found, texts=TEXTS)
