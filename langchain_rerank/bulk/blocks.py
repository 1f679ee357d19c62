"""Blocks of rows: cut out of files, read and checked, scored in an actor, written with results."""

from __future__ import annotations

import itertools
import json
import math
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_rerank.cores import keep_to_cores
from langchain_rerank.files import replacing
from langchain_rerank.ranking import best_first
from langchain_rerank.scoring import score_pairs
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from langchain_core.cross_encoders import BaseCrossEncoder

# Read in pieces: else a whole column of a row group would be in memory at once.
_READ_BYTES = 2**20

_PARQUET = (".parquet", ".pq")
_ENDINGS = (*_PARQUET, ".jsonl", ".ndjson", ".json")

Asked = list[tuple[str, list[str]]]
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

    number: int  # among all blocks of the job, from 0
    path: str
    first: int  # row or line in its file, from 1
    rows: int  # or lines, blank ones included
    group: int  # Parquet: the row group; JSON lines: -1
    start: int  # Parquet: the first row within its row group; JSON lines: the first line's byte

    def part(self, folder: Path) -> Path:
        """Where its results are, once they are whole."""
        return folder / f"part-{self.number:08d}.{'jsonl' if self.group < 0 else 'parquet'}"


def input_files(inputs: str | Path | Iterable[str | Path]) -> list[Path]:
    """Give the absolute paths of the input files, those of a folder sorted by name.

    Hidden files, and those whose names start with "_", are left out of folders.

    Raises:
        FileNotFoundError: A path is not there, or a folder holds no input file.
        ValueError: One was given twice, or they are of no format or of two.
    """
    files: list[Path] = []
    for path in map(Path, [inputs] if isinstance(inputs, str | Path) else inputs):
        found = [path] if path.exists() else []
        if path.is_dir():
            visible = sorted(one for one in path.iterdir() if one.name[0] not in "._")
            found = [one for one in visible if one.suffix.lower() in _ENDINGS]
        if not found:
            msg = f"expected an input file or a folder of {', '.join(_ENDINGS)}, none is at {path}"
            raise FileNotFoundError(msg)
        files += [one.resolve() for one in found]
    for file in files:
        if file.suffix.lower() not in _ENDINGS:
            msg = f"expected files that end in {', '.join(_ENDINGS)}, got {file}"
            raise ValueError(msg)
        if files.count(file) > 1:
            msg = f"expected each input file once, got {file} twice"
            raise ValueError(msg)
    if len({_is_parquet(file) for file in files}) != 1:
        msg = f"expected input files of one format, JSON lines or Parquet, got {len(files)}"
        raise ValueError(msg)
    return files


def _is_parquet(file: Path) -> bool:
    return file.suffix.lower() in _PARQUET


def plan(files: list[Path], block_rows: int) -> list[Block]:
    """Cut files into blocks of at most `block_rows` rows; the same files give the same blocks.

    A block of a Parquet file does not cross its row groups.

    Raises:
        ValueError: A file is not of its format.
        OSError: A file can't be read.
    """
    blocks: list[Block] = []
    for file in files:
        cut = _cut_parquet if _is_parquet(file) else _cut_lines
        for place in cut(file, block_rows):
            blocks.append(Block(len(blocks), str(file), *place))
    return blocks


def _cut_parquet(file: Path, block_rows: int) -> Iterator[tuple[int, int, int, int]]:
    from pyarrow import parquet

    try:
        metadata = parquet.read_metadata(file)
    except ValueError as error:
        msg = f"{file}: expected a Parquet file: {error}"
        raise ValueError(msg) from error
    first = 1
    for group in range(metadata.num_row_groups):
        size = metadata.row_group(group).num_rows
        for start in range(0, size, block_rows):
            yield first + start, min(block_rows, size - start), group, start
        first += size


def _cut_lines(file: Path, block_rows: int) -> Iterator[tuple[int, int, int, int]]:
    first, start = 1, 0
    with file.open("rb") as lines:
        while sizes := [len(line) for line in itertools.islice(lines, block_rows)]:
            yield first, len(sizes), -1, start
            first, start = first + len(sizes), start + sum(sizes)


class BlockScorer:
    """Scores blocks and writes their parts; runs in an actor, but needs no Ray."""

    def __init__(
        self,
        output: Path,
        cross_encoder: BaseCrossEncoder,
        columns: Columns,
        top_n: int | None,
        cores: int,
    ) -> None:
        """Store the settings, `cores` being those of this actor; the first block loads."""
        self._cross_encoder = keep_to_cores(cross_encoder, cores)
        self._output, self._columns, self._top_n = output, columns, top_n

    def started(self) -> tuple[int, int]:
        """Report, as `score` does of a block, that the actor is there."""
        return 0, 0

    def score(self, block: Block) -> tuple[int, int]:
        """Score all pairs of a block in one pass; gives its numbers of rows and pairs."""
        part = block.part(self._output)
        if part.exists():  # an actor has written it, and died before it could say so
            return 0, 0
        source, asked = (_read_lines if block.group < 0 else _read_parquet)(block, self._columns)
        pairs = [(query, text) for query, texts in asked for text in texts]
        scores = iter(score_pairs(self._cross_encoder, pairs))
        results = []
        for _, texts in asked:
            own = [next(scores) for _ in texts]
            order = best_first(own)[: self._top_n]
            results.append([{"index": at, "relevance_score": own[at]} for at in order])
        write = _write_lines if block.group < 0 else _write_parquet
        write(part, source, results, self._columns.results)
        return len(asked), len(pairs)


def _read_lines(block: Block, columns: Columns) -> tuple[list[str], Asked]:
    """Give the lines of a block that hold rows, and of each the query and the documents."""
    source, asked = [], []
    with Path(block.path).open("rb") as file:
        file.seek(block.start)
        for number, line in enumerate(itertools.islice(file, block.rows), start=block.first):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if text:
                    asked.append(_asked(json.loads(text), columns))
                    source.append(text)
            except (ValueError, RecursionError) as error:
                msg = f"{block.path}, line {number}: {error}"
                raise ValueError(msg) from error
    return source, asked


def _write_lines(part: Path, source: list[str], results: Sequence[Results], column: str) -> None:
    """Write rows as they came with their results; a score that is not finite is null."""
    with replacing(part) as file:
        for line, found in zip(source, results, strict=True):
            for one in found:
                if not math.isfinite(one["relevance_score"]):
                    one["relevance_score"] = None
            # The row's own text stays as it came, numbers and spaces included.
            row = line[: line.rindex("}")]
            file.write(f"{row}, {json.dumps(column)}: {json.dumps(found)}}}\n")


def _read_parquet(block: Block, columns: Columns) -> tuple[Any, Asked]:
    """Give the table of a block, and of each row the query and the documents."""
    import pyarrow as pa
    from pyarrow import parquet

    kept, skip, left, asked, number = [], block.start, block.rows, [], block.first
    try:
        with parquet.ParquetFile(block.path, buffer_size=_READ_BYTES) as file:
            for batch in file.iter_batches(batch_size=block.rows, row_groups=[block.group]):
                kept.append(batch.slice(skip, left))
                skip, left = max(0, skip - batch.num_rows), left - kept[-1].num_rows
                if not left:  # no row behind them is decoded
                    break
            table = pa.Table.from_batches(kept, file.schema_arrow)
        wanted = {columns.query, columns.documents, columns.results}
        rows = table.select(wanted.intersection(table.column_names)).to_pylist()
        for number, row in enumerate(rows, start=block.first):  # noqa: B007  # for the message
            asked.append(_asked(row, columns))
    except (ValueError, OSError) as error:
        msg = f"{block.path}, row {number}: {error}"
        raise ValueError(msg) from error
    return table, asked


def _write_parquet(part: Path, source: Any, results: Sequence[Results], column: str) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    pair = pa.struct([("index", pa.int64()), ("relevance_score", pa.float64())])
    with replacing(part, binary=True) as file:
        parquet.write_table(source.append_column(column, pa.array(results, pa.list_(pair))), file)


def _asked(row: Any, columns: Columns) -> tuple[str, list[str]]:
    """Check a row, and give the query and the texts to score."""
    _expect("a JSON object", row, holds=isinstance(row, dict))
    for name in (columns.query, columns.documents):
        _expect(f"a column {name!r}", list(row), holds=name in row)
    absent = columns.results not in row
    _expect(f"no column {columns.results!r}, which is to be added", list(row), holds=absent)
    query, documents = row[columns.query], row[columns.documents]
    is_text = isinstance(query, str) and bool(query.strip())
    _expect(f"a text in column {columns.query!r}", query, holds=is_text)
    listed = isinstance(documents, list)
    _expect(f"a list in column {columns.documents!r}", documents, holds=listed)
    texts: list[Any] = []
    for position, document in enumerate(documents):
        texts.append(document.get(columns.text) if isinstance(document, dict) else document)
        place = f"column {columns.documents!r}, document {position}"
        expected = f"a text, or an object with one as {columns.text!r}, in {place}"
        _expect(expected, document, holds=isinstance(texts[-1], str))
    return well_formed(query), list(map(well_formed, texts))


def _expect(what: str, came: Any, *, holds: bool) -> None:
    if not holds:
        msg = f"expected {what}, got {reprlib.repr(came)}"
        raise ValueError(msg)
