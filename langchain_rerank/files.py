"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# What a killed writer leaves behind has a name that starts so.
UNFINISHED = ".unfinished-"


@contextmanager
def replacing(path: Path, *, binary: bool = False) -> Iterator[IO[Any]]:
    """Open a file to write, in UTF-8 or `binary`, which takes its place once it is on the disk.

    A file that exists is replaced; after an error it is as it was before.
    """
    temporary = path.with_name(f"{UNFINISHED}{path.name}-{uuid4().hex}")
    as_text = {} if binary else {"encoding": "utf-8", "newline": "\n"}
    try:
        with temporary.open("xb" if binary else "x", **as_text) as file:  # type: ignore[call-overload]  # a mode known at run time
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
