"""What tests of evaluation share: a data set of random words, a run over it, quiet settings."""

from __future__ import annotations

import numpy as np
from langchain_core.documents import Document

from langchain_rerank.evaluation import Dataset

WORDS = ["sun", "moon", "star", "sky", "rain", "snow", "wind", "sea"]
QUIET = {"resamples": 99, "show_progress": False}


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
