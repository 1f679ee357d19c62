"""Which rows go into which block, and one block after the other, without Ray."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pytest
import torch
from langchain_core.cross_encoders import BaseCrossEncoder
from pyarrow import parquet

from langchain_rerank import (
    ModelLoadError,
    OnnxCrossEncoder,
    Reranker,
    ScoringError,
    TorchCrossEncoder,
)
from langchain_rerank.bulk.blocks import Block, BlockScorer, Columns, input_files, plan
from langchain_rerank.cores import keep_to_cores
from tests.bulk.conftest import (
    assert_ranked_as_by,
    make_rows,
    read_output,
    write_lines,
    write_parquet,
)
from tests.fakes import WordOverlapCrossEncoder

FAKE = WordOverlapCrossEncoder()


def test_every_line_is_in_one_block_of_one_file(tmp_path):
    one, other = (write_lines(tmp_path / name, make_rows(7)) for name in ("a.jsonl", "b.jsonl"))
    other.write_bytes(b"{}\n{}\n{}")  # no end of the last line
    size = [len(line) for line in one.read_bytes().splitlines(keepends=True)]
    blocks = plan([one, other, write_lines(tmp_path / "empty.jsonl", [])], 3)
    assert blocks == [
        Block(0, str(one), 1, 3, -1, 0),
        Block(1, str(one), 4, 3, -1, sum(size[:3])),
        Block(2, str(one), 7, 1, -1, sum(size[:6])),
        Block(3, str(other), 1, 3, -1, 0),
    ]


def test_row_groups_are_cut_and_never_crossed(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", make_rows(12))
    empty = write_parquet(tmp_path / "empty.parquet", make_rows(3)[:0])
    found = [(one.first, one.rows, one.group, one.start) for one in plan([file, empty], 3)]
    assert found == [(1, 3, 0, 0), (4, 2, 0, 3), (6, 3, 1, 0), (9, 2, 1, 3), (11, 2, 2, 0)]


def test_a_folder_gives_its_visible_files_by_name(tmp_path):
    for name in ("b.jsonl", "a.ndjson", "_job.json", ".c.jsonl", "README.md"):
        (tmp_path / name).touch()
    assert [file.name for file in input_files(tmp_path)] == ["a.ndjson", "b.jsonl"]
    both = [tmp_path / "b.jsonl", tmp_path / "a.ndjson"]
    assert input_files([both[0], str(both[1])]) == both


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (["a.jsonl", "a.parquet"], ValueError, "of one format, JSON lines or Parquet, got 2"),
        ([], ValueError, "of one format, JSON lines or Parquet, got 0"),
        (["a.jsonl", "a.jsonl"], ValueError, r"each input file once, got .*a\.jsonl twice"),
        (["a.csv"], ValueError, r"end in \.parquet, .*got .*a\.csv"),
        (["nowhere.jsonl"], FileNotFoundError, r"none is at .*nowhere\.jsonl"),
        (["empty"], FileNotFoundError, "none is at .*empty"),
        (["a.parquet"], ValueError, r"a\.parquet: expected a Parquet file"),
    ],
)
def test_inputs_that_are_none(tmp_path, names, error, message):
    for name in ("a.jsonl", "a.parquet", "a.csv"):
        (tmp_path / name).write_bytes(b"no such thing, of more than a few bytes")
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=message):
        plan(input_files([tmp_path / name for name in names]), 2)


class Scores(BaseCrossEncoder):
    """Gives scores that were decided before."""

    def __init__(self, *scores: float) -> None:
        self._scores = scores

    def score(self, text_pairs):
        return list(self._scores[: len(text_pairs)])


def run(file, cross_encoder=FAKE, *, block_rows=4, top_n=None, columns=Columns()):  # noqa: B008  # frozen
    """Score all blocks of a file into out/ beside it; gives rows and pairs of each."""
    (out := file.parent / "out").mkdir(exist_ok=True)
    scorer = BlockScorer(out, cross_encoder, columns, top_n, 1)
    return [scorer.score(block) for block in plan([file], block_rows)]


@pytest.fixture(params=["jsonl", "parquet"])
def write(request, tmp_path):
    """Writes rows as a file of either format."""
    writer = write_lines if request.param == "jsonl" else write_parquet
    return lambda rows: writer(tmp_path / f"in.{request.param}", rows)


def test_same_ranking_as_the_reranker_in_one_pass_a_block(tmp_path, write):
    rows, model = make_rows(23), WordOverlapCrossEncoder()
    reports = run(write(rows), model, block_rows=5, top_n=3)
    assert [sum(part) for part in zip(*reports, strict=True)] == [23, 55]
    assert [len(call) for call in model.calls] == [one[1] for one in reports]
    found = read_output(tmp_path / "out")
    assert_ranked_as_by(Reranker(model=FAKE, top_n=3, deduplicate=False), found)
    assert [{k: row[k] for k in ("id", "query", "documents")} for row in found] == rows


def test_ties_keep_their_order_and_nan_goes_last(tmp_path, write):
    row = {"query": "q", "documents": ["a", "b", "c", "d"]}
    run(write([row]), Scores(math.nan, 0.5, 0.25, 0.5))
    (found,) = read_output(tmp_path / "out")
    assert [one["index"] for one in found["results"]] == [1, 3, 2, 0]
    last = found["results"][-1]["relevance_score"]
    assert last is None or math.isnan(last)


def test_odd_texts_are_scored_and_a_model_that_fails_leaves_no_file(tmp_path, tiny):
    odd = ["", "x\ud83d lone surrogate", "👩‍👩‍👧 and \x00", "w " * 999]
    file = write_lines(
        tmp_path / "in.jsonl", [{"query": one or "q", "documents": odd} for one in odd]
    )
    for model, error, message in (
        (Scores(1.0), ScoringError, "Scores gave 1 scores for 16 pairs"),
        (OnnxCrossEncoder(model="/nowhere/at/all"), ModelLoadError, "/nowhere/at/all"),
    ):
        with pytest.raises(error, match=message):
            run(file, model)
        assert list((tmp_path / "out").iterdir()) == []
    assert run(file, tiny) == [(4, 16)]
    assert {len(row["results"]) for row in read_output(tmp_path / "out")} == {4}


def test_documents_that_are_objects_and_columns_of_other_names(tmp_path, write):
    row = {"q": "dog", "c": [{"body": "cat"}, {"body": "dog"}], "results": 3}
    run(write([row]), columns=Columns("q", "c", "body", "ranked"))
    ranked = [{"index": 1, "relevance_score": 1.0}, {"index": 0, "relevance_score": 0.0}]
    assert read_output(tmp_path / "out") == [{**row, "ranked": ranked}]


def test_a_json_row_keeps_its_own_text_and_a_part_that_is_there_is_left_alone(tmp_path):
    line = (
        '{ "n": 1.10, "big": 123456789012345678901234567890, '
        '"query": "dog\\ud83d",  "documents": ["dög"] }'
    )
    file = tmp_path / "in.jsonl"
    file.write_text(f"\ufeff{line}\n\n  \n{line}", encoding="utf-8")
    assert run(file) == [(2, 2)]
    part = tmp_path / "out" / "part-00000000.jsonl"
    result = ', "results": [{"index": 0, "relevance_score": 0.0}]}'
    assert part.read_text(encoding="utf-8").splitlines() == [line[:-1] + result] * 2
    before = part.stat().st_mtime_ns
    assert (run(file), part.stat().st_mtime_ns) == ([(0, 0)], before)


def test_parquet_columns_keep_their_types(tmp_path):
    kinds = {
        "when": pa.timestamp("us", "UTC"),
        "price": pa.decimal128(10, 2),
        "kind": pa.dictionary(pa.int8(), pa.string()),
        "none": pa.int16(),
        "query": pa.large_string(),
        "documents": pa.large_list(pa.string()),
    }
    schema = pa.schema(kinds, metadata={"source": "a shop"})
    row = (datetime(2026, 1, 2, tzinfo=UTC), Decimal("1.50"), "a", None, "q", ["q", "p"])
    table = pa.Table.from_pylist([dict(zip(kinds, row, strict=True))] * 3, schema)
    parquet.write_table(table, tmp_path / "in.parquet")
    run(tmp_path / "in.parquet", block_rows=2)
    found = parquet.read_table(tmp_path / "out")
    assert found.drop_columns(["results"]).equals(table)
    assert found.schema.remove(6).equals(schema)
    assert found.schema.metadata == schema.metadata


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"query": "q", "documents": [', "Expecting value"),
        ("[1]", r"expected a JSON object, got \[1\]"),
        ('{"query": "q", "documents": ' + "[" * 100_000, "maximum recursion depth"),
        ('{"query": "\udcff", "documents": []}', "'utf-8' codec can't decode byte 0xff"),
        ('{"query": "q"}', r"expected a column 'documents', got \['query'\]"),
        ('{"query": " ", "documents": []}', "expected a text in column 'query', got ' '"),
        ('{"query": 3, "documents": []}', "expected a text in column 'query', got 3"),
        ('{"query": "q", "documents": "d"}', "expected a list in column 'documents', got 'd'"),
        ('{"query": "q", "documents": ["a", null]}', ".* 'documents', document 1, got None"),
        (
            '{"query": "q", "documents": [{"txt": "a"}]}',
            ".* object with one as 'text', in column 'documents', document 0, got {'txt': 'a'}",
        ),
        ('{"query": "q", "documents": [], "results": []}', "expected no column 'results'.*, got"),
    ],
    ids=lambda value: value[:20],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    file = tmp_path / "in.jsonl"
    text = '{"query": "q", "documents": ["d"]}\n\n' + line + "\n"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=rf"/in\.jsonl, line 3: {message}"):
        run(file)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_bad_row_of_parquet_and_a_damaged_file_are_named(tmp_path):
    rows = [*make_rows(7), {"id": 7, "query": None, "documents": ["d"]}]
    file = write_parquet(tmp_path / "in.parquet", rows)
    with pytest.raises(ValueError, match=r"in\.parquet, row 8: expected a text in .*, got None"):
        run(file, block_rows=2)
    assert len(list((tmp_path / "out").iterdir())) == 4
    (block,) = plan([write_parquet(file, make_rows(200), 1000)], 1000)
    content = file.read_bytes()
    file.write_bytes(content[:100] + b"\xff" * 300 + content[400:])
    with pytest.raises(ValueError, match=r"in\.parquet, row 1: "):
        BlockScorer(tmp_path, FAKE, Columns(), None, 1).score(block)


def test_a_model_keeps_to_the_cores_of_its_actor(tiny_checkpoint):
    before = torch.get_num_threads()
    try:
        keep_to_cores(TorchCrossEncoder(model=tiny_checkpoint), 3)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    for given, kept in ((None, before), (1, 1)):
        onnx = OnnxCrossEncoder(model=tiny_checkpoint, num_threads=given)
        assert keep_to_cores(onnx, before).num_threads == kept
    assert keep_to_cores(FAKE, 3) is FAKE
