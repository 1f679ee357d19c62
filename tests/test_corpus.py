"""The corpora of the demo."""

from __future__ import annotations

import re
from collections import Counter
from pydoc_data.topics import topics

import pytest

from langchain_rerank.corpus import CHUNK_CHARACTERS, python_reference, read_folder


def squeezed(text: str) -> str:
    return " ".join(text.split())


def test_reference_keeps_every_paragraph_of_every_topic():
    held = squeezed(" ".join(chunk.page_content for chunk in python_reference()))
    for text in topics.values():
        for line in text.splitlines():
            assert squeezed(line) in held


def test_reference_repeats_no_paragraph():
    paragraphs = Counter(
        squeezed(paragraph)
        for chunk in python_reference()
        for paragraph in re.split(r"\n\s*\n", chunk.page_content)
    )
    assert [text for text, times in paragraphs.items() if times > 1 and len(text) >= 80] == []


def test_reference_chunks_name_their_topic_and_fit():
    for chunk in python_reference():
        assert chunk.metadata["topic"] in topics
        assert 0 < len(chunk.page_content) <= CHUNK_CHARACTERS


def test_folder_gives_each_kind_of_text_with_its_path(tmp_path):
    (tmp_path / "guide").mkdir()
    (tmp_path / "guide" / "intro.md").write_text("# Intro\n\nHello.", encoding="utf-8")
    (tmp_path / "a.txt").write_bytes("café\r\nau lait".encode())
    (tmp_path / "b.rst").write_text("Title\n=====\n", encoding="utf-8")
    (tmp_path / "c.py").write_text("def f():\n    return 1\n", encoding="utf-8")
    (tmp_path / "d.bin").write_text("no", encoding="utf-8")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "e.txt").write_text("no", encoding="utf-8")
    found = {chunk.metadata["source"]: chunk.page_content for chunk in read_folder(tmp_path)}
    assert found == {
        "a.txt": "café\nau lait",
        "b.rst": "Title\n=====",
        "c.py": "def f():\n    return 1",
        "guide/intro.md": "# Intro\n\nHello.",
    }


@pytest.mark.parametrize(
    "encoding", ["utf-8-sig", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]
)
@pytest.mark.parametrize("name", ["a.txt", "a.py"])
def test_byte_order_mark_says_the_encoding(tmp_path, name, encoding):
    mark = "" if encoding == "utf-8-sig" else "\ufeff"
    (tmp_path / name).write_bytes(f"{mark}# Zürich, 東京".encode(encoding))
    assert [chunk.page_content for chunk in read_folder(tmp_path)] == ["# Zürich, 東京"]


def test_python_says_its_encoding(tmp_path):
    (tmp_path / "a.py").write_bytes("# -*- coding: latin-1 -*-\n# café".encode("latin-1"))
    assert read_folder(tmp_path)[0].page_content.endswith("# café")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("latin.txt", b"caf\xe9"),
        ("image.md", b"\x89PNG\r\n\x1a\n\0\0"),
        ("zeros.txt", bytes(8)),
        ("no-mark.txt", "text".encode("utf-16-le")),
        ("cut.txt", "text".encode("utf-16")[:-1]),
        ("cut32.txt", "text".encode("utf-32")[:-1]),
        ("wrong.py", b"# coding: no-such-encoding\n"),
        ("latin.py", b"# caf\xe9"),
    ],
)
def test_what_is_no_text_is_left_out_and_named(tmp_path, caplog, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"found no text in .*; not in UTF-8: {name}"):
        read_folder(tmp_path)
    (tmp_path / "good.txt").write_text("good", encoding="utf-8")
    caplog.clear()
    assert [chunk.page_content for chunk in read_folder(tmp_path)] == ["good"]
    assert f"{name} is left out" in caplog.text


def test_folder_without_texts_and_no_folder_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"found no text in \.txt, \.md, \.rst, \.py files in '[^;]*$"
    ):
        read_folder(tmp_path)
    with pytest.raises(ValueError, match="expected a folder"):
        read_folder(tmp_path / "nowhere")
