"""Files that appear whole or not at all."""

from __future__ import annotations

import itertools
import os
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_TEMPORARY = ".unfinished-"


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to write, which takes its place only once it is whole and on the disk."""
    temporary = path.with_name(f"{_TEMPORARY}{path.name}-{uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def counted_try(path: Path) -> Iterator[int]:
    """Count how often the writing of a file was begun by processes that did not live to end it.

    Yields:
        1 for the first try since `remove_unfinished`.
    """
    marks: list[Path] = []
    for number in itertools.count(1):
        marks.append(path.with_name(f"{_TEMPORARY}{path.name}-try-{number}"))
        try:
            marks[-1].touch(exist_ok=False)
        except FileExistsError:
            continue
        break
    try:
        yield len(marks)
    finally:
        for mark in marks:
            mark.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed writer has left in a folder."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        path.unlink(missing_ok=True)
