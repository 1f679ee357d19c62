"""Measures: means, intervals and differences as the report has them."""

from __future__ import annotations

import dataclasses

import pytest

from langchain_rerank.evaluation import (
    Dataset,
    evaluate,
    plot_measures,
)
from tests.evaluation.plots.figures import drawn, with_system


def test_each_measure_has_a_panel_with_means_and_intervals(report):
    figure = plot_measures(report)
    assert [axes.get_xlabel() for axes in figure.axes] == list(report.settings.measures)
    for axes, measure in zip(figure.axes, report.settings.measures, strict=True):
        summaries = [one.summaries[measure] for one in report.systems.values()]
        bars = [tuple(line.get_xdata()) for line in axes.lines if line.get_linewidth() == 2]
        dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
        assert dots == [one.mean for one in summaries]
        assert bars == [(one.interval.low, one.interval.high) for one in summaries]
        texts = [text.get_text() for text in axes.texts]
        assert texts == [f"{one.mean:.4f}" for one in summaries]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["first", "second"]
    assert r"Mean over 2 queries – toy \$x\$" in drawn(figure)[-1] + figure.get_suptitle()


def test_differences_are_those_to_the_first_system(report):
    figure = plot_measures(report, differences=True)
    summary = report.systems["second"].summaries["RR(rel=2)"]
    axes = figure.axes[1]
    [bar] = [tuple(line.get_xdata()) for line in axes.lines if line.get_linewidth() == 2]
    assert bar == (summary.difference_interval.low, summary.difference_interval.high)
    assert [text.get_text() for text in axes.texts] == [f"{summary.difference:+.4f}"]
    assert axes.lines[0].get_xdata() == [0, 0]
    assert figure.get_suptitle().startswith("Difference to first")
    lone = dataclasses.replace(report, systems={"first": report.systems["first"]})
    with pytest.raises(ValueError, match=r"need two systems.*'first' alone"):
        plot_measures(lone, differences=True)


def test_one_query_has_no_interval():
    dataset = Dataset({"1": "who?"}, {"1": {"a": 1}})
    report = evaluate({"_run": {"1": {"a": 1.0}}}, dataset, ["RR"], show_progress=False)
    figure = plot_measures(report)
    drawn(figure)
    assert figure.get_suptitle() == "Mean over 1 query"
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["_run"]


def test_names_of_many_systems_don_t_overlap(report):
    for number in range(12):
        report = with_system(report, f"{number}: BM25 + cross-encoder/ms-marco-MiniLM " * 3)
    figure = plot_measures(report)
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert all(box.x0 >= 0 for box in boxes)
    assert not any(box.count_overlaps(boxes[n + 1 :]) for n, box in enumerate(boxes))
