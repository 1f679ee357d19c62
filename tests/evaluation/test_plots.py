"""Figures: they show the report's numbers, keep to styles, and touch no global settings."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from io import BytesIO

import matplotlib as mpl
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

from langchain_rerank.evaluation import (
    Dataset,
    evaluate,
    plot_measures,
    plot_rank_movement,
    plot_scores,
    plot_tradeoff,
)
from langchain_rerank.evaluation.plots import BLUE, ORANGE
from tests.evaluation.toy import QUIET, a_report, a_sweep, reranked


@pytest.fixture(scope="module")
def report():
    return a_report()


SWEPT = (
    ((None, 10, 0), 0.45, 10),
    (("small", 10, 0), 0.5, 100),
    (("small", 10, 0.3), 0.45, 100),
    (("small", 20, 0), 0.6, 200),
    (("large", 10, 0), 0.4, 300),
    (("large", 10, 0.3), 0.7, 300),
    (("large", 20, 0), 0.69, 600),
)


def shown(figure):
    """Write a figure, and return the texts that it shows."""
    figure.savefig(BytesIO(), format="pdf")
    return {text.get_text() for text in figure.findobj(Text) if text.get_text()}


def lines(axes):
    return {line.get_gid(): line for line in axes.lines if line.get_gid()}


def test_figures_follow_a_dark_style_and_show_themselves_in_a_notebook(report):
    given = reranked(report)
    with mpl.rc_context({"text.color": "white", "axes.facecolor": "black"}):
        figures = [plot_rank_movement(given, "q"), plot_measures(given)]
        figures += [plot_tradeoff(a_sweep(*SWEPT)), plot_scores(given, threshold=0.5)]
    for figure in figures:
        colors = {to_hex(text.get_color()) for axes in figure.axes for text in axes.texts}
        assert "#000000" not in colors
    image, size = figures[0]._repr_png_()
    width, height = (figures[0].get_size_inches() * figures[0].dpi).astype(int)
    assert size == {"width": width, "height": height}
    assert image.startswith(b"\x89PNG")
    assert int.from_bytes(image[16:20]) == pytest.approx(2 * width, abs=2)


def test_pyplot_is_not_imported_and_settings_stay(report, tmp_path):
    (tmp_path / "report.json").write_text(reranked(report).to_json())
    code = """
import sys, pathlib
from langchain_rerank.evaluation import *
assert not {"matplotlib", "pandas", "scipy.stats", "ir_measures", "torch"} & set(sys.modules)
report = Report.from_json(pathlib.Path(sys.argv[1]).read_text())
import matplotlib
# Looking up the backend imports pyplot.
names = [name for name in matplotlib.rcParams if name != "backend"]
before = [matplotlib.rcParams[name] for name in names]
figures = [plot_rank_movement(report, "q"), plot_measures(report), plot_scores(report, threshold=1)]
for figure in figures:
    figure._repr_png_()
assert [matplotlib.rcParams[name] for name in names] == before
assert "matplotlib.pyplot" not in sys.modules
print(len(figures))
"""
    given = [sys.executable, "-c", code, tmp_path / "report.json"]
    done = subprocess.run(given, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("3", "")


@pytest.mark.parametrize("differences", [False, True])
def test_each_measure_has_a_panel_with_means_and_intervals(report, differences):
    figure = plot_measures(report, differences=differences)
    names = ["second"] if differences else ["first", "second"]
    column, form = (" difference", "+.4f") if differences else ("", ".4f")
    assert [axes.get_xlabel() for axes in figure.axes] == list(report.measures)
    for axes, measure in zip(figure.axes, report.measures, strict=True):
        found = [report.estimate(name, measure + column) for name in names]
        bars = [tuple(line.get_xdata()) for line in axes.lines if line.get_linewidth() == 2]
        dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
        assert dots == [one.mean for one in found]
        assert bars == [(one.low, one.high) for one in found]
        assert [text.get_text() for text in axes.texts] == [f"{one.mean:{form}}" for one in found]
        assert axes.lines[0].get_xdata() == [0 if differences else dots[0]] * 2
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == names
    what = "Difference to first" if differences else "Mean"
    assert rf"{what}, toy \$x\$: 2 queries" in figure.get_suptitle()
    shown(figure)


def test_one_query_has_no_interval_and_many_names_do_not_overlap():
    dataset = Dataset({"1": "who?"}, {"1": {"a": 1}})
    names = [f"{number}: BM25 + cross-encoder/ms-marco-MiniLM " * 3 for number in range(12)]
    many = evaluate({name: {"1": {"a": 1.0}} for name in names}, dataset, ["RR"], **QUIET)
    figure = plot_measures(many)
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert all(box.x0 >= 0 for box in boxes)
    assert not any(box.count_overlaps(boxes[n + 1 :]) for n, box in enumerate(boxes))


def counts(figure):
    return [int(sum(bar.get_height() for bar in axes.patches)) for axes in figure.axes]


def test_scores_are_counted_by_what_is_known_of_the_passages(report):
    figure = plot_scores(reranked(report))
    shown(figure)
    # Of query "q": d 2, a 3, c 1, b 0, and f without a score; of "other": a 2, b unjudged.
    assert counts(figure) == [3, 2, 1]
    titles = ["relevant (grade 2 or above): 3", "judged not relevant (below grade 2): 2"]
    assert [axes.get_title(loc="left") for axes in figure.axes] == [*titles, "not judged: 1"]
    assert figure.get_suptitle().startswith(r"Scores of second, toy \$x\$: 2 queries")


@pytest.mark.parametrize(
    ("scores", "threshold", "scale"),
    [
        ((0.9, 0.4, 0.8, 0.2, 0.1), 0.35, "logit"),
        ((1.0, 0.0, 1.0, 0.0, 0.0), 0.5, "logit"),
        ((0.5,) * 5, 0.5, "logit"),
        ((7.0,) * 5, 0.5, "linear"),
        ((5.0, -1.0, -3.0, 2.0, 0.0), 40, "linear"),
    ],
)
def test_a_threshold_is_in_view_and_says_what_it_keeps(report, scores, threshold, scale):
    figure = plot_scores(reranked(report, scores), threshold=threshold)
    shown(figure)
    assert sum(counts(figure)) == 7
    kept = sum(score >= threshold for score in (*scores, *scores[:2]))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert sum(int(title.split(": ")[1].split()[0]) for title in titles) == kept
    axes = figure.axes[-1]
    assert (axes.get_xscale(), axes.get_xlim()[1] > threshold) == (scale, True)
    # Of query "q" d, a, and of "other" a are relevant.
    right = sum(score >= threshold for score in (scores[0], scores[1], scores[0]))
    said = f"precision {f'{right / kept:.3f}' if kept else '–'}, recall {right / 3:.3f}"
    assert said in figure.get_suptitle()


def test_lines_go_from_old_to_new_ranks_and_below_the_cut(report):
    [axes] = plot_rank_movement(report, "q", depth=2).axes
    found = {one: tuple(line.get_ydata()) for one, line in lines(axes).items()}
    assert found == {"d": (2.8 + 1, 1), "a": (1, 2), "b": (2, 2.8 + 1)}
    # Below the cut the true ranks stand.
    placed = {(text.get_text(), text.get_position()[1]) for text in axes.texts}
    assert {("4", 3.8), ("2", 2), ("below rank 2", 2.9)} <= placed
    [axes] = plot_rank_movement(report, "q").axes
    found = {one: tuple(line.get_ydata()) for one, line in lines(axes).items()}
    assert (found["e"], found["f"]) == ((5, 11.8), (11.8, 5))
    assert [t.get_position()[1] for t in axes.texts if t.get_text() == "–"] == [11.8, 11.8]


def test_relevant_documents_are_marked_by_grade_in_colour_and_width(report):
    [axes] = plot_rank_movement(report, "q").axes
    looks = {
        one: (line.get_color(), line.get_linestyle(), line.get_linewidth())
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
    texts = shown(figure)
    [long] = [text for text in figure.axes[0].texts if text.get_text().startswith("Berlin")]
    assert long.get_text().endswith("…")
    assert long.get_window_extent().x1 <= figure.bbox.x1
    # An escaped dollar sign is drawn as it is, and starts no formula.
    assert {r"costs \$5 and \$x_{^ more", "a b", "f"} <= texts
    title = figure.get_suptitle()
    assert r"cost \$5 and \$10?" in title
    for name in ("first", "second"):
        assert f"{name} {report.per_query.loc[(name, 'q'), 'nDCG@3']:.4f}" in title


def test_a_sweep_has_a_line_a_model_its_depths_as_labels_a_frontier_and_a_ring():
    figure = plot_tradeoff(a_sweep(*SWEPT))
    assert {"small", "large"} <= shown(figure)
    [axes] = figure.axes
    xs, ys = lines(axes)["frontier"].get_data()
    expected = [(10, 0.45), (100, 0.5), (200, 0.6), (300, 0.7)]
    assert list(zip(xs, ys, strict=True))[:-1] == [pytest.approx(point) for point in expected]
    labels = {text.get_text() for text in axes.texts if text.get_text()}
    assert labels == {"the first stage alone", "10", "20", "10 (0.3)"}
    paths = [tuple(line.get_ydata()) for line in axes.lines if line.get_marker() == "o"]
    assert {(0.5, 0.6), (0.7, 0.69)} <= set(paths)
    assert lines(axes)["recommended"].get_ydata() == [0.7]
    assert axes.get_xscale() == "log"
    run = plot_tradeoff(a_sweep(((None, 10, 0), 0.45, 0), *SWEPT[1:]))
    assert "the first stage alone (not timed)" in {text.get_text() for text in run.axes[0].texts}


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda r: plot_tradeoff(a_sweep(((None, 10, 0), 0.5, 0))), "nothing here was timed"),
        (
            lambda r: plot_measures(replace(r, summary=r.summary[:1]), differences=True),
            "need two systems.*'first' alone",
        ),
        (plot_scores, r"expected a system that reranks, one of \[\], got None"),
        (lambda r: plot_scores(reranked(r), "x"), r"one of \['second'\], got 'x'"),
        (lambda r: plot_scores(reranked(r), threshold=math.nan), "a finite number"),
        (lambda r: plot_rank_movement(r, "nope"), "no query 'nope'.*'q', 'other'"),
        (lambda r: plot_rank_movement(r, "q", "first"), "got 'first'"),
        (lambda r: plot_rank_movement(r, "q", depth=True), "depth must be an int of at least 1"),
        (
            lambda r: plot_rank_movement(replace(r, documents=r.documents[:0]), "q"),
            "neither 'first' nor 'second' returned",
        ),
    ],
)
def test_what_can_not_be_drawn_is_said(report, draw, message):
    with pytest.raises(ValueError, match=message):
        draw(report)
