"""Blocks of rows: cut out of files, read and checked, scored in an actor, written with results."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_rerank.cores import keep_to_cores
from langchain_rerank.errors import ModelLoadError, ScoringError
from langchain_rerank.files import UNFINISHED, replacing
from langchain_rerank.ranking import best_first, check_query
from langchain_rerank.scoring import score_pairs
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langchain_core.cross_encoders import BaseCrossEncoder

# Ray starts an actor that has died again, and with it the same block, for ever.
_TRIES = 3
# Read in pieces: else a whole column of a row group would be in memory at once.
_READ_BYTES = 2**20
# What a block can fail by; the name crosses the process, as not every error can be pickled.
ERRORS: dict[str, type[Exception]] = {
    error.__name__: error for error in (ValueError, ScoringError, ModelLoadError, OSError)
}

PARQUET = (".parquet", ".pq")

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
class Block:
    """Consecutive rows of one input file, scored together and written as one part."""

    number: int
    """Place among all blocks of the job, from 0."""
    path: str
    first: int
    """Row of the first one in its file, from 1; for JSON lines the number of its line."""
    rows: int
    """How many rows; for JSON lines how many lines, blank ones included."""
    group: int
    """Parquet: the row group. JSON lines: -1."""
    start: int
    """Parquet: the first row within its row group, from 0. JSON lines: the first line's byte."""


def plan(files: list[Path], block_rows: int) -> list[Block]:
    """Cut files into blocks of at most `block_rows` rows; the same files give the same blocks.

    A block of a Parquet file does not cross its row groups.

    Raises:
        ValueError: A file is not of its format.
        OSError: A file can't be read.
    """
    blocks: list[Block] = []
    for file in files:
        cut = _cut_parquet if file.suffix.lower() in PARQUET else _cut_lines
        for place in cut(file, block_rows):
            blocks.append(Block(len(blocks), str(file), *place))
    return blocks


def _cut_parquet(file: Path, block_rows: int) -> Iterator[tuple[int, int, int, int]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        metadata = parquet.read_metadata(file)
    except pa.ArrowInvalid as error:
        msg = f"{file}: expected a Parquet file: {error}"
        raise ValueError(msg) from error
    first = 1
    for group in range(metadata.num_row_groups):
        size = metadata.row_group(group).num_rows
        for start in range(0, size, block_rows):
            yield first + start, min(block_rows, size - start), group, start
        first += size


def _cut_lines(file: Path, block_rows: int) -> Iterator[tuple[int, int, int, int]]:
    start = offset = number = first = 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            offset += len(line)
            if number - first == block_rows:
                yield first + 1, block_rows, -1, start
                first, start = number, offset
    if number > first:
        yield first + 1, number - first, -1, start


class BlockScorer:
    """Scores blocks and writes their parts; runs in an actor, but needs no Ray."""

    def __init__(
        self, cross_encoder: BaseCrossEncoder, columns: Columns, top_n: int | None, threads: int
    ) -> None:
        """Store the settings, `threads` being the cores of this actor; the first block loads."""
        self._cross_encoder = keep_to_cores(cross_encoder, threads)
        self._columns, self._top_n = columns, top_n

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        """Score one block, given as its fields and `part`, the path to write.

        Returns:
            The numbers of `rows` and `pairs`, and of an error the name of its type and its
            message, else "".
        """
        part, block = Path(task["part"]), Block(**{k: v for k, v in task.items() if k != "part"})
        done: dict[str, Any] = {"rows": 0, "pairs": 0, "error": "", "message": ""}
        try:
            # Ray runs a task again whose actor ended before its report came through.
            if not part.exists():
                _count_try(part, block)
                done["rows"], done["pairs"] = self._score(part, block)
        except Exception as error:  # noqa: BLE001  # the driver raises it; Ray would run it again
            known = (name for name, kind in ERRORS.items() if isinstance(error, kind))
            done["error"] = next(known, ScoringError.__name__)
            plain = done["error"] == type(error).__name__ or isinstance(error, ValueError)
            done["message"] = str(error) if plain else f"{type(error).__name__}: {error}"
        _tries(part).unlink(missing_ok=True)
        return done

    def _score(self, part: Path, block: Block) -> tuple[int, int]:
        """Score all pairs of a block in one pass; gives its numbers of rows and pairs."""
        source, asked = (_read_lines if block.group < 0 else _read_parquet)(block, self._columns)
        pairs = [(query, text) for query, texts in asked for text in texts]
        scores = iter(score_pairs(self._cross_encoder, pairs))
        results = []
        for _, texts in asked:
            own = [next(scores) for _ in texts]
            order = best_first(own)[: self._top_n]
            results.append([{"index": at, "relevance_score": own[at]} for at in order])
        _write(part, source, results, self._columns.results)
        return len(asked), len(pairs)


def _tries(part: Path) -> Path:
    return part.with_name(f"{UNFINISHED}{part.name}-tries")


def _count_try(part: Path, block: Block) -> None:
    """Raise for a block that processes began and did not live to end, one byte for each."""
    with _tries(part).open("ab") as tries:
        tries.write(b".")
    if _tries(part).stat().st_size > _TRIES:
        msg = (
            f"{block.path}, from row {block.first}: {_TRIES} times the process that scored "
            f"{block.rows} rows came to a sudden end, as it does when memory runs out: "
            "take fewer block_rows or workers"
        )
        raise ScoringError(msg)


def _read_lines(block: Block, columns: Columns) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Give the lines of a block that hold rows, and of each the query and the documents."""
    source, asked = [], []
    with Path(block.path).open("rb") as file:
        file.seek(block.start)
        for number, line in zip(range(block.first, block.first + block.rows), file, strict=False):
            place = f"{block.path}, line {number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                row = json.loads(text or "{}")
            # A UnicodeDecodeError, or what json says of the line.
            except (ValueError, RecursionError) as error:
                msg = f"{place}: expected a JSON object in UTF-8: {error}"
                raise ValueError(msg) from error
            if text:
                if not isinstance(row, dict):
                    raise _wrong(place, "a JSON object", row)
                _check_names(list(row), columns, place)
                asked.append(_asked(row[columns.query], row[columns.documents], columns, place))
                source.append(text)
    return source, asked


def _read_parquet(block: Block, columns: Columns) -> tuple[Any, list[tuple[str, list[str]]]]:
    """Give the table of a block, and of each row the query and the documents."""
    import pyarrow as pa
    from pyarrow import parquet

    kept, skip, left = [], block.start, block.rows
    try:
        with parquet.ParquetFile(block.path, buffer_size=_READ_BYTES) as file:
            _check_names(file.schema_arrow.names, columns, block.path)
            for batch in file.iter_batches(batch_size=block.rows, row_groups=[block.group]):
                kept.append(batch.slice(skip, left))
                skip, left = max(0, skip - batch.num_rows), left - kept[-1].num_rows
                # No row behind them is decoded.
                if not left:
                    break
            table = pa.Table.from_batches(kept, file.schema_arrow)
            wanted = table.select([columns.query, columns.documents]).to_pydict()
    except (pa.ArrowInvalid, OSError) as error:
        last = block.first + block.rows - 1
        msg = f"{block.path}, rows {block.first} to {last}: can't be read: {error}"
        raise ValueError(msg) from error
    both = zip(wanted[columns.query], wanted[columns.documents], strict=True)
    return table, [
        _asked(query, documents, columns, f"{block.path}, row {number}")
        for number, (query, documents) in enumerate(both, start=block.first)
    ]


def _write(part: Path, source: Any, results: Sequence[Results], column: str) -> None:
    """Write rows as they came with their results; in JSON a score that is not finite is null."""
    if isinstance(source, list):
        with replacing(part, binary=True) as file:
            for line, found in zip(source, results, strict=True):
                for one in found:
                    if not math.isfinite(one["relevance_score"]):
                        one["relevance_score"] = None
                # The row's own text stays as it came, numbers and spaces included.
                row = f"{line[: line.rindex('}')]}, {json.dumps(column)}: {json.dumps(found)}}}\n"
                file.write(row.encode())
        return
    import pyarrow as pa
    from pyarrow import parquet

    pair = pa.struct([("index", pa.int64()), ("relevance_score", pa.float64())])
    with replacing(part, binary=True) as file:
        parquet.write_table(source.append_column(column, pa.array(results, pa.list_(pair))), file)


def _check_names(names: list[str], columns: Columns, place: str) -> None:
    for wanted in (columns.query, columns.documents):
        if wanted not in names:
            msg = f"{place}: expected a column {wanted!r}, found {', '.join(names) or 'none'}"
            raise ValueError(msg)
    if columns.results in names:
        msg = f"{place}: the column {columns.results!r}, which is to be added, is there already: "
        raise ValueError(msg + "choose another name for it")


def _asked(query: Any, documents: Any, columns: Columns, place: str) -> tuple[str, list[str]]:
    """Check what is to be scored of a row."""
    try:
        check_query(query)
    except (TypeError, ValueError) as error:
        msg = f"{place}, column {columns.query!r}: {error}"
        raise ValueError(msg) from error
    place = f"{place}, column {columns.documents!r}"
    if not isinstance(documents, list):
        raise _wrong(place, "a list", documents)
    texts = []
    for position, document in enumerate(documents):
        text, where = document, f"{place}, document {position}"
        if isinstance(document, dict):
            text, where = document.get(columns.text), f"{where}, field {columns.text!r}"
        if not isinstance(text, str):
            raise _wrong(where, "a text", text)
        texts.append(well_formed(text))
    return well_formed(query), texts


def _wrong(place: str, expected: str, value: Any) -> ValueError:
    """Return the error for a bad value of a data file; the caller raises it."""
    kind = "null" if value is None else type(value).__name__
    return ValueError(f"{place}: expected {expected}, got {kind}")
