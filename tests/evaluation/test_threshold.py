"""A threshold for a wanted precision, against hand computation and scikit-learn."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document

from langchain_rerank import Reranker
from langchain_rerank.evaluation import Dataset, RerankedRun, evaluate, suggest_threshold


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


def test_of_equal_recall_the_more_precise_is_taken():
    # 0.7 and 0.8 both keep two relevant documents and are precise enough.
    found = suggest_threshold(report_of([PAIRS[:3]]), precision=0.6)

    assert found.threshold == pytest.approx(0.75)
    assert found.precision == 1


def test_unjudged_documents_can_be_left_out():
    report = report_of([PAIRS])

    strict = suggest_threshold(report, precision=0.6)
    trusting = suggest_threshold(report, precision=0.6, unjudged="leave out")

    # All seven: 4 of 7 are relevant, too few; without the unjudged one, 4 of 6.
    assert strict.recall == 3 / 4
    assert (trusting.recall, trusting.precision, trusting.kept_share) == (1, 4 / 6, 1)
    assert (trusting.pairs, trusting.judged) == (6, 6)


def test_reranker_with_the_threshold_keeps_just_those():
    queries = [PAIRS, [(0.65, 1), (0.2, 0)], [(0.1, 1)]]
    found = suggest_threshold(report_of(queries), precision=0.7)

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
    assert (found.kept_share, found.precision) == (kept / 10, relevant / kept)
    assert found.recall == relevant / 6
    assert found.queries_left_empty == empty == 1


def test_documents_of_equal_score_stay_or_go_together():
    pairs = [(0.9, 1), (0.5, 1), (0.5, 0), (0.5, 0)]

    found = suggest_threshold(report_of([pairs]), precision=0.6)

    assert (found.kept_share, found.precision, found.recall) == (1 / 4, 1, 1 / 2)
    assert found.threshold == pytest.approx(0.7)


def test_neighbouring_floats_are_told_apart():
    above = float(np.nextafter(0.5, 1))

    found = suggest_threshold(report_of([[(above, 1), (0.5, 0)]]), precision=1)

    assert (found.threshold, found.kept_share) == (above, 1 / 2)


def test_lowest_score_is_the_threshold_where_all_can_stay():
    assert suggest_threshold(report_of([[(0.9, 1), (0.3, 1)]])).threshold == 0.3


def test_grade_from_which_a_document_is_relevant_is_the_reports_unless_given():
    report = report_of([PAIRS], min_relevance=2)

    assert suggest_threshold(report, precision=0.5).recall == 1
    assert suggest_threshold(report, precision=0.5).precision == 1 / 2
    assert suggest_threshold(report, precision=0.75, min_relevance=1).recall == 3 / 4


@pytest.mark.parametrize("seed", range(20))
def test_agrees_with_scikit_learn(seed):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    # Few distinct scores give ties; better scores are likelier to be relevant.
    scores = rng.integers(0, 15, size=40) / 15
    relevant = rng.random(40) < scores
    wanted = rng.uniform(0.3, 0.9)
    report = report_of([list(zip(scores.tolist(), relevant.astype(int).tolist(), strict=True))])

    precisions, recalls, thresholds = metrics.precision_recall_curve(relevant, scores)
    # The last point of the curve keeps nothing and has no threshold.
    reached = np.flatnonzero(precisions[:-1] >= wanted)
    if not len(reached):
        with pytest.raises(ValueError, match=f"the best is {precisions[:-1].max():.4f}"):
            suggest_threshold(report, precision=wanted)
        return
    best = max(reached, key=lambda place: (recalls[place], precisions[place]))
    found = suggest_threshold(report, precision=wanted)
    assert found.precision == pytest.approx(precisions[best])
    assert found.recall == pytest.approx(recalls[best])
    kept = scores >= found.threshold
    assert kept.tolist() == (scores >= thresholds[best]).tolist()


def test_precision_out_of_reach_names_the_best():
    report = report_of([[(0.9, 0), (0.8, 1), (0.7, 1), (0.6, 0)]])

    expected = r"no threshold reaches precision 0.8: the best is 0.6667, of the 3 of 4 documents"
    with pytest.raises(ValueError, match=expected):
        suggest_threshold(report)


def test_nothing_relevant_among_the_scored():
    with pytest.raises(ValueError, match="none of the 1 documents that 'reranked' scored has"):
        suggest_threshold(report_of([[(0.9, 0)]]))


def test_only_a_system_that_reranks_has_scores_for_it():
    report = report_of([PAIRS])
    plain = dataclasses.replace(report, systems={"first stage": report.systems["first stage"]})

    assert suggest_threshold(report, "reranked", 0.75) == suggest_threshold(report, precision=0.75)
    with pytest.raises(ValueError, match="expected 'first stage' to be one that reranks"):
        suggest_threshold(report, "first stage")
    with pytest.raises(ValueError, match="expected 'other' to be one that reranks"):
        suggest_threshold(report, "other")
    with pytest.raises(ValueError, match="expected a system that reranks"):
        suggest_threshold(plain)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"precision": 0}, "precision must be above 0 and at most 1, got 0"),
        ({"precision": 1.5}, "got 1.5"),
        ({"precision": float("nan")}, "got nan"),
        ({"min_relevance": 0}, "min_relevance must be an int of at least 1.*, got 0"),
        ({"unjudged": "skip"}, "unjudged must be 'not relevant' or 'leave out', got 'skip'"),
    ],
)
def test_wrong_arguments(arguments, said):
    with pytest.raises(ValueError, match=said):
        suggest_threshold(report_of([PAIRS]), **arguments)
