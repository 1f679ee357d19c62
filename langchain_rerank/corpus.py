"""Texts to index: the Python language reference that comes with CPython, or a folder of files."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

logger = logging.getLogger(__name__)

CHUNK_CHARACTERS = 900
SUFFIXES = {".txt": None, ".md": "markdown", ".rst": "rst", ".py": "python"}
# Shorter paragraphs (headings, "For example:") may stand in many topics without being repeats.
_REPEAT_CHARACTERS = 80


def python_reference() -> list[Document]:
    """Return the Python language reference of this interpreter, in chunks.

    Topics quote each other ("compound" holds "try", "for" and more); each paragraph stays in the
    shortest topic that has it, so no text comes twice.

    Returns:
        About 600 chunks of up to 900 characters, with the metadata `topic` and `source`.
    """
    from pydoc_data.topics import topics

    seen: set[str] = set()
    chunks = []
    for topic, text in sorted(topics.items(), key=lambda entry: (len(entry[1]), entry[0])):
        for run in _new_runs(text, seen):
            chunks += _split(run, {"topic": topic, "source": topic})
    return chunks


def read_folder(folder: Path) -> list[Document]:
    """Return the text, Markdown, reStructuredText and Python files below a folder, in chunks.

    Args:
        folder: Searched with its subfolders, hidden ones left out. A file that is no text in UTF-8
            is left out, and a warning names it.

    Returns:
        Chunks of up to 900 characters, with each file's path below `folder` as `source`.

    Raises:
        ValueError: `folder` is no folder, or holds no text in such a file.
    """
    if not folder.is_dir():
        msg = f"expected a folder of documents, got {str(folder)!r}, which is not one"
        raise ValueError(msg)
    chunks = []
    unread = []
    for path in sorted(folder.rglob("*")):
        place, suffix = path.relative_to(folder), path.suffix.lower()
        hidden = any(part.startswith(".") for part in place.parts)
        if hidden or suffix not in SUFFIXES or not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeError:
            text = "\0"
        if "\0" in text:
            unread.append(place.as_posix())
            logger.warning("%s is left out, as it is no text in UTF-8", path)
        else:
            chunks += _split(text, {"source": place.as_posix()}, SUFFIXES[suffix])
    if not chunks:
        msg = f"found no text in {', '.join(SUFFIXES)} files in {str(folder)!r}"
        if unread:
            msg += f"; not in UTF-8: {', '.join(unread[:10])}"
        raise ValueError(msg)
    return chunks


def _new_runs(text: str, seen: set[str]) -> Iterable[str]:
    """Yield the stretches of a text whose paragraphs no earlier text had."""
    run: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        key = " ".join(paragraph.split())
        if key in seen:
            yield "\n\n".join(run)
            run = []
        else:
            run.append(paragraph)
        if len(key) >= _REPEAT_CHARACTERS:
            seen.add(key)
    yield "\n\n".join(run)


def _split(text: str, metadata: dict[str, str], language: str | None = None) -> list[Document]:
    from langchain_text_splitters import Language, RecursiveCharacterTextSplitter

    size: dict[str, Any] = {"chunk_size": CHUNK_CHARACTERS, "chunk_overlap": 0}
    splitter = RecursiveCharacterTextSplitter
    made = splitter.from_language(Language(language), **size) if language else splitter(**size)
    return made.create_documents([text], [metadata])
