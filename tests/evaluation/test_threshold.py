"""Thresholds for a wanted precision: what is promised holds on other questions."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document

from langchain_rerank import Reranker
from langchain_rerank.evaluation import Dataset, RerankedRun, evaluate, suggest_threshold
from langchain_rerank.evaluation.threshold import suggest_abstention


class NumberCrossEncoder(BaseCrossEncoder):
    """Scores a passage by the number that it starts with."""

    def score(self, text_pairs):
        return [float(passage.split()[0]) for _, passage in text_pairs]


def report_of(queries, **settings):
    """Evaluate a run and its reranking; for each query, (score, grade or None) pairs."""
    corpus, qrels, run = {}, {}, {}
    for query, pairs in enumerate(queries):
        run[str(query)], qrels[str(query)] = {}, {"elsewhere": 0}
        for number, (score, grade) in enumerate(pairs):
            key = f"{query}-{number}"
            corpus[key] = Document(f"{score!r} {key}", id=key)
            run[str(query)][key] = float(-number)
            if grade is not None:
                qrels[str(query)][key] = grade
    dataset = Dataset(dict.fromkeys(qrels, "what"), qrels, corpus, partial_corpus=True)
    reranked = RerankedRun(run, Reranker(model=NumberCrossEncoder()))
    systems = {"first stage": run, "reranked": reranked}
    return evaluate(systems, dataset, ["RR"], resamples=9, show_progress=False, **settings)


# By falling score: relevant, relevant, not, relevant, unjudged, not, relevant.
PAIRS = [(0.9, 1), (0.8, 2), (0.7, 0), (0.6, 1), (0.5, None), (0.4, 0), (0.3, 1)]
# Forty questions: the higher the score, the likelier it is right.
MANY = [PAIRS] * 40


def test_promises_are_lower_than_what_was_seen_and_rise_with_the_questions():
    few, many = (suggest_threshold(report_of([PAIRS] * n), precision=0.55) for n in (30, 120))

    for found in (few, many):
        assert 0.55 <= found.precision < found.seen_precision
        assert found.recall < found.seen_recall
    assert many.threshold <= few.threshold


def test_promised_precision_is_seen_on_other_questions():
    rng = np.random.default_rng(0)

    def questions(count):
        scores = rng.random((count, 20)).round(3)
        return [[(one, int(rng.random() < one**3)) for one in row.tolist()] for row in scores]

    kept_word = 0
    for _ in range(20):
        found = suggest_threshold(report_of(questions(40)), precision=0.7)
        grades = [g for row in questions(400) for score, g in row if score >= found.threshold]
        kept_word += np.mean(grades) >= 0.7
    assert kept_word >= 18


def test_unjudged_documents_can_be_left_out():
    report = report_of(MANY)

    strict = suggest_threshold(report, precision=0.5)
    trusting = suggest_threshold(report, precision=0.5, unjudged="leave out")

    # All seven: 4 of 7 are relevant; without the unjudged one, 4 of 6.
    assert strict.seen_precision == pytest.approx(4 / 7)
    assert trusting.seen_precision == pytest.approx(4 / 6)
    assert (trusting.pairs, trusting.judged) == (240, 240)
    assert (strict.pairs, strict.judged) == (280, 240)


def test_reranker_with_the_threshold_keeps_just_those():
    queries = [*MANY, [(0.65, 1), (0.2, 0)], [(0.1, 1)]]
    found = suggest_threshold(report_of(queries), precision=0.6)

    reranker = Reranker(
        model=NumberCrossEncoder(), score_threshold=found.threshold, top_n=None, deduplicate=False
    )
    kept, relevant, empty = 0, 0, 0
    for pairs in queries:
        documents = [Document(str(score), metadata={"grade": grade}) for score, grade in pairs]
        answer = reranker.compress_documents(documents, "what")
        kept += len(answer)
        relevant += sum(bool(document.metadata["grade"]) for document in answer)
        empty += not answer
    assert (found.kept_share, found.seen_precision) == (kept / 283, relevant / kept)
    assert found.seen_recall == relevant / 162
    assert found.queries_left_empty == empty == 1


def test_documents_of_equal_score_stay_or_go_together():
    pairs = [(0.9, 1), (0.5, 1), (0.5, 0), (0.5, 0)]

    found = suggest_threshold(report_of([pairs] * 40), precision=0.6)

    assert (found.kept_share, found.seen_precision, found.seen_recall) == (1 / 4, 1, 1 / 2)
    assert found.threshold == pytest.approx(0.7)


def test_neighbouring_floats_are_told_apart():
    above = float(np.nextafter(0.5, 1))

    found = suggest_threshold(report_of([[(above, 1), (0.5, 0)]] * 40), precision=0.8)

    assert (found.threshold, found.kept_share) == (above, 1 / 2)


def test_lowest_score_is_the_threshold_where_all_can_stay():
    assert suggest_threshold(report_of([[(0.9, 1), (0.3, 1)]] * 40)).threshold == 0.3


def test_grade_from_which_a_document_is_relevant_is_the_reports_unless_given():
    report = report_of(MANY, min_relevance=2)

    # Of grade 2 is one of the best two.
    assert suggest_threshold(report, precision=0.4).seen_precision == 1 / 2
    assert suggest_threshold(report, precision=0.6, min_relevance=1).seen_recall == 3 / 4


@pytest.mark.parametrize(
    ("queries", "said"),
    [
        ([PAIRS] * 3, r"too few judged passages to promise precision 0.8: 21 were scored, about "),
        ([[(0.9, 0), (0.8, 1), (0.7, 1), (0.6, 0)]] * 40, r"no threshold reaches precision 0.8: "),
    ],
)
def test_refuses_what_it_cannot_promise(queries, said):
    with pytest.raises(ValueError, match=said):
        suggest_threshold(report_of(queries))


def test_more_questions_are_about_as_many_as_it_says():
    with pytest.raises(ValueError, match="too few judged passages") as refused:
        suggest_threshold(report_of([PAIRS] * 3))
    needed = int(re.search(r"about (\d+) more needed", str(refused.value))[1])

    assert suggest_threshold(report_of([PAIRS] * (3 + needed // 7))).precision >= 0.8


def test_a_threshold_for_answering_at_all():
    # The best passage of a question with an answer scores 0.9, the best of the others 0.7.
    report = report_of(MANY)

    found = suggest_abstention(report)

    assert found.threshold == 0.9
    assert 0.9 <= found.answered < found.seen_answered == 1
    assert found.refused < found.seen_refused == 1
    assert found.questions == 40
    with pytest.raises(ValueError, match="too few judged questions to promise"):
        suggest_abstention(report_of([PAIRS] * 3))


def test_nothing_relevant_among_the_scored():
    with pytest.raises(ValueError, match="none of the 1 documents that 'reranked' scored has"):
        suggest_threshold(report_of([[(0.9, 0)]]))


def test_only_a_system_that_reranks_has_scores_for_it():
    report = report_of(MANY)
    plain = dataclasses.replace(report, systems={"first stage": report.systems["first stage"]})

    assert suggest_threshold(report, "reranked", 0.6) == suggest_threshold(report, precision=0.6)
    with pytest.raises(ValueError, match="expected 'first stage' to be one that reranks"):
        suggest_threshold(report, "first stage")
    with pytest.raises(ValueError, match="expected 'other' to be one that reranks"):
        suggest_threshold(report, "other")
    with pytest.raises(ValueError, match="expected a system that reranks"):
        suggest_threshold(plain)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"precision": 0}, "precision must be above 0 and below 1, got 0"),
        ({"precision": 1}, "got 1"),
        ({"precision": float("nan")}, "got nan"),
        ({"min_relevance": 0}, "min_relevance must be an int of at least 1.*, got 0"),
        ({"unjudged": "skip"}, "unjudged must be 'not relevant' or 'leave out', got 'skip'"),
    ],
)
def test_wrong_arguments(arguments, said):
    with pytest.raises(ValueError, match=said):
        suggest_threshold(report_of([PAIRS]), **arguments)
