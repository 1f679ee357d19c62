"""What a reader gets: words on top, data frames, Markdown, HTML, JSON, and what got worse."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda

from langchain_rerank import Reranker
from langchain_rerank.evaluation import Dataset, Report, RerankedRun, evaluate
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
    numbers = ["", " low", " high", " difference", " difference low", " difference high", " p"]
    stages = [f"{stage} p{n} ms" for stage in ("reranking", "retrieval", "total") for n in (50, 95)]
    columns = [f"{measure}{one}" for measure in ("nDCG@3", "RR") for one in numbers]
    assert list(frame) == [*columns, "candidate recall", *stages]
    row, values = frame.loc[NAME], report.per_query.loc[NAME]
    assert row["RR"] == pytest.approx(values["RR"].mean())
    assert row["candidate recall"] == pytest.approx(5 / 6)
    assert row["reranking p50 ms"] == pytest.approx(1000 * np.median(values["reranking"]))
    assert row["reranking p95 ms"] == pytest.approx(1000 * np.percentile(values["reranking"], 95))
    assert np.isnan(frame.loc["run", ["nDCG@3 difference", "nDCG@3 p", "total p50 ms"]]).all()


def test_each_system_is_known_by_its_name(report):
    assert list(report.systems) == report.names == ["run", NAME, "all"]
    result = report.systems[NAME]
    assert result.summaries["RR"] == report.estimate(NAME, "RR")
    assert result.per_query["RR"] == report.per_query.loc[NAME, "RR"].to_dict()
    assert [one.id for one in result.rankings["hurt"]] == ["c", "a", "b"]
    assert result.rankings["hurt"][0].score == 1.0


def test_markdown_tables_are_whole_and_escaped(report):
    text = report.to_markdown()

    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert [len(block.splitlines()) for block in tables] == [5, 4, 5]
    for block in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    row = report.to_dataframe().loc[NAME]
    low, high = row["RR low"], row["RR high"]
    for said in (
        f"{row['RR']:.4f} [{low:.4f}, {high:.4f}]",
        f"{row['nDCG@3 difference']:+.4f}",
        f"p = {row['nDCG@3 p']:.3f}",
        "re\\|ranked",
        "3 queries",
        "| run | 2 | 0.8333 |",
    ):
        assert said in text
    cost = r"for \d+ ms of reranking a question \(p95 \d+ ms\) here\."
    assert re.search(cost, text.splitlines()[0])
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
        settings = {"min_relevance": 2, "confidence": confidence, **QUIET}
        report = evaluate({"run": RUN}, DATASET, ["P@3"], **settings)
        assert f"with {shown} bootstrap intervals" in report.to_markdown()
    note = "2 of 3 queries have no document of grade 2 or above"
    assert f"- {note}" in report.to_markdown()
    assert f"<p>{note}" in report._repr_html_()
    assert "Difference" not in report.to_markdown()


def both_ways(better, worse=0):
    """A report on queries of which some are better in "after", others worse."""
    dataset = Dataset.from_questions([("red bird", ["a"])] * (better + worse), CORPUS.values())
    low, high = {"c": 2.0, "a": 1.0}, {"a": 2.0, "c": 1.0}
    before, after = [low] * better + [high] * worse, [high] * better + [low] * worse
    systems = {"before": before, "after": after}
    runs = {name: dict(zip(dataset.queries, found, strict=True)) for name, found in systems.items()}
    return evaluate(runs, dataset, ["RR"], show_progress=False).to_markdown()


def test_the_first_words_say_whether_it_helps_and_what_to_do():
    helps, hurts, unsure = both_ways(30), both_ways(0, 30), both_ways(6, 4)
    assert helps.startswith("after helps: RR +0.5000 [+0.5000, +0.5000] over before.\n")
    assert "+0.5000 [+0.5000, +0.5000], p < 0.001" in helps
    assert hurts.startswith("after hurts: RR -0.5000 [-0.5000, -0.5000] against before.")
    assert "Keep before, let its order count for more (a first_stage_weight, which sweep" in hurts
    assert unsure.startswith("No difference between after and before is shown: RR +0.1000 [-0.2")
    assert "About 210 judged questions would tell one of this size; here are 10." in unsure
    for few in (both_ways(5), both_ways(0, 5)):
        assert few.startswith("No difference between after and before is shown")
        assert "About 6 judged questions would tell" in few


def test_json_gives_the_same_report_back(report):
    documents = report.documents.copy()
    documents.loc[0, "score"] = math.inf
    odd = replace(report, queries={**report.queries, "é": "\ud800"}, documents=documents)
    for given in (report, odd):
        back = Report.from_json(given.to_json())
        assert back.to_json() == given.to_json()
        assert back.to_json().isascii()
        assert back.to_markdown() == given.to_markdown()
        assert back.documents.equals(given.documents)
        assert back.moves("more", "all").equals(given.moves("more", "all"))
    for text in ("", "{}", '{"dataset": 1}', "[]"):
        with pytest.raises(ValueError, match="expected the JSON of a Report"):
            Report.from_json(text)


def test_moves_are_the_ranks_that_changed_those_that_are_gone_last(report):
    def ranks(query, system, given=report, **settings):
        moves = given.moves(query, system, **settings)
        return moves[["id", "old_rank", "new_rank"]].to_numpy().tolist()

    # "red bird" holds both words, "red fish" one, "blue fish" none.
    assert ranks("hurt", NAME) == [["c", 3, 1], ["a", 1, 2], ["b", 2, 3]]
    moves = report.moves("hurt", NAME)
    assert (moves["grade"].tolist(), moves["text"][1]) == ([0, 2, None], "red fish")
    assert ranks("same", NAME) == []
    assert ranks("same", "all") == [["d", None, 1], ["b", 1, 3], ["a", None, 4]]
    every = [["d", None, 1], ["c", None, 2], ["b", 1, 3], ["a", 2, 4]]
    assert ranks("more", "all", unmoved=True) == every
    assert [one for one, *_ in ranks("same", NAME, unmoved=True)] == ["b", "c"]
    turned = replace(report, summary=report.summary.iloc[::-1], texts={})
    assert ranks("same", "run", turned) == [["b", 3, 1], ["d", 1, None], ["a", 4, None]]
    assert set(turned.moves("same", "run")["text"]) == {""}


def test_worst_queries_are_those_that_lost_most_first(report):
    frame = report.worst_queries(measure="RR")
    assert frame.to_dict("records") == [
        {"query_id": "hurt", "query": "red bird", "before": 1.0, "after": 0.5}
    ]
    lost = report.per_query.loc["run", "RR"] - report.per_query.loc["all", "RR"]
    expected = lost[lost > 0].sort_values(ascending=False).index.tolist()
    assert len(expected) > 1
    for n in (1, 5):
        found = report.worst_queries(n, system="all", measure="RR")
        assert found["query_id"].tolist() == expected[:n]
    nothing = evaluate({"run": RUN, "same": dict(RUN)}, DATASET, ["RR"], **QUIET).worst_queries()
    assert (len(nothing), list(nothing)) == (0, ["query_id", "query", "before", "after"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda report: report.worst_queries(measure="P@5"), "no measure 'P@5'.*nDCG@3, RR"),
        (lambda report: report.worst_queries(system="run"), "compare with 'run'.*got 'run'"),
        (lambda report: report.moves("hurt", "nope"), "got 'nope'"),
        (lambda report: report.moves("nope"), "no query 'nope'.*such as 'same', 'hurt'"),
        (lambda report: report.moves("hurt", depth=0), "depth must be an int of at least 1, got 0"),
        (lambda report: report.worst_queries(-1), "n must be an int of at least 1, got -1"),
    ],
)
def test_what_is_not_in_the_report_is_named(call, message, report):
    with pytest.raises(ValueError, match=message):
        call(report)
