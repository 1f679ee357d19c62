"""Lines of text files with their numbers, and errors that name them."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
