"""Which rows go into which block."""

from __future__ import annotations

import pytest

from langchain_rerank.bulk.blocks import plan
from langchain_rerank.bulk.job import input_files
from tests.bulk.conftest import make_rows, write_lines, write_parquet


def test_every_line_is_in_one_block(tmp_path):
    file = write_lines(tmp_path / "a.jsonl", make_rows(7))
    blocks = plan([file], 3)
    assert [(block.number, block.first, block.rows) for block in blocks] == [
        (0, 1, 3),
        (1, 4, 3),
        (2, 7, 1),
    ]
    content = file.read_bytes()
    ends = [block.start for block in blocks[1:]] + [len(content)]
    cut = [content[block.start : end] for block, end in zip(blocks, ends, strict=True)]
    assert [piece.count(b"\n") for piece in cut] == [3, 3, 1]
    assert b"".join(cut) == content


def test_a_last_line_without_an_end_counts(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"{}\n{}\n{}")
    assert [block.rows for block in plan([file], 2)] == [2, 1]


def test_a_file_without_rows_has_no_block(tmp_path):
    (tmp_path / "a.jsonl").touch()
    empty = write_parquet(tmp_path / "a.parquet", make_rows(3)[:0])
    assert plan([tmp_path / "a.jsonl"], 2) == plan([empty], 2) == []


def test_row_groups_are_cut_and_never_crossed(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", make_rows(12), row_group_size=5)
    found = [(block.first, block.rows, block.group, block.start) for block in plan([file], 3)]
    assert found == [(1, 3, 0, 0), (4, 2, 0, 3), (6, 3, 1, 0), (9, 2, 1, 3), (11, 2, 2, 0)]


def test_blocks_are_numbered_through_all_files(tmp_path):
    files = [write_lines(tmp_path / name, make_rows(3)) for name in ("a.jsonl", "b.jsonl")]
    assert [(block.number, block.path, block.first) for block in plan(files, 2)] == [
        (0, str(files[0]), 1),
        (1, str(files[0]), 3),
        (2, str(files[1]), 1),
        (3, str(files[1]), 3),
    ]


def test_a_folder_gives_its_visible_files_by_name(tmp_path):
    for name in ("b.jsonl", "a.ndjson", "_job.json", ".c.jsonl", "README.md"):
        (tmp_path / name).touch()
    assert [file.name for file in input_files(tmp_path)] == ["a.ndjson", "b.jsonl"]
    assert input_files([tmp_path / "b.jsonl", str(tmp_path / "a.ndjson")]) == [
        tmp_path / "b.jsonl",
        tmp_path / "a.ndjson",
    ]


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (["a.jsonl", "a.parquet"], ValueError, "of one format, got jsonl and parquet"),
        (["a.jsonl", "a.jsonl"], ValueError, r"each input file once, got .*a\.jsonl twice"),
        (["a.csv"], ValueError, r"ends in \.parquet, .*got .*a\.csv"),
        (["nowhere.jsonl"], FileNotFoundError, r"nowhere\.jsonl, which is not there"),
        (["empty"], FileNotFoundError, "in .*empty, found none"),
        ([], ValueError, "at least one input file"),
    ],
)
def test_inputs_that_are_none(tmp_path, names, error, message):
    for name in ("a.jsonl", "a.parquet", "a.csv"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=message):
        input_files([tmp_path / name for name in names])


def test_a_file_that_is_not_parquet_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"no such thing, of more than a few bytes")
    with pytest.raises(ValueError, match=r"a\.parquet: expected a Parquet file"):
        plan([tmp_path / "a.parquet"], 2)
