"""Text files in and out: lines with their numbers, errors that name them, no half-written file."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a UTF-8 file that hold text, numbered from 1, without their line ends.

    Raises:
        ValueError: A line is not UTF-8; the message names file and line.
        OSError: The file can't be read.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                # Editors on Windows put a byte order mark before the first line.
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise line_error(path, number, f"expected UTF-8 text: {error}") from error
            if text.strip():
                yield number, text.rstrip("\r\n")


def line_error(path: Path, number: int, problem: str) -> ValueError:
    """Return the error for a bad line of a data file; the caller raises it."""
    return ValueError(f"{path}, line {number}: {problem}")


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """Open a text file to write, which takes its place only once it is whole.

    Args:
        path: Overwritten where it exists. After an error it is as it was before.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with temporary.open("x", encoding="utf-8", newline="\n") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
