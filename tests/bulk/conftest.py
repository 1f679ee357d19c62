"""Rows, and files of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from langchain_core.documents import Document
from pyarrow import parquet

if TYPE_CHECKING:
    from pathlib import Path

    from langchain_rerank import Reranker

Rows = list[dict[str, Any]]

SENTENCES = (
    "How many people live in Berlin?",
    "Berlin had a population of 3,520,031 registered inhabitants.",
    "Berlin is well known for its museums.",
    "",
)


def make_rows(number: int) -> Rows:
    """Rows with 0 to 5 documents, and a column to pass through."""
    rows: Rows = []
    for n in range(number):
        texts = [SENTENCES[(n + at) % 4] + f" {n % 7}" for at in range(n % 6)]
        rows.append({"id": n, "query": f"people in Berlin {n}", "documents": texts})
    return rows


def write_lines(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: Rows, row_group_size: int = 5) -> Path:
    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=row_group_size)
    return path


def read_output(folder: Path) -> Rows:
    """The rows of all parts in order."""
    rows: Rows = []
    for part in sorted(folder.glob("part-*")):
        if part.suffix == ".parquet":
            rows += parquet.read_table(part).to_pylist()
        else:
            rows += map(json.loads, part.read_text(encoding="utf-8").splitlines())
    return rows


def assert_ranked_as_by(reranker: Reranker, rows: Rows) -> None:
    """Rows hold the ranking that a reranker gives for their documents."""
    for row in rows:
        kept = reranker.compress_documents([Document(t) for t in row["documents"]], row["query"])
        ranks = [one.metadata["retrieval_rank"] - 1 for one in kept]
        scores = [one.metadata["relevance_score"] for one in kept]
        assert [one["index"] for one in row["results"]] == ranks
        found = [one["relevance_score"] for one in row["results"]]
        assert found == pytest.approx(scores, abs=1e-6)
