"""Texts to index: the Python language reference that comes with CPython, or a folder of files."""

from __future__ import annotations

import codecs
import io
import logging
import re
import tokenize
from functools import partial
from typing import TYPE_CHECKING

from langchain_core.documents import Document

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

logger = logging.getLogger(__name__)

CHUNK_CHARACTERS = 900
SUFFIXES = {".txt": None, ".md": "markdown", ".rst": "rst", ".py": "python"}
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
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
        folder: Searched with its subfolders, hidden ones left out. Files are read as UTF-8, as
            UTF-16 or UTF-32 after a byte order mark, Python also as its first lines say. What is
            no such text is left out, and a warning names it.

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
        place = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in place.parts)
        if hidden or path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        try:
            text = _read(path)
        except (UnicodeError, SyntaxError) as error:  # SyntaxError: of a Python file's encoding
            unread.append(place.as_posix())
            logger.warning("%s is left out, as it is no text in UTF-8: %s", path, error)
        else:
            chunks += _split(text, {"source": place.as_posix()}, SUFFIXES[path.suffix.lower()])
    if not chunks:
        msg = f"found no text in {', '.join(SUFFIXES)} files in {str(folder)!r}"
        if unread:
            msg += f"; not in UTF-8: {', '.join(unread[:10])}"
        raise ValueError(msg)
    return chunks


def _read(path: Path) -> str:
    content = path.read_bytes()
    # UTF-32's mark begins with UTF-16's.
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    if encoding == "utf-8" and path.suffix.lower() == ".py":
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
    text = io.TextIOWrapper(io.BytesIO(content), encoding).read()
    if "\0" in text:
        msg = "it holds NUL characters"
        raise UnicodeError(msg)
    return text


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

    splitter = RecursiveCharacterTextSplitter
    make = partial(splitter.from_language, Language(language)) if language else splitter
    made = make(chunk_size=CHUNK_CHARACTERS, chunk_overlap=0)
    return made.create_documents([text], [metadata])
