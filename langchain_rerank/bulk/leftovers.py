"""What killed writers leave behind: counted, and cleared away."""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from typing import TYPE_CHECKING

from langchain_rerank.files import UNFINISHED

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def counted_try(path: Path) -> Iterator[int]:
    """Count how often the writing of a file was begun by processes that did not live to end it.

    Yields:
        1 for the first try since `remove_unfinished`.
    """
    marks: list[Path] = []
    for number in itertools.count(1):
        marks.append(path.with_name(f"{UNFINISHED}{path.name}-try-{number}"))
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
    for path in folder.glob(f"{UNFINISHED}*"):
        path.unlink(missing_ok=True)
