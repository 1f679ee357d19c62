"""The rows of a block: read and checked, and written with their results."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_rerank.bulk.blocks import Block, format_of
from langchain_rerank.files import replacing
from langchain_rerank.ranking import check_query
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

# Read in pieces: else a whole column of a row group would be in memory at once.
_READ_BYTES = 2**20

Results = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns that a job reads and of the one that it adds."""

    query: str = "query"
    documents: str = "documents"
    text: str = "text"
    """Field of a document that is an object."""
    results: str = "results"


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a block as they came, and what to score of each."""

    source: Any
    """Of a Parquet file a pyarrow table; of JSON lines a list of their texts."""
    queries: list[str]
    documents: list[list[str]]


def read_rows(block: Block, columns: Columns, path: Path) -> Rows:
    """Read the rows of a block.

    Args:
        block: Which rows.
        columns: Where the query and the documents are.
        path: The block's file.

    Raises:
        ValueError: A row is not what is expected; the message names file, line or row, and column.
        OSError: The file can't be read.
    """
    if format_of(path) == "parquet":
        return _read_parquet(block, columns, path)
    return _read_lines(block, columns, path)


def write_rows(path: Path, rows: Rows, results: Sequence[Results], column: str) -> None:
    """Write the rows of a block, each as it came with its results added.

    Args:
        path: In the format of the block's file; appears whole or not at all.
        rows: As read.
        results: Of each row: `{"index": int, "relevance_score": float}`, best first. In JSON a
            score that is not finite is null.
        column: Name of the column of results.
    """
    if isinstance(rows.source, list):
        lines = (
            # The row's own text stays as it came, numbers and spaces included.
            f"{line[: line.rindex('}')]}, {json.dumps(column)}: {json.dumps(_finite(found))}}}\n"
            for line, found in zip(rows.source, results, strict=True)
        )
        with replacing(path, binary=True) as file:
            file.write("".join(lines).encode("utf-8"))
        return
    import pyarrow as pa
    from pyarrow import parquet

    pair = pa.struct([("index", pa.int64()), ("relevance_score", pa.float64())])
    added = pa.array(list(results), pa.list_(pair))
    with replacing(path, binary=True) as file:
        parquet.write_table(rows.source.append_column(column, added), file)


def _finite(results: Results) -> Results:
    return [
        one if math.isfinite(one["relevance_score"]) else {**one, "relevance_score": None}
        for one in results
    ]


def _read_lines(block: Block, columns: Columns, path: Path) -> Rows:
    rows = Rows([], [], [])
    for number, line in _lines(block, path):
        place = f"{path}, line {number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            row = json.loads(text) if text else None
        # A UnicodeDecodeError, or what json says of the line.
        except (ValueError, RecursionError) as error:
            msg = f"{place}: expected a JSON object in UTF-8: {error}"
            raise ValueError(msg) from error
        if not text:
            continue
        if not isinstance(row, dict):
            raise _wrong(place, "a JSON object", row)
        _check_names(list(row), columns, place)
        rows.queries.append(_query(row[columns.query], columns, place))
        rows.documents.append(_documents(row[columns.documents], columns, place))
        rows.source.append(text)
    return rows


def _lines(block: Block, path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        file.seek(block.start)
        yield from zip(range(block.first, block.first + block.rows), file, strict=False)


def _read_parquet(block: Block, columns: Columns, path: Path) -> Rows:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path, buffer_size=_READ_BYTES) as file:
            _check_names(file.schema_arrow.names, columns, str(path))
            table = _slice(file, block)
            wanted = table.select([columns.query, columns.documents]).to_pydict()
    except (pa.ArrowInvalid, OSError) as error:
        last = block.first + block.rows - 1
        msg = f"{path}, rows {block.first} to {last}: can't be read: {error}"
        raise ValueError(msg) from error
    rows = Rows(table, [], [])
    both = zip(wanted[columns.query], wanted[columns.documents], strict=True)
    for number, (query, documents) in enumerate(both, start=block.first):
        place = f"{path}, row {number}"
        rows.queries.append(_query(query, columns, place))
        rows.documents.append(_documents(documents, columns, place))
    return rows


def _slice(file: Any, block: Block) -> Any:
    """Read the rows of a block out of their row group, decoding no row behind them."""
    import pyarrow as pa

    kept = []
    skip, wanted = block.start, block.rows
    for batch in file.iter_batches(batch_size=block.rows, row_groups=[block.group]):
        part = batch.slice(skip, wanted)
        skip = max(0, skip - batch.num_rows)
        if part.num_rows:
            kept.append(part)
            wanted -= part.num_rows
        if not wanted:
            break
    return pa.Table.from_batches(kept, file.schema_arrow)


def _check_names(names: list[str], columns: Columns, place: str) -> None:
    for wanted in (columns.query, columns.documents):
        if wanted not in names:
            msg = f"{place}: expected a column {wanted!r}, found {', '.join(names) or 'none'}"
            raise ValueError(msg)
    if columns.results in names:
        msg = (
            f"{place}: the column {columns.results!r}, which is to be added, is there already: "
            "choose another name for it"
        )
        raise ValueError(msg)


def _query(value: Any, columns: Columns, place: str) -> str:
    try:
        check_query(value)
    except (TypeError, ValueError) as error:
        msg = f"{place}, column {columns.query!r}: {error}"
        raise ValueError(msg) from error
    return well_formed(value)


def _documents(value: Any, columns: Columns, place: str) -> list[str]:
    place = f"{place}, column {columns.documents!r}"
    if not isinstance(value, list):
        raise _wrong(place, "a list", value)
    texts = []
    for position, document in enumerate(value):
        text, where = document, f"{place}, document {position}"
        if isinstance(document, dict):
            text, where = document.get(columns.text), f"{where}, field {columns.text!r}"
        if not isinstance(text, str):
            raise _wrong(where, "a text", text)
        texts.append(well_formed(text))
    return texts


def _wrong(place: str, expected: str, value: Any) -> ValueError:
    """Return the error for a bad value of a data file; the caller raises it."""
    kind = "null" if value is None else type(value).__name__
    return ValueError(f"{place}: expected {expected}, got {kind}")
