"""One block after the other, without Ray."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest
import torch
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document

from langchain_rerank import ModelLoadError, OnnxCrossEncoder, Reranker, TorchCrossEncoder
from langchain_rerank.bulk.blocks import BlockScorer, Columns, plan
from langchain_rerank.cores import keep_to_cores
from tests.bulk.conftest import SENTENCES, make_rows, read_output, write_lines, write_parquet
from tests.fakes import WordOverlapCrossEncoder


class Scores(BaseCrossEncoder):
    """Gives scores that were decided before."""

    def __init__(self, *scores: float) -> None:
        self._scores = scores

    def score(self, text_pairs):
        return list(self._scores[: len(text_pairs)])


def run(file, cross_encoder=None, *, block_rows=4, top_n=None, columns=None):
    """Score all blocks of a file into out/ beside it; gives the reports."""
    scorer = BlockScorer(cross_encoder or WordOverlapCrossEncoder(), columns or Columns(), top_n, 1)
    (file.parent / "out").mkdir(exist_ok=True)
    return [
        scorer(
            {
                **asdict(block),
                "part": str(file.parent / "out" / f"part-{block.number}{file.suffix}"),
            }
        )
        for block in plan([file], block_rows)
    ]


def failure(file, cross_encoder=None, **settings):
    """The one error of a file, of which no part was written."""
    (report,) = run(file, cross_encoder, **settings)
    assert list((file.parent / "out").iterdir()) == []
    return report["error"], report["message"]


def test_same_ranking_as_the_reranker(tmp_path, write):
    rows = make_rows(23)
    file = write(tmp_path, rows)
    reports = run(file, top_n=3)
    reranker = Reranker(model=WordOverlapCrossEncoder(), top_n=3, deduplicate=False)
    found = read_output(tmp_path / "out")
    assert [{k: row[k] for k in ("id", "query", "documents")} for row in found] == rows
    for row in found:
        kept = reranker.compress_documents([Document(t) for t in row["documents"]], row["query"])
        assert row["results"] == [
            {
                "index": one.metadata["retrieval_rank"] - 1,
                "relevance_score": one.metadata["relevance_score"],
            }
            for one in kept
        ]
    assert [report["error"] for report in reports] == [""] * len(reports)
    assert sum(report["rows"] for report in reports) == 23
    assert sum(report["pairs"] for report in reports) == sum(len(r["documents"]) for r in rows)


def test_a_block_is_scored_in_one_pass(tmp_path):
    fake = WordOverlapCrossEncoder()
    run(write_lines(tmp_path / "in.jsonl", make_rows(12)), fake, block_rows=6)
    assert [len(call) for call in fake.calls] == [15, 15]


def test_ties_keep_their_order_and_nan_goes_last(tmp_path, write):
    row = {"query": "q", "documents": ["a", "b", "c", "d"]}
    run(write(tmp_path, [row]), Scores(math.nan, 0.5, 0.25, 0.5))
    (found,) = read_output(tmp_path / "out")
    assert [one["index"] for one in found["results"]] == [1, 3, 2, 0]
    last = found["results"][-1]["relevance_score"]
    assert last is None or math.isnan(last)


def test_documents_that_are_objects_and_columns_of_other_names(tmp_path, write):
    row = {"q": "dog", "c": [{"body": "cat"}, {"body": "dog"}], "results": 3}
    run(write(tmp_path, [row]), columns=Columns("q", "c", "body", "ranked"))
    ranked = [{"index": 1, "relevance_score": 1.0}, {"index": 0, "relevance_score": 0.0}]
    assert read_output(tmp_path / "out") == [{**row, "ranked": ranked}]


def test_a_json_row_keeps_its_own_text(tmp_path):
    line = (
        '{ "n": 1.10, "big": 123456789012345678901234567890, '
        '"query": "dog\\ud83d",  "documents": ["dög"] }'
    )
    (tmp_path / "in.jsonl").write_text(f"\ufeff{line}\n\n  \n{line}", encoding="utf-8")
    (report,) = run(tmp_path / "in.jsonl")
    assert report["rows"] == 2
    out = (tmp_path / "out" / "part-0.jsonl").read_text(encoding="utf-8").splitlines()
    assert out == [line[:-1] + ', "results": [{"index": 0, "relevance_score": 0.0}]}'] * 2


def test_parquet_columns_keep_their_types(tmp_path):
    from datetime import UTC, datetime
    from decimal import Decimal

    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema(
        [
            ("when", pa.timestamp("us", "UTC")),
            ("price", pa.decimal128(10, 2)),
            ("kind", pa.dictionary(pa.int8(), pa.string())),
            ("none", pa.int16()),
            ("query", pa.large_string()),
            ("documents", pa.large_list(pa.string())),
        ],
        metadata={"source": "a shop"},
    )
    row = (datetime(2026, 1, 2, tzinfo=UTC), Decimal("1.50"), "a", None, "q", ["q", "p"])
    table = pa.Table.from_pylist([dict(zip(schema.names, row, strict=True))] * 3, schema)
    parquet.write_table(table, tmp_path / "in.parquet")
    assert [report["message"] for report in run(tmp_path / "in.parquet", block_rows=2)] == [""] * 2
    found = parquet.read_table(tmp_path / "out")
    assert found.drop_columns(["results"]).equals(table)
    assert found.schema.remove(6).equals(schema)
    assert found.schema.metadata == schema.metadata


def test_odd_texts_are_scored(tmp_path, tiny):
    rows = [{"query": text or "q", "documents": list(SENTENCES)} for text in SENTENCES]
    (report,) = run(write_lines(tmp_path / "in.jsonl", rows), tiny, block_rows=10)
    assert report["error"] == ""
    assert all(len(row["results"]) == 6 for row in read_output(tmp_path / "out"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"query": "q", "documents": [', "line 3: expected a JSON object in UTF-8: "),
        ("[1]", "line 3: expected a JSON object, got list"),
        ("[" * 100_000, "line 3: expected a JSON object in UTF-8: maximum recursion depth"),
        (
            '{"query": "q", "documents": ' + "[" * 100_000,
            "line 3: expected a JSON object in UTF-8: ",
        ),
        (
            '{"query": 0.5, "documents": []}',
            "line 3, column 'query': query must be a str, got float",
        ),
        (
            '{"query": "q", "documents": [1.5]}',
            "line 3, column 'documents', document 0: expected a text, got float",
        ),
        ('{"query": "q", "documents": ["a\x00"]}', "line 3: expected a JSON object in UTF-8: "),
        ("null", "line 3: expected a JSON object, got null"),
        ('{"query": "q"}', "line 3: expected a column 'documents', found query"),
        ('{"documents": []}', "line 3: expected a column 'query', found documents"),
        ('{"query": " ", "documents": []}', "line 3, column 'query': query must hold text, got"),
        ('{"query": 3, "documents": []}', "line 3, column 'query': query must be a str, got int"),
        (
            '{"query": "q", "documents": "d"}',
            "line 3, column 'documents': expected a list, got str",
        ),
        (
            '{"query": "q", "documents": ["a", null]}',
            "line 3, column 'documents', document 1: expected a text, got null",
        ),
        (
            '{"query": "q", "documents": [{"txt": "a"}]}',
            "line 3, column 'documents', document 0, field 'text': expected a text, got null",
        ),
        (
            '{"query": "q", "documents": [], "results": []}',
            "line 3: the column 'results', which is to be added, is there already",
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    file = tmp_path / "in.jsonl"
    file.write_text('{"query": "q", "documents": ["d"]}\n\n' + line + "\n", encoding="utf-8")
    kind, said = failure(file)
    assert kind == "ValueError"
    assert said.startswith(f"{file}, {message}")


def test_a_line_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b'{"query": "\xff", "documents": []}\n')
    assert "line 1: expected a JSON object in UTF-8: " in failure(tmp_path / "in.jsonl")[1]


def test_a_bad_row_of_parquet_is_named_by_its_place_in_the_file(tmp_path):
    rows = [*make_rows(7), {"id": 7, "query": None, "documents": ["d"]}]
    file = write_parquet(tmp_path / "in.parquet", rows, row_group_size=5)
    *good, bad = run(file, block_rows=2)
    assert all(report["error"] == "" for report in good)
    assert bad["message"] == f"{file}, row 8, column 'query': query must be a str, got NoneType"


def test_damaged_parquet_is_named(tmp_path):
    file = write_parquet(tmp_path / "in.parquet", make_rows(200))
    blocks = plan([file], 1000)
    content = file.read_bytes()
    file.write_bytes(content[:100] + b"\xff" * 300 + content[400:])
    (tmp_path / "out").mkdir()
    scorer = BlockScorer(WordOverlapCrossEncoder(), Columns(), None, 1)
    report = scorer({**asdict(blocks[0]), "part": str(tmp_path / "out" / "part-0.parquet")})
    assert report["error"] == "ValueError"
    assert f"{file}, rows 1 to 200: can't be read: " in report["message"]


def test_failures_of_the_model_are_told(tmp_path):
    file = write_lines(tmp_path / "in.jsonl", make_rows(3))
    kind, said = failure(file, Scores(1.0))
    assert (kind, said) == ("ScoringError", "Scores gave 1 scores for 3 pairs")
    kind, said = failure(file, OnnxCrossEncoder(model="/nowhere/at/all"))
    assert kind == ModelLoadError.__name__
    assert "/nowhere/at/all" in said


def test_a_part_that_is_there_is_left_alone(tmp_path):
    file = write_lines(tmp_path / "in.jsonl", make_rows(3))
    run(file)
    part = tmp_path / "out" / "part-0.jsonl"
    before = part.stat().st_mtime_ns
    fake = WordOverlapCrossEncoder()
    (report,) = run(file, fake)
    assert (report["rows"], report["error"], fake.calls) == (0, "", [])
    assert part.stat().st_mtime_ns == before


def test_a_model_keeps_to_the_cores_of_its_actor(tiny_checkpoint, tmp_path):
    file = write_lines(tmp_path / "in.jsonl", make_rows(1))
    before = torch.get_num_threads()
    try:
        scorer = BlockScorer(TorchCrossEncoder(model=tiny_checkpoint), Columns(), None, 3)
        scorer({**asdict(plan([file], 5)[0]), "part": str(tmp_path / "part.jsonl")})
        assert torch.get_num_threads() == 3
        onnx = OnnxCrossEncoder(model=tiny_checkpoint)
        assert keep_to_cores(onnx, 3).num_threads == 3
        own = OnnxCrossEncoder(model=tiny_checkpoint, num_threads=1)
        assert keep_to_cores(own, 3).num_threads == 1
        fake = WordOverlapCrossEncoder()
        assert keep_to_cores(fake, 3) is fake
    finally:
        torch.set_num_threads(before)
