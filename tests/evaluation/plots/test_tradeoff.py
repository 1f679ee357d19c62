"""Quality against latency: the frontier, labels, and sweeps."""

from __future__ import annotations

import dataclasses

import pytest

from langchain_rerank.evaluation import (
    Sweep,
    plot_tradeoff,
)
from langchain_rerank.evaluation.plots.style import BLUE
from langchain_rerank.evaluation.statistics import Interval
from langchain_rerank.evaluation.sweep_report import Setting, Trial, WeightChoice
from tests.evaluation.plots.figures import drawn, lines, timed


def frontier_of(axes):
    xs, ys = lines(axes)["frontier"].get_data()
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
    assert frontier_of(axes) == [pytest.approx(point) for point in expected]
    assert lines(axes)["frontier"].get_drawstyle() == "steps-post"
    faces = {
        name: line.get_markerfacecolor() for name, line in lines(axes).items() if name in systems
    }
    assert {name for name, face in faces.items() if face == BLUE} == {"slow", "fast", "best"}
    labels = {text.get_text() for text in axes.texts}
    assert labels >= {*systems, "first (not timed)", "second (not timed)"}
    assert axes.get_xlabel() == "median latency (ms a query)"
    assert axes.get_ylabel() == "nDCG@3"
    assert axes.get_xscale() == "log"


def test_the_latency_is_that_of_a_stage_that_all_timed_systems_have(report):
    both = timed(
        report,
        one=({"reranking": 20, "total": 40}, 0.5),
        two=({"reranking": 30, "retrieval": 1, "total": 50}, 0.6),
    )
    assert frontier_of(plot_tradeoff(both).axes[0])[0] == pytest.approx((40, 0.5))
    axes = plot_tradeoff(both, stage="reranking").axes[0]
    assert frontier_of(axes)[0] == pytest.approx((20, 0.5))
    assert axes.get_xlabel() == "median latency of reranking (ms a query)"
    assert axes.get_xlim()[0] == 0
    mixed = timed(both, run=({"reranking": 10}, 0.4), dense=({"total": 5}, 0.3))
    with pytest.raises(
        ValueError, match=r"\['reranking', 'retrieval', 'total'\]: the systems have none"
    ):
        plot_tradeoff(mixed)
    assert len(frontier_of(plot_tradeoff(mixed, stage="reranking").axes[0])) == 3


def test_what_cannot_be_drawn_against_latency_is_said(report):
    one = timed(report, one=({"total": 40}, 0.5))
    with pytest.raises(ValueError, match="nothing here was timed"):
        plot_tradeoff(report)
    with pytest.raises(ValueError, match=r"no measure 'AP'.*nDCG@3"):
        plot_tradeoff(one, measure="AP")
    with pytest.raises(ValueError, match=r"one of \['total'\]: no system has a stage 'nope'"):
        plot_tradeoff(one, stage="nope")
    assert plot_tradeoff(one, measure="RR(rel=2)").axes[0].get_ylabel() == "RR(rel=2)"


def trial(mean, ms, *setting):
    values = {"1": mean, "2": mean}
    return Trial(Setting(*setting), values, mean, Interval(mean, mean), (ms / 1000, ms / 1000))


@pytest.fixture
def swept():
    """Two models at two depths, a weight found for the second one at depth 10."""
    trials = [
        trial(0.5, 100, "small", "onnx", 10, 0.0),
        trial(0.55, 100, "small", "onnx", 10, 0.3),
        trial(0.6, 200, "small", "onnx", 20, 0.0),
        trial(0.4, 300, "large", None, 10, 0.0),
        trial(0.7, 300, "large", None, 10, 0.3),
        trial(0.69, 600, "large", None, 20, 0.0),
    ]
    choices = [
        WeightChoice(Setting("small", "onnx", 10, 0.0), 0.3, 0.1, -0.1, None),
        WeightChoice(Setting("large", None, 10, 0.0), 0.3, 0.1, 0.1, Interval(0.05, 0.15)),
    ]
    first = trial(0.45, 10, None, None, 10, 0.0)
    return Sweep("toy", "nDCG@10", 10, 0.95, first, tuple(trials), tuple(choices))


def test_a_sweep_has_a_line_a_model_its_depths_as_labels_and_a_ring(swept):
    figure = plot_tradeoff(swept)
    shown = drawn(figure)
    [axes] = figure.axes

    expected = [(10, 0.45), (100, 0.5), (200, 0.6), (300, 0.7)]
    assert frontier_of(axes) == [pytest.approx(point) for point in expected]
    assert {text.get_text() for text in axes.texts if text.get_text()} == {
        *("first stage alone", "10", "20", "10 (0.3)")
    }
    paths = [tuple(line.get_ydata()) for line in axes.lines if line.get_linewidth() == 1]
    assert paths == [(0.5, 0.6), (0.7, 0.69)]
    assert lines(axes)["recommended"].get_ydata() == [0.7]
    assert lines(axes)["small (onnx) 10 (0.3)"].get_marker() == "."
    assert lines(axes)["small (onnx) 10"].get_marker() != lines(axes)["large 20"].get_marker()
    assert {"small (onnx)", "large", "numbers: fetch_k (first_stage_weight)"} <= set(shown)


def test_a_sweep_over_a_run_draws_its_first_stage_as_a_line(swept):
    run = trial(0.45, 0, None, None, 10, 0.0)
    [axes] = plot_tradeoff(dataclasses.replace(swept, first_stage=run)).axes
    assert "first stage alone (not timed)" in {text.get_text() for text in axes.texts}
    assert frontier_of(axes)[0] == pytest.approx((100, 0.5))


def test_a_sweep_has_one_measure_and_one_latency(swept):
    with pytest.raises(ValueError, match=r"no measure 'RR'.*nDCG@10"):
        plot_tradeoff(swept, measure="RR")
    with pytest.raises(ValueError, match=r"a sweep has one latency.*'total'"):
        plot_tradeoff(swept, stage="total")
