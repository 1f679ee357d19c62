"""Rank movement: where lines start and end, how they look, and texts as they are."""

from __future__ import annotations

import dataclasses

import pytest
from matplotlib.colors import to_hex

from langchain_rerank.evaluation import (
    plot_rank_movement,
)
from langchain_rerank.evaluation.plots.style import BLUE, ORANGE
from tests.evaluation.plots.figures import drawn, lines, with_system


def test_lines_go_from_old_to_new_ranks_and_below_the_cut(report):
    [axes] = plot_rank_movement(report, "q", depth=2).axes
    ends = {one: tuple(line.get_ydata()) for one, line in lines(axes).items()}

    assert list(ends) == ["d", "a", "b"]
    assert ends["a"] == (1, 2)
    start, end = ends["d"]
    assert start > 2.5
    assert end == 1
    start, end = ends["b"]
    assert start == 2
    assert end > 2.5
    for line in lines(axes).values():
        assert list(line.get_xdata()) == [0, 1]


def test_documents_below_the_cut_keep_their_true_ranks_and_order(report):
    figure = plot_rank_movement(report, "q", depth=1)
    [axes] = figure.axes
    texts = [(text.get_text(), text.get_position()) for text in axes.texts]
    left = {text: y for text, (x, y) in texts if x < 0}
    right = {text: y for text, (x, y) in texts if 1.05 < x < 1.13}
    assert set(left) == {"1", "4"}
    assert set(right) == {"1", "2"}
    assert left["1"] < left["4"]
    assert "below rank 1" in drawn(figure)


def test_documents_that_one_system_lacks_end_at_a_dash_at_the_bottom(report):
    [axes] = plot_rank_movement(report, "q").axes
    ends = {one: tuple(line.get_ydata()) for one, line in lines(axes).items()}
    assert ends["e"] == (5, 11.8)
    assert ends["f"] == (11.8, 5)
    dashes = [text.get_position()[1] for text in axes.texts if text.get_text() == "–"]
    assert dashes == [11.8, 11.8]


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
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == [
        *("relevant (disc: grade 2 or above)", "lower grade", "grade 0", "not judged")
    ]


def test_texts_are_cut_shown_as_they_are_and_replaced_by_ids(report):
    figure = plot_rank_movement(report, "q")
    shown = drawn(figure)
    [axes] = figure.axes
    [long] = [text for text in axes.texts if text.get_text().startswith("Berlin")]
    assert long.get_text().endswith("…")
    assert long.get_window_extent().x1 <= figure.bbox.x1
    # An escaped dollar sign is drawn as it is, and starts no formula.
    assert r"costs \$5 and \$x_{^ more" in shown
    assert "\ufffd lone line" in shown
    assert "f" in shown
    assert any(r"cost \$5 and \$10?" in text for text in shown)
    assert {"first", "second"} <= set(shown)
    for name in ("first", "second"):
        assert f"nDCG@3 {report.systems[name].per_query['nDCG@3']['q']:.4f}" in shown


def test_a_long_query_and_long_names_stay_inside_the_figure(report):
    long = "a very long name " * 40
    renamed = dataclasses.replace(
        report,
        queries={"q": long},
        systems={long + name: system for name, system in report.systems.items()},
    )
    figure = plot_rank_movement(renamed, "q")
    drawn(figure)
    boxes = [text.get_window_extent() for text in figure.texts]
    assert all(box.x1 <= figure.bbox.x1 for box in boxes)
    assert not any(box.count_overlaps(boxes[n + 1 :]) for n, box in enumerate(boxes))


def test_one_other_system_can_be_chosen(report):
    swapped = with_system(report, "third", rankings=report.systems["first"].rankings)
    [axes] = plot_rank_movement(swapped, "q", "third").axes
    for line in lines(axes).values():
        start, end = line.get_ydata()
        assert start == end


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nope",), "no query 'nope'.*'q', 'other'"),
        (("q", "nope"), r"compare with 'first', one of \['second'\], got 'nope'"),
        (("q", "first"), "got 'first'"),
    ],
)
def test_unknown_queries_and_systems_are_named(report, arguments, message):
    with pytest.raises(ValueError, match=message):
        plot_rank_movement(report, *arguments)


@pytest.mark.parametrize("depth", [0, -1, 1.5, True])
def test_depth_must_be_positive(report, depth):
    with pytest.raises(ValueError, match="depth must be a positive int"):
        plot_rank_movement(report, "q", depth=depth)


def test_a_query_without_documents_and_a_lone_system_are_errors(report):
    none = {"q": (), "other": ()}
    empty = {
        name: dataclasses.replace(system, rankings=none) for name, system in report.systems.items()
    }
    with pytest.raises(ValueError, match="neither 'first' nor 'second' returned"):
        plot_rank_movement(dataclasses.replace(report, systems=empty), "q")
    lone = dataclasses.replace(report, systems={"first": report.systems["first"]})
    with pytest.raises(ValueError, match="got None"):
        plot_rank_movement(lone, "q")
