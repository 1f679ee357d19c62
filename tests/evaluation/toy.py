"""What tests of evaluation share: a data set of random words, a run over it, a report to draw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from langchain_core.documents import Document

from langchain_rerank.evaluation import Dataset, Sweep, evaluate
from langchain_rerank.evaluation.sweep_report import FIRST_STAGE_ALONE, Setting, summarize

WORDS = ["sun", "moon", "star", "sky", "rain", "snow", "wind", "sea"]
QUIET = {"resamples": 99, "show_progress": False}
DRAWS = {"confidence": 0.95, "resamples": 99, "seed": 0}


def toy(queries=12, documents=40):
    """Texts of random words; a document is graded by how many of the query's words it holds."""
    rng = np.random.default_rng(0)
    texts = {f"d{number}": " ".join(rng.choice(WORDS, 3)) for number in range(documents)}
    asked = {f"q{number}": " ".join(rng.choice(WORDS, 2)) for number in range(queries)}
    qrels = {
        query: {
            key: len(set(text.split()) & set(words.split()))
            for key, words in list(texts.items())[: documents // 2]
        }
        for query, text in asked.items()
    }
    corpus = {key: Document(text, id=key) for key, text in texts.items()}
    return Dataset(asked, qrels, corpus, name="toy")


def random_run(dataset, depth=20):
    rng = np.random.default_rng(1)
    ids = list(dataset.corpus)
    return {
        query: {str(key): float(rng.random()) for key in rng.choice(ids, depth, replace=False)}
        for query in dataset.queries
    }


def only(system, dataset, measure="nDCG@10", **settings):
    """Evaluate one system: its values, its documents and the report."""
    report = evaluate({"it": system}, dataset, [measure], **QUIET, **settings)
    return report.per_query.loc["it"], report.documents, report


def a_report():
    """Two runs: "d" comes from below rank 2, "b" goes there, "e" and "f" come and go as a whole."""
    texts = {
        "a": "Berlin is a city. " * 20,
        "b": "x",
        "c": "costs $5 and $x_{^ more",
        "d": "a\nb\0",
    }
    dataset = Dataset(
        {"q": "how many <people> cost $5 and $10?", "other": "who?"},
        {"q": {"a": 3, "b": 0, "d": 2, "c": 1}, "other": {"a": 2}},
        name="toy $x$",
    )
    first, second, others = (
        {one: -rank for rank, one in enumerate(ids)} for ids in ("abcde", "dacbf", "ba")
    )
    systems = {
        "first": {"q": first, "other": others},
        "second": {"q": second, "other": {"a": 2, "b": 1}},
    }
    measures = ["nDCG@3", "RR", "P@1", "P@2", "P@3"]
    return replace(evaluate(systems, dataset, measures, min_relevance=2, **QUIET), texts=texts)


def reranked(report, scores=(0.9, 0.8, 0.3, 0.2, np.nan)):
    """The report with its second system as one that reranked, with a cross encoder's scores."""
    documents = report.documents.copy()
    second = documents["system"] == "second"
    documents.loc[second, "score"] = [*scores, *scores[:2]]
    documents.loc[second, "retrieval_rank"] = documents["rank"]
    return replace(report, documents=documents)


def a_sweep(*trials):
    """A sweep of (model, fetch_k, weight), values (one for all, or a list) and milliseconds."""
    settings, given, milliseconds = zip(*trials, strict=True)
    keys = [(model or FIRST_STAGE_ALONE, *rest) for model, *rest in settings]
    columns = pd.MultiIndex.from_tuples(keys, names=Setting._fields)
    count = max(8, *map(np.size, given))
    rows = np.transpose([np.broadcast_to(values, count) for values in given])
    values = pd.DataFrame(rows, columns=columns)
    seconds = pd.DataFrame([np.divide(milliseconds, 1000)] * count, columns=columns)
    summary = summarize(values, seconds, "nDCG@10", DRAWS)
    return Sweep("toy", "nDCG@10", 10, DRAWS, values, seconds, summary)
