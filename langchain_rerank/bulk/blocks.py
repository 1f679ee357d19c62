"""The plan of a bulk job: which rows of which input file make up which block."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FileFormat = Literal["parquet", "jsonl"]

_FORMATS: dict[str, FileFormat] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows of one input file, scored together and written as one part.

    Plain values only, as it travels as a row of a Ray data set.
    """

    number: int
    """Place among all blocks of the job, from 0."""
    path: str
    first: int
    """Row of the first one in its file, from 1; for JSON lines the number of its line."""
    rows: int
    """How many rows; for JSON lines how many lines, blank ones included."""
    group: int
    """Parquet: the row group. JSON lines: 0."""
    start: int
    """Parquet: the first row within its row group, from 0. JSON lines: the first line's byte."""


def input_files(inputs: str | Path | Iterable[str | Path]) -> list[Path]:
    """Return the absolute paths of the input files, those of a folder sorted by name.

    Hidden files, and those whose names start with "_", are left out of folders.

    Raises:
        FileNotFoundError: A path is not there, or a folder holds no input file.
        ValueError: No path was given, one was given twice, or the files are of two formats.
    """
    given = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    files = [file.resolve() for path in given for file in _files_of(Path(path))]
    if not files:
        msg = "expected at least one input file, got none"
        raise ValueError(msg)
    twice = (
        {file for file in files if files.count(file) > 1} if len(set(files)) < len(files) else ()
    )
    if twice:
        msg = f"expected each input file once, got {', '.join(map(str, sorted(twice)))} twice"
        raise ValueError(msg)
    formats = {format_of(file) for file in files}
    if len(formats) > 1:
        msg = (
            f"expected input files of one format, got {' and '.join(sorted(formats))}: "
            "give each format a job of its own"
        )
        raise ValueError(msg)
    return files


def format_of(path: Path) -> FileFormat:
    """Tell the format of a file by its name's ending.

    Raises:
        ValueError: The ending is of neither format.
    """
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        msg = f"expected a file that ends in {', '.join(_FORMATS)}, got {path}"
        raise ValueError(msg)
    return _FORMATS[suffix]


def plan(files: list[Path], block_rows: int) -> list[Block]:
    """Cut files into blocks of at most `block_rows` rows; the same files give the same blocks.

    A block of a Parquet file does not cross its row groups.

    Raises:
        ValueError: `block_rows` is below 1, or a file is not of its format.
        OSError: A file can't be read.
    """
    if block_rows < 1:
        msg = f"block_rows must be at least 1, got {block_rows}"
        raise ValueError(msg)
    blocks: list[Block] = []
    for file in files:
        cut = _parquet_ranges if format_of(file) == "parquet" else _line_ranges
        for first, rows, group, start in cut(file, block_rows):
            blocks.append(Block(len(blocks), str(file), first, rows, group, start))
    return blocks


def _files_of(path: Path) -> list[Path]:
    if not path.exists():
        msg = f"expected an input file or a folder of them, got {path}, which is not there"
        raise FileNotFoundError(msg)
    if not path.is_dir():
        return [path]
    files = sorted(
        file
        for file in path.iterdir()
        if file.suffix.lower() in _FORMATS and not file.name.startswith((".", "_"))
    )
    if not files:
        msg = f"expected files that end in {', '.join(_FORMATS)} in {path}, found none"
        raise FileNotFoundError(msg)
    return files


def _parquet_ranges(file: Path, block_rows: int) -> Iterator[tuple[int, int, int, int]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        metadata = parquet.read_metadata(file)
    except pa.ArrowInvalid as error:
        msg = f"{file}: expected a Parquet file: {error}"
        raise ValueError(msg) from error
    before = 0
    for group in range(metadata.num_row_groups):
        size = metadata.row_group(group).num_rows
        for start in range(0, size, block_rows):
            yield before + start + 1, min(block_rows, size - start), group, start
        before += size


def _line_ranges(file: Path, block_rows: int) -> Iterator[tuple[int, int, int, int]]:
    start = offset = lines = first = 0
    with file.open("rb") as source:
        for line in source:
            offset += len(line)
            lines += 1
            if lines - first == block_rows:
                yield first + 1, block_rows, 0, start
                first, start = lines, offset
    if lines > first:
        yield first + 1, lines - first, 0, start
