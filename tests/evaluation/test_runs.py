"""Runs: TREC files in and out, and an order that every tool agrees on."""

from __future__ import annotations

import math
from ctypes import c_float

import ir_measures
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_rerank.evaluation.runs import falling_scores, ranking, read_run, write_run

words = st.text(min_size=1).filter(lambda text: text.split() == [text]).filter(str.isprintable)
scores = st.floats(allow_nan=False)
# Few values, some of which differ only beyond single precision: ties are the rule.
tied_scores = st.sampled_from([1.0, 1.0 + 1e-12, 1.0 - 1e-12, 0.5, -2.0, math.inf])
LINE = "q1 Q0 d1 1 2.5 tag\n"


def reciprocal_ranks(measure, run):
    """1 / rank of each document, as ir_measures finds it: a query for each relevant document."""
    qrels = {doc_id: {doc_id: 1} for doc_id in run}
    values = ir_measures.iter_calc([measure], qrels, dict.fromkeys(qrels, run))
    return {value.query_id: value.value for value in values}


@given(
    run=st.dictionaries(words, st.dictionaries(words, scores, min_size=1), min_size=1), tag=words
)
def test_a_run_reads_back_as_it_was_written_best_first(run, tag, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run.trec"

    write_run(path, run, tag=tag)

    back = read_run(path)
    assert back == run
    assert list(back) == list(run)
    assert [list(results) for results in back.values()] == [ranking(run[query]) for query in run]


def test_the_file_is_what_trec_eval_and_ir_measures_read(tmp_path):
    path = tmp_path / "run.trec"

    write_run(path, {"q2": {"low": -1.0, "high": 0.1 + 0.2}, "none": {}, "q1": {"only": 3}})

    assert path.read_text(encoding="utf-8") == (
        "q2 Q0 high 1 0.30000000000000004 langchain_rerank\n"
        "q2 Q0 low 2 -1.0 langchain_rerank\n"
        "q1 Q0 only 1 3.0 langchain_rerank\n"
    )


@given(st.dictionaries(words, tied_scores, min_size=1))
def test_ranking_is_the_order_of_trec_eval_on_ties(run):
    expected = reciprocal_ranks(ir_measures.RR, run)

    for rank, doc_id in enumerate(ranking(run), start=1):
        assert expected[doc_id] == pytest.approx(1 / rank)


@given(st.dictionaries(words, st.floats() | tied_scores, min_size=1, max_size=8))
def test_falling_scores_are_one_order_to_every_tool(scored):
    run = falling_scores(list(scored), list(scored.values()))

    expected = {doc_id: pytest.approx(1 / rank) for rank, doc_id in enumerate(scored, start=1)}
    assert list(run) == list(scored)
    assert reciprocal_ranks(ir_measures.RR, run) == expected  # trec_eval's
    assert reciprocal_ranks(ir_measures.RR @ 100, run) == expected  # MS MARCO's script


def test_falling_scores_keep_what_falls_and_count_down_without_usable_scores():
    run = falling_scores(["a", "b", "c", "d"], [0.9, 0.7, 0.7, 0.1])

    assert [run["a"], run["b"], run["d"]] == [0.9, 0.7, 0.1]
    assert run["c"] == pytest.approx(0.7, abs=1e-7)
    assert c_float(run["c"]).value < c_float(0.7).value
    assert falling_scores(["b", "a"]) == {"b": 2.0, "a": 1.0}
    assert falling_scores(["b", "a"], [0.5, math.nan]) == {"b": 2.0, "a": 1.0}
    assert falling_scores([]) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LINE + "q1 Q0 d2 2 1.5\n", "line 2: expected the 6 columns.* got 'q1 Q0 d2"),
        (LINE + "\nq1 Q0 d2 2 high tag\n", "line 3: .*a number as score, got 'q1 Q0 d2 2 high"),
        (LINE + "q1 Q0 d2 2 nan tag\n", "line 2: expected a number as score, got NaN"),
        (LINE + "q2 Q0 d1 1 1 tag\n" + LINE, "line 3: document 'd1' stands twice.* query 'q1'"),
        ("\n \n", "without a result"),
        (b"\xff\xfe bad\n", "line 1: expected UTF-8"),
        (b"q Q0 \xed\xa0\x80 1 1.0 t", "line 1: expected UTF-8"),
        (b"q Q0 d 1 \0 t", "line 1: expected the 6 columns"),
    ],
)
def test_bad_lines_are_named(tmp_path, content, message):
    path = tmp_path / "bad.trec"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(ValueError, match=message) as error:
        read_run(path)

    assert str(path) in str(error.value)


def test_windows_line_ends_tabs_and_odd_ids_are_read(tmp_path):
    path = tmp_path / "run.trec"
    path.write_bytes(b"\xef\xbb\xbfq1\tQ0\tx\0a\t1\t2.5\ttag\r\nq1 Q0 x\0b 2 inf t\n")

    assert read_run(path) == {"q1": {"x\0b": math.inf, "x\0a": 2.5}}


@pytest.mark.parametrize(
    ("run", "tag", "message"),
    [
        ({"q": {"ok": 2.0, "two words": 1.0}}, "t", "document id of one word.*'two words'"),
        ({"q": {"ok": 1.0}, "": {"d": 1.0}}, "t", "query id of one word"),
        ({"q": {"\ud800": 1.0}}, "t", "document id of one word of UTF-8"),
        ({"q": {"ok": 1.0}}, "a\u00a0b", "tag of one word"),
        ({"q": {"ok": 1.0, "bad": math.nan}}, "t", "query 'q': .*document 'bad', got NaN"),
    ],
)
def test_what_the_format_can_not_carry_leaves_the_old_file(tmp_path, run, tag, message):
    path = tmp_path / "run.trec"
    path.write_text(LINE)

    with pytest.raises(ValueError, match=message):
        write_run(path, run, tag=tag)

    assert path.read_text() == LINE
    assert list(tmp_path.iterdir()) == [path]
