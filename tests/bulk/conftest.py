"""Rows, and files of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from langchain_rerank import TorchCrossEncoder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Rows = list[dict[str, Any]]

SENTENCES = (
    "How many people live in Berlin?",
    "Berlin had a population of 3,520,031 registered inhabitants.",
    "Berlin is well known for its museums.",
    "The dog sleeps.",
    "",
    "x\ud83d lone surrogate, 👩‍👩‍👧 and \x00",
)


def make_rows(number: int) -> Rows:
    """Rows with 0 to 5 documents, and a column to pass through."""
    rows: Rows = []
    for n in range(number):
        texts = [SENTENCES[(n + at) % 5] + f" {n % 7}" for at in range(n % 6)]
        rows.append({"id": n, "query": f"people in Berlin {n}", "documents": texts})
    return rows


def write_lines(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: Rows, row_group_size: int = 1000) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=row_group_size)
    return path


def read_output(folder: Path) -> Rows:
    """The rows of all parts in order."""
    parts = sorted(folder.glob("part-*"))
    if parts and parts[0].suffix == ".parquet":
        from pyarrow import parquet

        return [row for part in parts for row in parquet.read_table(part).to_pylist()]
    texts = [part.read_text(encoding="utf-8") for part in parts]
    return [json.loads(line) for text in texts for line in text.splitlines()]


@pytest.fixture
def tiny(tiny_checkpoint: str) -> TorchCrossEncoder:
    return TorchCrossEncoder(model=tiny_checkpoint, device="cpu")


@pytest.fixture(params=["jsonl", "parquet"])
def write(request: pytest.FixtureRequest) -> Callable[[Path, Rows], Path]:
    """Writes rows as input.jsonl or input.parquet of a folder."""
    if request.param == "jsonl":
        return lambda folder, rows: write_lines(folder / "input.jsonl", rows)
    return lambda folder, rows: write_parquet(folder / "input.parquet", rows, row_group_size=5)
