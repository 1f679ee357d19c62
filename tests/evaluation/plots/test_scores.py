"""Scores: how many of which kind, and what a threshold keeps."""

from __future__ import annotations

import math

import pytest

from langchain_rerank.evaluation import (
    plot_scores,
    suggest_threshold,
)
from tests.evaluation.plots.figures import drawn, reranked


def counts(axes):
    [stairs] = axes.patches
    return stairs.get_data().values.sum()


def test_scores_are_counted_by_what_is_known_of_the_passages(report):
    figure = plot_scores(reranked(report))
    drawn(figure)
    # Of query "q": d 2, a 3, c 1, b 0, and f without a score; of "other": a 2, b unjudged.
    assert [counts(axes) for axes in figure.axes] == [3, 2, 1]
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [
        "relevant (grade 2 or above): 3",
        "judged not relevant (below grade 2): 2",
        "not judged: 1",
    ]
    assert figure.get_suptitle().startswith("Scores of reranked, 2 queries")
    assert figure.axes[-1].get_xlabel() == "score (spaced by log-odds)"


def test_a_threshold_says_what_it_keeps_as_suggest_threshold_does(report):
    given = reranked(report, (0.9, 0.4, 0.8, 0.2, 0.1))
    found = suggest_threshold(given, precision=0.6)
    figure = plot_scores(given, threshold=found.threshold)
    assert found.recall > 0
    verdict = f"precision {found.precision:.3f}, recall {found.recall:.3f}"
    assert verdict in figure.get_suptitle()
    assert figure.axes[0].get_title(loc="left").endswith(": 3 of 3 kept")
    place = math.log(found.threshold / (1 - found.threshold))
    for axes in figure.axes:
        assert axes.lines[0].get_xdata()[0] == pytest.approx(place)


def test_logits_stay_as_they_are_and_a_far_threshold_is_in_view(report):
    figure = plot_scores(reranked(report, (5.0, -1.0, -3.0, 2.0, 0.0)), threshold=40)
    drawn(figure)
    axes = figure.axes[-1]
    assert axes.get_xlabel() == "score"
    assert axes.get_xlim() == (-3, 40)
    assert "precision –, recall 0.000" in figure.get_suptitle()


@pytest.mark.parametrize("scores", [(1.0, 0.0, 1.0, 0.0, 0.0), (0.5,) * 5, (7.0,) * 5])
def test_scores_at_the_ends_and_all_alike_are_drawn(report, scores):
    figure = plot_scores(reranked(report, scores), threshold=0.5)
    drawn(figure)
    assert sum(map(counts, figure.axes)) == 7


def test_a_run_can_be_named_and_errors_say_what_lacks(report):
    assert sum(map(counts, plot_scores(report, "first").axes)) == 7
    with pytest.raises(ValueError, match="no system of this report reranks"):
        plot_scores(report)
    with pytest.raises(ValueError, match=r"no system 'x'.*\['first', 'second'\]"):
        plot_scores(report, "x")
    with pytest.raises(ValueError, match="'reranked' has no scores"):
        plot_scores(reranked(report, (None,) * 5), "reranked")
    for threshold in (math.nan, math.inf):
        with pytest.raises(ValueError, match="threshold must be a finite number"):
            plot_scores(reranked(report), threshold=threshold)
