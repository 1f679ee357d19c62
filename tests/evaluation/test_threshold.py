"""Thresholds for a wanted precision: what is promised holds on other questions."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document

from langchain_rerank import Reranker
from langchain_rerank.evaluation import (
    Dataset,
    RerankedRun,
    evaluate,
    suggest_abstention,
    suggest_threshold,
)
from tests.evaluation.toy import QUIET


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
    return evaluate({"first": run, "reranked": reranked}, dataset, ["RR"], **QUIET, **settings)


# By falling score: relevant, relevant, not, relevant, unjudged, not, relevant.
PAIRS = [(0.9, 1), (0.8, 2), (0.7, 0), (0.6, 1), (0.5, None), (0.4, 0), (0.3, 1)]
MANY = [PAIRS] * 40


def test_promises_are_lower_than_what_was_seen_and_rise_with_the_questions():
    few, many = (suggest_threshold(report_of([PAIRS] * n), precision=0.55) for n in (30, 120))
    for found in (few, many):
        assert 0.55 <= found.precision < found.seen_precision
        assert found.recall < found.seen_recall
    assert many.threshold <= few.threshold


def test_promised_precision_is_seen_on_other_questions():
    """The higher a score, the likelier it is right."""
    rng = np.random.default_rng(0)

    def questions(count):
        scores = rng.random((count, 20)).round(3)
        return [[(one, int(rng.random() < one**3)) for one in row.tolist()] for row in scores]

    kept_word = 0
    for _ in range(10):
        found = suggest_threshold(report_of(questions(40)), precision=0.7)
        grades = [g for row in questions(400) for score, g in row if score >= found.threshold]
        kept_word += np.mean(grades) >= 0.7
    assert kept_word >= 9


def test_reranker_with_the_threshold_keeps_just_those():
    queries = [*MANY, [(0.65, 1), (0.2, 0)], [(0.1, 1)]]
    found = suggest_threshold(report_of(queries), precision=0.6)
    settings = {"score_threshold": found.threshold, "top_n": None, "deduplicate": False}
    reranker, kept = Reranker(model=NumberCrossEncoder(), **settings), []
    for pairs in queries:
        documents = [Document(str(score), metadata={"grade": grade}) for score, grade in pairs]
        answer = reranker.compress_documents(documents, "what")
        kept.append([bool(document.metadata["grade"]) for document in answer])
    count, relevant = sum(map(len, kept)), sum(map(sum, kept))
    assert (found.kept_share, found.seen_precision) == (count / 283, relevant / count)
    assert found.seen_recall == relevant / 162
    assert found.queries_left_empty == kept.count([]) == 1


ABOVE = float(np.nextafter(0.5, 1))


@pytest.mark.parametrize(
    ("pairs", "precision", "threshold", "share"),
    [
        # Equal scores stay or go together; half-way between two; neighbours are told apart; all.
        ([(0.9, 1), (0.5, 1), (0.5, 0), (0.5, 0)], 0.6, 0.7, 1 / 4),
        ([(ABOVE, 1), (0.5, 0)], 0.8, ABOVE, 1 / 2),
        ([(0.9, 1), (0.3, 1)], 0.8, 0.3, 1),
    ],
)
def test_where_the_threshold_lies(pairs, precision, threshold, share):
    found = suggest_threshold(report_of([pairs] * 40), precision=precision)
    assert found.threshold == pytest.approx(threshold, abs=1e-16)
    assert (found.kept_share, found.seen_precision >= precision) == (share, True)


def test_the_reports_grade_counts():
    # Of grade 2 is one of the best two.
    report = report_of(MANY, min_relevance=2)
    assert suggest_threshold(report, precision=0.4).seen_precision == 1 / 2


def test_more_questions_are_about_as_many_as_it_says():
    said = r"too few judged passages to promise precision 0.8: 21 we"
    with pytest.raises(ValueError, match=said) as refused:
        suggest_threshold(report_of([PAIRS] * 3))
    needed = int(re.search(r"about (\d+) more needed", str(refused.value))[1])
    assert suggest_threshold(report_of([PAIRS] * (3 + needed // 7))).precision >= 0.8


def test_a_threshold_for_answering_at_all():
    # The best passage of a question with an answer scores 0.9, the best of the others 0.7.
    found = suggest_abstention(report_of([*MANY, [(0.95, 0)]]))
    assert (found.threshold, found.questions) == (0.9, 40)
    assert 0.9 <= found.answered < found.seen_answered == 1
    assert found.refused < found.seen_refused == 1
    with pytest.raises(ValueError, match="too few judged questions to promise"):
        suggest_abstention(report_of([PAIRS] * 3))


NO_USE = [[(0.9, 0), (0.8, 1), (0.7, 1), (0.6, 0)]] * 40


@pytest.mark.parametrize(
    ("queries", "arguments", "said"),
    [
        (NO_USE, {}, r"no threshold reaches precision 0.8: the best is 0.6667, of the 120 of 160"),
        ([[(0.9, 0)]], {}, "none of the 1 documents that 'reranked' scored has grade 1"),
        ([PAIRS], {"precision": 0}, "precision must be above 0 and below 1, got 0"),
        ([PAIRS], {"precision": 1}, "got 1"),
        ([PAIRS], {"precision": float("nan")}, "got nan"),
        ([PAIRS], {"system": "first"}, r"that reranks, one of \['reranked'\], got 'first'"),
        ([PAIRS], {"system": "other"}, "got 'other'"),
    ],
)
def test_what_cannot_be_promised_is_refused(queries, arguments, said):
    with pytest.raises(ValueError, match=said):
        suggest_threshold(report_of(queries), **arguments)


def test_only_a_system_that_reranks_has_scores_for_it():
    report = report_of([PAIRS])
    plain = report.documents[report.documents["system"] == "first"]
    with pytest.raises(ValueError, match=r"that reranks, one of \[\], got None"):
        suggest_threshold(replace(report, documents=plain))
