"""What a reader gets: words on top, data frames, Markdown, HTML, JSON, and what got worse."""

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
from langchain_rerank.evaluation.tables import questions_needed
from tests.evaluation.toy import QUIET
from tests.fakes import WordOverlapCrossEncoder

TEXTS = {
    "a": "red fish",
    "b": "blue fish | <b>bold</b>",
    "c": "red bird",
    "d": "a fish that is red all over",
}
CORPUS = {key: Document(text, id=key) for key, text in TEXTS.items()}
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
    systems = {
        "run": RUN,
        NAME: RerankedRun(RUN, Reranker(model=WordOverlapCrossEncoder())),
        "all": RunnableLambda(lambda query: [CORPUS[key] for key in "dcba"]),
    }
    return evaluate(systems, DATASET, ["nDCG@3", "RR"], show_progress=False)


def test_data_frame_has_a_row_for_each_system(report):
    frame = report.to_dataframe()

    assert list(frame.index) == ["run", NAME, "all"]
    found = report.systems[NAME].summaries["nDCG@3"]
    row = frame.loc[NAME]
    columns = ("", " low", " high", " difference", " difference low", " difference high", " p")
    expected = [found.mean, found.interval.low, found.interval.high, found.difference]
    expected += [found.difference_interval.low, found.difference_interval.high, found.p_value]
    assert [row[f"nDCG@3{column}"] for column in columns] == expected
    assert row["candidate recall"] == report.systems[NAME].candidate_recall == pytest.approx(5 / 6)
    seconds = report.systems[NAME].seconds["reranking"]
    assert row["reranking p50 ms"] == pytest.approx(1000 * np.median(seconds))
    assert row["reranking p95 ms"] == pytest.approx(1000 * np.percentile(seconds, 95))
    assert np.isnan(frame.loc["run", "nDCG@3 difference"])
    assert np.isnan(frame.loc["run", "total p50 ms"])


def test_markdown_tables_are_whole_and_escaped(report):
    text = report.to_markdown()

    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert [len(block.splitlines()) for block in tables] == [5, 4, 5]
    for block in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    found = report.systems["run"].summaries["RR"]
    assert f"{found.mean:.4f} [{found.interval.low:.4f}, {found.interval.high:.4f}]" in text
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
    assert repr(report) == (
        "Report(dataset='toy <1>', queries=3, systems=['run', 're|ranked <b>', 'all'], "
        "measures=['nDCG@3', 'RR'])"
    )


def test_notes_and_confidence_are_shown_as_they_are():
    for confidence, shown in ((0.95, "95%"), (0.975, "97.5%"), (0.999, "99.9%")):
        report = evaluate(
            {"run": RUN}, DATASET, ["P@3"], min_relevance=2, confidence=confidence, **QUIET
        )
        assert f"with {shown} bootstrap intervals" in report.to_markdown()
    note = "2 of 3 queries have no document of grade 2 or above"
    assert f"- {note}" in report.to_markdown()
    assert f"<p>{note}" in report._repr_html_()
    assert "Difference" not in report.to_markdown()


def both_ways(better, worse=0):
    """A report on queries of which some are better in "after", others worse."""
    queries = {f"q{number}": "red bird" for number in range(better + worse)}
    dataset = Dataset(queries, {query: {"a": 1} for query in queries}, CORPUS)
    low, high = {"c": 2.0, "a": 1.0}, {"a": 2.0, "c": 1.0}
    first = [low] * better + [high] * worse
    systems = {
        "before": dict(zip(queries, first, strict=True)),
        "after": {
            q: high if found is low else low for q, found in zip(queries, first, strict=True)
        },
    }
    return evaluate(systems, dataset, ["RR"], show_progress=False)


def test_the_first_words_say_whether_it_helps_and_what_to_do():
    helps = both_ways(30).to_markdown()
    assert helps.startswith("after helps: RR +0.5000 [+0.5000, +0.5000] over before.\n")
    assert "+0.5000 [+0.5000, +0.5000], p < 0.001" in helps
    hurts = both_ways(0, 30)._repr_html_()
    assert hurts.startswith("<div><p>after hurts: RR -0.5000 [-0.5000, -0.5000] against before.")
    assert "Keep before, let its order count for more (a first_stage_weight, which sweep()" in hurts
    unsure = both_ways(6, 4).to_markdown()
    assert unsure.startswith("No difference between after and before is shown: RR +0.1000 [-0.2")
    assert "About 210 questions would tell one of this size." in unsure


def test_questions_needed_are_those_of_a_test_with_a_power_of_four_fifths():
    rng = np.random.default_rng(0)
    sample = rng.normal(0.05, 0.2, 40)
    needed = questions_needed(sample.tolist())
    shift, spread = sample.mean(), sample.std(ddof=1)
    draws = rng.normal(shift, spread, (4000, needed))
    z = draws.mean(axis=1) / (draws.std(axis=1, ddof=1) / np.sqrt(needed))
    assert np.mean(abs(z) > 1.96) == pytest.approx(0.8, abs=0.05)
    assert questions_needed([0.1]) is questions_needed([0.0, 0.0]) is None


def test_the_cost_of_a_question_is_in_the_first_words(report):
    first = report.to_markdown().splitlines()[0]
    assert re.search(r"for \d+ ms of reranking a question \(p95 \d+ ms\) here\.", first)


def test_json_gives_the_same_report_back(report):
    back = Report.from_json(report.to_json())
    assert back == report
    assert back.to_markdown() == report.to_markdown()
    assert back.systems[NAME].run() == report.systems[NAME].run()
    for text in ("", "{}", '{"dataset": 1}', "[]"):
        with pytest.raises(ValueError, match=r"Report|JSON"):
            Report.from_json(text)


def test_json_keeps_infinite_scores_and_what_no_file_can_hold_is_written_apart():
    good, bad = "a\ud800", "a\ud801"
    corpus = {key: Document("\udfff é", id=key) for key in (good, bad)}
    dataset = Dataset({"q": "red \ud800"}, {"q": {good: 1, bad: 0}}, corpus, name="\ud800")
    systems = {"\ud800 run": {"q": {bad: math.inf, good: 1.0}}, "other": {}}
    report = evaluate(systems, dataset, ["RR"], **QUIET)

    text = report.to_json()

    assert text.encode()
    assert json.loads(text, parse_constant=pytest.fail)
    back = Report.from_json(text)
    assert list(back.qrels["q"]) == [r"a\ud800", r"a\ud801"]
    assert back.queries == {"q": "red \ufffd"}
    assert back.texts == {r"a\ud801": "\ufffd é", r"a\ud800": "\ufffd é"}
    assert back.systems[r"\ud800 run"].summaries == report.systems["\ud800 run"].summaries
    assert back.systems[r"\ud800 run"].rankings["q"][0].score == math.inf
    assert report.to_dataframe().index[0] == r"\ud800 run"
    assert report.worst_queries()["query"].tolist() == ["red \ufffd"]
    assert report._repr_html_().encode()


def test_moves_are_the_ranks_that_changed(report):
    # "red bird" holds both words, "red fish" one, "blue fish" none.
    moves = report.moves("hurt", NAME)
    found = [(move.id, move.old_rank, move.new_rank, move.grade) for move in moves]
    assert found == [("c", 3, 1, 0), ("a", 1, 2, 2), ("b", 2, 3, None)]
    assert moves[1].text == "red fish"
    assert report.moves("same", NAME) == []
    found = [(move.id, move.old_rank, move.new_rank) for move in report.moves("same", "all")]
    assert found == [("d", None, 1), ("b", 1, 3), ("a", None, 4)]
    moves = report.moves("more", "all", unmoved=True)
    found = [(move.id, move.old_rank, move.new_rank) for move in moves]
    assert found == [("d", None, 1), ("c", None, 2), ("b", 1, 3), ("a", 2, 4)]
    assert {move.id for move in report.moves("same", NAME, unmoved=True)} == {"b", "c"}


def test_documents_that_are_gone_come_last(report):
    turned = {name: report.systems[name] for name in ("all", "run")}
    moves = Report("", report.queries, report.qrels, turned, report.settings).moves("same")
    found = [(move.id, move.old_rank, move.new_rank, move.text) for move in moves]
    assert found == [("b", 3, 1, ""), ("d", 1, None, ""), ("a", 4, None, "")]


def test_worst_queries_are_those_that_lost_most_first(report):
    frame = report.worst_queries(measure="RR")
    assert frame.to_dict("records") == [
        {"query_id": "hurt", "query": "red bird", "before": 1.0, "after": 0.5}
    ]
    before, after = (report.systems[name].per_query["RR"] for name in ("run", "all"))
    lost = {query: before[query] - after[query] for query in DATASET.queries}
    expected = sorted((query for query in lost if lost[query] > 0), key=lost.get, reverse=True)
    assert len(expected) > 1
    assert report.worst_queries(system="all", measure="RR")["query_id"].tolist() == expected
    assert len(report.worst_queries(1, system="all", measure="RR")) == 1
    nothing = evaluate({"run": RUN, "same": dict(RUN)}, DATASET, ["RR"], **QUIET).worst_queries()
    assert (len(nothing), list(nothing)) == (0, ["query_id", "query", "before", "after"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda report: report.worst_queries(measure="P@5"), "no measure 'P@5'.*nDCG@3, RR"),
        (lambda report: report.worst_queries(system="run"), "compare with 'run'.*got 'run'"),
        (lambda report: report.moves("hurt", "nope"), "got 'nope'"),
        (lambda report: report.moves("nope"), "no query 'nope'.*such as 'same', 'hurt'"),
        (lambda report: report.moves("hurt", depth=0), "depth must be a positive int, got 0"),
        (lambda report: report.worst_queries(-1), "n must be a positive int, got -1"),
    ],
)
def test_what_is_not_in_the_report_is_named(call, message, report):
    with pytest.raises(ValueError, match=message):
        call(report)
