"""What a reader gets: data frames, Markdown, HTML, JSON, and the queries that got worse."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda

from langchain_rerank import Reranker
from langchain_rerank.evaluation import Dataset, Report, RerankedRun, evaluate
from tests.fakes import WordOverlapCrossEncoder

CORPUS = {
    key: Document(text, id=key)
    for key, text in {
        "a": "red fish",
        "b": "blue fish | <b>bold</b>",
        "c": "red bird",
        "d": "a fish that is red all over",
    }.items()
}
DATASET = Dataset(
    {"hurt": "red bird", "same": "blue fish", "more": "red fish"},
    {"same": {"b": 1}, "hurt": {"a": 2, "c": 0}, "more": {"d": 1, "a": 1}},
    CORPUS,
    name="toy <1>",
)
RUN = {
    "hurt": {"a": 3.0, "b": 2.0, "c": 1.0},
    "same": {"b": 2.0, "c": 1.0},
    "more": {"b": 2.0, "a": 1.0},
}
NAME = "re|ranked <b>"


@pytest.fixture(scope="module")
def report():
    reranker = Reranker(model=WordOverlapCrossEncoder())
    systems = {
        "run": RUN,
        NAME: RerankedRun(RUN, reranker),
        "all": RunnableLambda(lambda query: [CORPUS[key] for key in "dcba"]),
    }
    return evaluate(systems, DATASET, ["nDCG@3", "RR"], show_progress=False)


def test_data_frame_has_a_row_for_each_system(report):
    frame = report.to_dataframe()

    assert list(frame.index) == ["run", NAME, "all"]
    summary = report.systems[NAME].summaries["nDCG@3"]
    row = frame.loc[NAME]
    assert row["nDCG@3"] == summary.mean
    assert row["nDCG@3 low"] == summary.interval.low
    assert row["nDCG@3 high"] == summary.interval.high
    assert row["nDCG@3 difference"] == summary.difference
    assert row["nDCG@3 difference low"] == summary.difference_interval.low
    assert row["nDCG@3 difference high"] == summary.difference_interval.high
    assert row["nDCG@3 p"] == summary.p_value
    assert row["candidate recall"] == report.systems[NAME].candidate_recall == pytest.approx(5 / 6)
    seconds = report.systems[NAME].seconds["reranking"]
    assert row["reranking p50 ms"] == pytest.approx(1000 * np.median(seconds))
    assert row["reranking p95 ms"] == pytest.approx(1000 * np.percentile(seconds, 95))
    assert np.isnan(frame.loc["run", "nDCG@3 difference"])
    assert np.isnan(frame.loc["run", "total p50 ms"])


def test_per_query_frame_pivots_to_the_values(report):
    frame = report.per_query()
    wide = frame.pivot_table(index="query_id", columns=["system", "measure"], values="value")
    assert len(frame) == 3 * 2 * 3
    assert wide[("run", "RR")].to_dict() == {"hurt": 1.0, "same": 1.0, "more": 0.5}
    assert wide[(NAME, "RR")].to_dict() == {"hurt": 0.5, "same": 1.0, "more": 1.0}


def test_markdown_tables_are_whole_and_escaped(report):
    text = report.to_markdown()

    rows = [line for line in text.splitlines() if line.startswith("|")]
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 3
    for block in tables:
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(cells) == 1
    assert len(rows) == (3 + 2) + (2 + 2) + (3 + 2)
    mean, interval = (
        getattr(report.systems["run"].summaries["RR"], n) for n in ("mean", "interval")
    )
    assert f"{mean:.4f} [{interval.low:.4f}, {interval.high:.4f}]" in text
    summary = report.systems[NAME].summaries["nDCG@3"]
    assert f"{summary.difference:+.4f}" in text
    assert f"p = {summary.p_value:.3f}" in text
    assert "re\\|ranked" in text
    assert "3 queries" in text
    assert "| run | 2 | 0.8333 |" in text


def test_html_shows_the_same_escaped(report):
    html = report._repr_html_()
    assert html.count("<table") == 3
    assert "re|ranked &lt;b&gt;" in html
    assert "toy &lt;1&gt;" in html
    assert "<b>" not in html
    assert f"{report.systems['run'].summaries['RR'].mean:.4f} [" in html


def test_repr_is_one_line_without_the_rankings(report):
    assert repr(report) == (
        "Report(dataset='toy <1>', queries=3, systems=['run', 're|ranked <b>', 'all'], "
        "measures=['nDCG@3', 'RR'])"
    )


def test_notes_are_shown():
    report = evaluate({"run": RUN}, DATASET, ["P@3"], min_relevance=2, show_progress=False)
    note = "2 of 3 queries have no document of grade 2 or above"
    assert f"- {note}" in report.to_markdown()
    assert f"<p>{note}" in report._repr_html_()
    assert "Difference" not in report.to_markdown()


@pytest.mark.parametrize(
    ("confidence", "shown"), [(0.9, "90%"), (0.95, "95%"), (0.975, "97.5%"), (0.999, "99.9%")]
)
def test_confidence_is_not_rounded_to_certainty(confidence, shown):
    report = evaluate({"run": RUN}, DATASET, ["RR"], confidence=confidence, show_progress=False)
    assert f"with {shown} bootstrap intervals" in report.to_markdown()


def test_small_p_is_not_shown_as_0():
    queries = {f"q{number}": "red bird" for number in range(30)}
    dataset = Dataset(queries, {query: {"a": 1} for query in queries}, CORPUS)
    systems = {
        "bad": {query: {"c": 2.0, "a": 1.0} for query in queries},
        "good": {query: {"a": 2.0, "c": 1.0} for query in queries},
    }
    report = evaluate(systems, dataset, ["RR"], show_progress=False)
    assert "+0.5000 [+0.5000, +0.5000], p < 0.001" in report.to_markdown()


def test_json_gives_the_same_report_back(report):
    back = Report.from_json(report.to_json())
    assert back == report
    assert back.to_markdown() == report.to_markdown()
    assert back.systems[NAME].run() == report.systems[NAME].run()


def test_json_keeps_infinite_scores_and_replaces_lone_surrogates():
    dataset = Dataset({"q": "red \ud800"}, {"q": {"a": 1}}, {"a": Document("\udfff é", id="a")})
    run = {"q": {"a": math.inf}}
    report = evaluate({"run": run}, dataset, ["RR"], show_progress=False)

    text = report.to_json()

    assert text.encode()
    assert json.loads(text, parse_constant=pytest.fail)
    back = Report.from_json(text)
    assert back.systems == report.systems
    assert back.queries == {"q": "red \ufffd"}
    assert back.texts == {"a": "\ufffd é"}
    assert back.to_json() == text


@pytest.mark.parametrize("text", ["", "{}", '{"dataset": 1}', "[]"])
def test_other_json_is_refused(text):
    with pytest.raises(ValueError, match=r"Report|JSON"):
        Report.from_json(text)


def test_moves_are_the_ranks_that_changed(report):
    moves = {move.id: move for move in report.moves("hurt", NAME)}
    # "red bird" holds both words, "red fish" one, "blue fish" none.
    assert list(moves) == ["c", "a", "b"]
    ranks = [(move.old_rank, move.new_rank, move.grade) for move in moves.values()]
    assert ranks == [(3, 1, 0), (1, 2, 2), (2, 3, None)]
    assert moves["a"].text == "red fish"
    assert report.moves("same", NAME) == []


def test_moves_into_and_out_of_a_ranking(report):
    moves = report.moves("same", "all")
    ranks = {move.id: (move.old_rank, move.new_rank) for move in moves}
    assert ranks == {"d": (None, 1), "b": (1, 3), "a": (None, 4)}
    back = Report.from_json(report.to_json())
    turned = {"all": back.systems["all"], "run": back.systems["run"]}
    moves = Report(back.dataset, back.queries, back.qrels, turned, back.settings).moves("same")
    ranks = [(move.id, move.old_rank, move.new_rank, move.text) for move in moves]
    assert ranks == [("b", 3, 1, ""), ("d", 1, None, ""), ("a", 4, None, "")]


def test_documents_that_stay_are_listed_where_wanted(report):
    moves = report.moves("more", "all", unmoved=True)
    ranks = [(move.id, move.old_rank, move.new_rank) for move in moves]
    assert ranks == [("d", None, 1), ("c", None, 2), ("b", 1, 3), ("a", 2, 4)]
    stayed = {move.id for move in report.moves("same", NAME, unmoved=True)}
    assert stayed == {"b", "c"}


def test_worst_queries_are_those_that_lost(report):
    frame = report.worst_queries(measure="RR")
    assert list(frame["query_id"].unique()) == ["hurt"]
    assert list(frame["document_id"]) == ["c", "a", "b"]
    assert list(frame["old_rank"]) == [3, 1, 2]
    assert list(frame["new_rank"]) == [1, 2, 3]
    assert list(frame["grade"].astype(object).where(frame["grade"].notna(), None)) == [0, 2, None]
    assert set(zip(frame["before"], frame["after"], strict=True)) == {(1.0, 0.5)}
    assert frame["text"][0] == "red bird"


def test_the_query_that_lost_most_comes_first(report):
    frame = report.worst_queries(system="all", measure="RR")
    lost = {
        query: report.systems["run"].per_query["RR"][query]
        - report.systems["all"].per_query["RR"][query]
        for query in DATASET.queries
    }
    expected = sorted((query for query in lost if lost[query] > 0), key=lost.get, reverse=True)
    assert len(expected) > 1
    assert list(frame["query_id"].unique()) == expected
    assert list(report.worst_queries(1, system="all", measure="RR")["query_id"].unique()) == [
        expected[0]
    ]


def test_nothing_lost_gives_no_rows():
    systems = {"run": RUN, "same": dict(RUN)}
    frame = evaluate(systems, DATASET, ["RR"], show_progress=False).worst_queries()
    assert len(frame) == 0
    assert "old_rank" in frame.columns


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda report: report.worst_queries(measure="P@5"), "no measure 'P@5'.*nDCG@3, RR"),
        (lambda report: report.worst_queries(system="run"), "compare with 'run'.*got 'run'"),
        (lambda report: report.moves("hurt", "nope"), "got 'nope'"),
        (lambda report: report.moves("nope"), "no query 'nope'.*such as 'same', 'hurt'"),
        (lambda report: report.moves("hurt", depth=0), "depth must be a positive int, got 0"),
        (lambda report: report.worst_queries(-1), "n must be a positive int, got -1"),
        (lambda report: report.worst_queries(depth=-1), "depth must be a positive int, got -1"),
    ],
)
def test_what_is_not_in_the_report_is_named(call, message, report):
    with pytest.raises(ValueError, match=message):
        call(report)
