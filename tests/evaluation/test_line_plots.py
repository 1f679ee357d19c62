"""Figures of lines: one query's documents from rank to rank, and quality against latency."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from matplotlib.colors import to_hex

from langchain_rerank.evaluation import Sweep, plot_rank_movement, plot_scores, plot_tradeoff
from langchain_rerank.evaluation.measures import Interval
from langchain_rerank.evaluation.plots import BLUE, ORANGE
from langchain_rerank.evaluation.sweep_report import Setting, Trial
from tests.evaluation.figures import a_report, drawn, lines, reranked, timed


@pytest.fixture(scope="module")
def report():
    return a_report()


def test_lines_go_from_old_to_new_ranks_and_below_the_cut(report):
    figure = plot_rank_movement(report, "q", depth=2)
    [axes] = figure.axes
    found = {one: tuple(line.get_ydata()) for one, line in lines(axes).items()}
    assert found == {"d": (2.8 + 1, 1), "a": (1, 2), "b": (2, 2.8 + 1)}
    # Below the cut the true ranks stand.
    shown = {(text.get_text(), text.get_position()[1]) for text in axes.texts}
    assert {("4", 3.8), ("2", 2), ("below rank 2", 2.9)} <= shown
    [axes] = plot_rank_movement(report, "q").axes
    found = {one: tuple(line.get_ydata()) for one, line in lines(axes).items()}
    assert (found["e"], found["f"]) == ((5, 11.8), (11.8, 5))
    assert [t.get_position()[1] for t in axes.texts if t.get_text() == "–"] == [11.8, 11.8]


def test_relevant_documents_are_marked_by_grade_in_colour_and_width(report):
    [axes] = plot_rank_movement(report, "q").axes
    looks = {
        one: (to_hex(line.get_color()).upper(), line.get_linestyle(), line.get_linewidth())
        for one, line in lines(axes).items()
    }
    assert looks["a"][0] == looks["d"][0] == BLUE
    assert looks["c"][:2] == (ORANGE, "--")
    assert looks["b"][:2] not in {looks["a"][:2], looks["f"][:2]}
    assert looks["f"][1] == ":"
    assert looks["a"][2] > looks["d"][2] > looks["c"][2] > looks["b"][2]
    grades = {y: text.get_text() for text in axes.texts for x, y in [text.get_position()] if x == 1}
    assert grades == {1: "2", 2: "3", 3: "1", 4: "0", 5: "?", 11.8: "?"}
    legend = {text.get_text() for text in axes.get_legend().get_texts()}
    assert legend == {"relevant (grade 2 or above)", "lower grade", "grade 0", "not judged"}


def test_texts_are_cut_shown_as_they_are_and_replaced_by_ids(report):
    figure = plot_rank_movement(report, "q")
    shown = drawn(figure)
    [long] = [text for text in figure.axes[0].texts if text.get_text().startswith("Berlin")]
    assert long.get_text().endswith("…")
    assert long.get_window_extent().x1 <= figure.bbox.x1
    # An escaped dollar sign is drawn as it is, and starts no formula.
    assert {r"costs \$5 and \$x_{^ more", "\ufffd a b", "f"} <= set(shown)
    title = figure.get_suptitle()
    assert r"cost \$5 and \$10?" in title
    for name in ("first", "second"):
        assert f"{name} {report.systems[name].per_query['nDCG@3']['q']:.4f}" in title


def frontier_of(figure):
    xs, ys = lines(figure.axes[0])["frontier"].get_data()
    return list(zip(xs, ys, strict=True))[:-1]


def test_the_frontier_holds_what_nothing_beats(report):
    systems = {
        "slow": ({"total": 50}, 0.7),
        "fast": ({"total": 10}, 0.5),
        "bad": ({"total": 60}, 0.6),
        "same": ({"total": 60}, 0.7),
        "best": ({"total": 200}, 0.8),
    }
    figure = plot_tradeoff(timed(report, **systems))
    drawn(figure)
    [axes] = figure.axes

    expected = [(10, 0.5), (50, 0.7), (200, 0.8)]
    assert frontier_of(figure) == [pytest.approx(point) for point in expected]
    faces = {name: lines(axes)[name].get_markerfacecolor() for name in systems}
    assert {name for name, face in faces.items() if face == BLUE} == {"slow", "fast", "best"}
    labels = {text.get_text() for text in axes.texts}
    assert labels >= {*systems, "first (not timed)", "second (not timed)"}
    assert axes.get_xlabel() == "median latency (ms a query)"
    assert (axes.get_ylabel(), axes.get_xscale()) == ("nDCG@3", "log")


def test_the_latency_is_that_of_a_stage_that_all_timed_systems_have(report):
    both = timed(
        report,
        one=({"reranking": 20, "total": 40}, 0.5),
        two=({"reranking": 30, "retrieval": 1, "total": 50}, 0.6),
    )
    assert frontier_of(plot_tradeoff(both))[0] == pytest.approx((40, 0.5))
    figure = plot_tradeoff(both, stage="reranking")
    assert frontier_of(figure)[0] == pytest.approx((20, 0.5))
    assert figure.axes[0].get_xlabel() == "median latency of reranking (ms a query)"
    mixed = timed(both, run=({"reranking": 10}, 0.4), dense=({"total": 5}, 0.3))
    with pytest.raises(ValueError, match="the systems have none"):
        plot_tradeoff(mixed)
    assert len(frontier_of(plot_tradeoff(mixed, stage="reranking"))) == 3


def trial(mean, ms, *setting):
    values = {"1": mean, "2": mean}
    return Trial(Setting(*setting), values, mean, Interval(mean, mean), (ms / 1000, ms / 1000))


@pytest.fixture
def swept():
    """Two models at two depths, a weight that gains for the second one at depth 10."""
    trials = (
        trial(0.5, 100, "small", 10, 0.0),
        trial(0.45, 100, "small", 10, 0.3),
        trial(0.6, 200, "small", 20, 0.0),
        trial(0.4, 300, "large", 10, 0.0),
        trial(0.7, 300, "large", 10, 0.3),
        trial(0.69, 600, "large", 20, 0.0),
    )
    first = trial(0.45, 10, None, 10, 0.0)
    draws = {"confidence": 0.95, "resamples": 99, "seed": 0}
    return Sweep("toy", "nDCG@10", 10, draws, first, trials)


def test_a_sweep_has_a_line_a_model_its_depths_as_labels_and_a_ring(swept):
    figure = plot_tradeoff(swept)
    shown = drawn(figure)
    [axes] = figure.axes

    expected = [(10, 0.45), (100, 0.5), (200, 0.6), (300, 0.7)]
    assert frontier_of(figure) == [pytest.approx(point) for point in expected]
    labels = {text.get_text() for text in axes.texts if text.get_text()}
    assert labels == {"the first stage alone", "10", "20", "10 (0.3)"}
    paths = [tuple(line.get_ydata()) for line in axes.lines if line.get_linewidth() == 1]
    assert paths == [(0.5, 0.6), (0.7, 0.69)]
    assert lines(axes)["recommended"].get_ydata() == [0.7]
    assert {"small", "large"} <= set(shown)
    run = replace(swept, first_stage=trial(0.45, 0, None, 10, 0.0))
    figure = plot_tradeoff(run)
    labels = {text.get_text() for text in figure.axes[0].texts}
    assert "the first stage alone (not timed)" in labels
    assert frontier_of(figure)[0] == pytest.approx((100, 0.5))


EMPTY = {"q": (), "other": ()}


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda r, s: plot_tradeoff(s, measure="RR"), r"no measure 'RR'.*nDCG@10"),
        (lambda r, s: plot_tradeoff(s, stage="total"), r"a sweep has one latency.*'total'"),
        (lambda r, s: plot_tradeoff(r, stage="total"), "nothing here was timed"),
        (
            lambda r, s: plot_tradeoff(timed(r, one=({"total": 9}, 0.5)), stage="nope"),
            r"one of \['total'\]: no system has a stage 'nope'",
        ),
        (lambda r, s: plot_scores(r), "no system of this report reranks"),
        (lambda r, s: plot_scores(r, "x"), r"no system 'x'.*\['first', 'second'\]"),
        (lambda r, s: plot_scores(reranked(r, (None,) * 5), "reranked"), "has no scores"),
        (lambda r, s: plot_scores(reranked(r), threshold=math.nan), "a finite number"),
        (lambda r, s: plot_rank_movement(r, "nope"), "no query 'nope'.*'q', 'other'"),
        (lambda r, s: plot_rank_movement(r, "q", "first"), "got 'first'"),
        (lambda r, s: plot_rank_movement(r, "q", depth=True), "depth must be a positive int"),
        (
            lambda r, s: plot_rank_movement(
                replace(r, systems={n: replace(o, rankings=EMPTY) for n, o in r.systems.items()}),
                "q",
            ),
            "neither 'first' nor 'second' returned",
        ),
    ],
)
def test_what_can_not_be_drawn_is_said(report, swept, draw, message):
    with pytest.raises(ValueError, match=message):
        draw(report, swept)
