"""The corpora of the demo."""

from __future__ import annotations

import re
from collections import Counter
from pydoc_data.topics import topics

import pytest

from langchain_rerank.corpus import CHUNK_CHARACTERS, python_reference, read_folder


def squeezed(text: str) -> str:
    return " ".join(text.split())


def test_reference_holds_every_paragraph_once_in_chunks_that_name_their_topic():
    chunks = python_reference()
    held = squeezed(" ".join(chunk.page_content for chunk in chunks))
    for text in topics.values():
        for line in text.splitlines():
            assert squeezed(line) in held
    paragraphs = Counter(
        squeezed(paragraph)
        for chunk in chunks
        for paragraph in re.split(r"\n\s*\n", chunk.page_content)
    )
    assert [text for text, times in paragraphs.items() if times > 1 and len(text) >= 80] == []
    for chunk in chunks:
        assert chunk.metadata["topic"] in topics
        assert 0 < len(chunk.page_content) <= CHUNK_CHARACTERS


def sources(folder):
    return {chunk.metadata["source"]: chunk.page_content for chunk in read_folder(folder)}


def test_folder_gives_each_kind_of_text_with_its_path(tmp_path):
    (tmp_path / "guide").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name, content in {
        "guide/intro.md": "# Intro\n\nHello.",
        "a.txt": "café\r\nau lait",
        "b.rst": "Title\n=====\n",
        "c.py": "def f():\n    return 1\n",
        "blank.txt": " \n",
        "d.bin": "no",
        ".hidden/e.txt": "no",
    }.items():
        (tmp_path / name).write_bytes(content.encode())
    assert sources(tmp_path) == {
        "a.txt": "café\nau lait",
        "b.rst": "Title\n=====",
        "c.py": "def f():\n    return 1",
        "guide/intro.md": "# Intro\n\nHello.",
    }


def test_byte_order_marks_and_pythons_first_lines_say_the_encoding(tmp_path):
    text = "# Zürich, 東京"
    for mark in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        for suffix in ("txt", "py"):
            (tmp_path / f"{mark}.{suffix}").write_bytes(f"\ufeff{text}".encode(mark))
    assert list(sources(tmp_path).values()) == [text] * 10
    (tmp_path / "a.py").write_bytes("# -*- coding: latin-1 -*-\n# café".encode("latin-1"))
    assert sources(tmp_path)["a.py"].endswith("# café")


def test_what_is_no_text_is_left_out_and_named(tmp_path, caplog):
    unread = {
        "cut.txt": "text".encode("utf-16")[:-1],
        "cut32.txt": "text".encode("utf-32")[:-1],
        "image.md": b"\x89PNG\r\n\x1a\n\0\0",
        "latin.py": b"# caf\xe9",
        "latin.txt": b"caf\xe9",
        "no-mark.txt": "text".encode("utf-16-le"),
        "wrong.py": b"# coding: no-such-encoding\n",
        "zeros.txt": bytes(8),
    }
    for name, content in unread.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"found no text in .*; not in UTF-8: {', '.join(unread)}"):
        read_folder(tmp_path)
    (tmp_path / "good.txt").write_text("good", encoding="utf-8")
    caplog.clear()
    assert sources(tmp_path) == {"good.txt": "good"}
    assert all(f"{name} is left out" in caplog.text for name in unread)


def test_folder_without_texts_and_no_folder_are_refused(tmp_path):
    expected = r"found no text in \.txt, \.md, \.rst, \.py files in '[^;]*$"
    with pytest.raises(ValueError, match=expected):
        read_folder(tmp_path)
    with pytest.raises(ValueError, match="expected a folder"):
        read_folder(tmp_path / "nowhere")
