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

REPORT = a_report()
SCORED = reranked(REPORT)
FIRST = (None, 10, 0)
TRIALS = (
    (("small", 10, 0), 0.5, 100),
    (("small", 10, 0.3), 0.45, 100),
    (("small", 20, 0), 0.6, 200),
    (("large", 10, 0), 0.4, 300),
    (("large", 10, 0.3), 0.7, 300),
    (("large", 20, 0), 0.69, 600),
)
SWEPT = a_sweep((FIRST, 0.45, 10), *TRIALS)


def shown(figure):
    """Write a figure, and return the texts that it shows."""
    figure.savefig(BytesIO(), format="svg")
    return {text.get_text() for text in figure.findobj(Text) if text.get_text()}


def lines(axes):
    return {line.get_gid(): line for line in axes.lines if line.get_gid()}


def heights(axes):
    return {one: tuple(line.get_ydata()) for one, line in lines(axes).items()}


def test_figures_follow_a_dark_style_and_show_themselves_in_a_notebook():
    with mpl.rc_context({"text.color": "white", "axes.facecolor": "black"}):
        figures = [plot_rank_movement(SCORED, "q"), plot_measures(SCORED)]
        figures += [plot_tradeoff(SWEPT), plot_scores(SCORED, threshold=0.5)]
    texts = [text for figure in figures for axes in figure.axes for text in axes.texts]
    assert "#000000" not in {to_hex(text.get_color()) for text in texts}
    image, size = figures[0]._repr_png_()
    width, height = (figures[0].get_size_inches() * figures[0].dpi).astype(int)
    assert size == {"width": width, "height": height}
    assert image.startswith(b"\x89PNG")
    assert int.from_bytes(image[16:20]) == pytest.approx(2 * width, abs=2)


def test_pyplot_is_not_imported_and_settings_stay():
    code = """
import sys
from langchain_rerank.evaluation import *
assert not {"matplotlib", "pandas", "scipy.stats", "ir_measures", "torch"} & set(sys.modules)
report = Report.from_json(sys.stdin.read())
import matplotlib
# Looking up the backend imports pyplot.
names = [name for name in matplotlib.rcParams if name != "backend"]
before = [matplotlib.rcParams[name] for name in names]
for figure in (plot_rank_movement(report, "q"), plot_measures(report), plot_scores(report)):
    figure._repr_png_()
assert [matplotlib.rcParams[name] for name in names] == before
assert "matplotlib.pyplot" not in sys.modules
print("done")
"""
    given, text = [sys.executable, "-c", code], SCORED.to_json()
    done = subprocess.run(given, input=text, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("done", "")


@pytest.mark.parametrize(
    ("differences", "names", "column", "form", "title"),
    [
        (False, ["first", "second"], "", ".4f", "Mean"),
        (True, ["second"], " difference", "+.4f", "Difference to first"),
    ],
)
def test_each_measure_has_a_panel_with_means_and_intervals(differences, names, column, form, title):
    figure = plot_measures(REPORT, differences=differences)
    assert [axes.get_xlabel() for axes in figure.axes] == list(REPORT.measures)
    for axes, measure in zip(figure.axes, REPORT.measures, strict=True):
        found = [REPORT.estimate(name, measure + column) for name in names]
        bars = [tuple(line.get_xdata()) for line in axes.lines if line.get_linewidth() == 2]
        dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
        assert (dots, bars) == ([one.mean for one in found], [one[1:] for one in found])
        assert [text.get_text() for text in axes.texts] == [f"{one.mean:{form}}" for one in found]
        assert axes.lines[0].get_xdata() == [0 if differences else dots[0]] * 2
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == names
    assert rf"{title}, toy \$x\$: 2 queries" in figure.get_suptitle()


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


def test_scores_are_counted_by_what_is_known_of_the_passages():
    figure = plot_scores(SCORED)
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
def test_a_threshold_is_in_view_and_says_what_it_keeps(scores, threshold, scale):
    figure = plot_scores(reranked(REPORT, scores), threshold=threshold)
    figure.draw_without_rendering()
    kept = sum(score >= threshold for score in (*scores, *scores[:2]))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert sum(int(title.split(": ")[1].split()[0]) for title in titles) == kept
    axes = figure.axes[-1]
    assert (sum(counts(figure)), axes.get_xscale()) == (7, scale)
    assert axes.get_xlim()[1] > threshold
    # Of query "q" d, a, and of "other" a are relevant.
    right = sum(score >= threshold for score in (scores[0], scores[1], scores[0]))
    said = f"precision {f'{right / kept:.3f}' if kept else '–'}, recall {right / 3:.3f}"
    assert said in figure.get_suptitle()


def test_lines_go_from_old_to_new_ranks_and_below_the_cut():
    [axes] = plot_rank_movement(REPORT, "q", depth=2).axes
    assert heights(axes) == {"d": (2.8 + 1, 1), "a": (1, 2), "b": (2, 2.8 + 1)}
    # Below the cut the true ranks stand.
    placed = {(text.get_text(), text.get_position()[1]) for text in axes.texts}
    assert {("4", 3.8), ("2", 2), ("below rank 2", 2.9)} <= placed
    [axes] = plot_rank_movement(REPORT, "q").axes
    assert (heights(axes)["e"], heights(axes)["f"]) == ((5, 11.8), (11.8, 5))
    assert [t.get_position()[1] for t in axes.texts if t.get_text() == "–"] == [11.8, 11.8]
    # Those that are gone stand one below the other.
    gone = replace(REPORT, documents=REPORT.documents.query("system == 'first' or id == 'd'"))
    [axes] = plot_rank_movement(gone, "q", depth=4).axes
    assert [end for _, end in heights(axes).values()] == [1, 5.8, 6.8, 7.8]


def test_documents_are_marked_by_grade_and_their_texts_cut_and_shown_as_they_are():
    figure = plot_rank_movement(REPORT, "q")
    # An escaped dollar sign is drawn as it is, and starts no formula; an id stands for no text.
    assert {r"costs \$5 and \$x_{^ more", "a b", "f"} <= shown(figure)
    [axes] = figure.axes
    [long] = [text for text in axes.texts if text.get_text().startswith("Berlin")]
    assert long.get_text().endswith("…")
    assert long.get_window_extent().x1 <= figure.bbox.x1
    title = figure.get_suptitle()
    assert r"cost \$5 and \$10?" in title
    for name in ("first", "second"):
        assert f"{name} {REPORT.per_query.loc[(name, 'q'), 'nDCG@3']:.4f}" in title
    looks = {one: (line.get_color(), line.get_linestyle()) for one, line in lines(axes).items()}
    assert looks["a"] == looks["d"] == (BLUE, "-")
    assert looks["c"] == (ORANGE, "--")
    assert len({looks[one] for one in "abcf"}) == 4
    widths = [lines(axes)[one].get_linewidth() for one in "adcb"]
    assert widths == sorted(set(widths), reverse=True)
    grades = {y: text.get_text() for text in axes.texts for x, y in [text.get_position()] if x == 1}
    assert grades == {1: "2", 2: "3", 3: "1", 4: "0", 5: "?", 11.8: "?"}
    legend = {text.get_text() for text in axes.get_legend().get_texts()}
    assert legend == {"relevant (grade 2 or above)", "lower grade", "grade 0", "not judged"}


def test_a_sweep_has_a_line_a_model_its_depths_as_labels_a_frontier_and_a_ring():
    figure = plot_tradeoff(SWEPT)
    assert {"small", "large"} <= shown(figure)
    [axes] = figure.axes
    frontier = list(zip(*lines(axes)["frontier"].get_data(), strict=True))
    expected = [(10, 0.45), (100, 0.5), (200, 0.6), (300, 0.7)]
    assert frontier[:-1] == [pytest.approx(point) for point in expected]
    labels = {text.get_text() for text in axes.texts if text.get_text()}
    assert labels == {"the first stage alone", "10", "20", "10 (0.3)"}
    paths = [tuple(line.get_ydata()) for line in axes.lines if line.get_marker() == "o"]
    assert {(0.5, 0.6), (0.7, 0.69)} <= set(paths)
    assert lines(axes)["recommended"].get_ydata() == [0.7]
    run = plot_tradeoff(a_sweep((FIRST, 0.45, 0), *TRIALS))
    assert "the first stage alone (not timed)" in {text.get_text() for text in run.axes[0].texts}


EMPTY = replace(REPORT, documents=REPORT.documents[:0])


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plot_tradeoff(a_sweep((FIRST, 0.5, 0))), "nothing here was timed"),
        (
            lambda: plot_measures(replace(REPORT, summary=REPORT.summary[:1]), differences=True),
            "need two systems.*'first' alone",
        ),
        (lambda: plot_scores(REPORT), r"expected a system that reranks, one of \[\], got None"),
        (lambda: plot_scores(SCORED, "x"), r"one of \['second'\], got 'x'"),
        (lambda: plot_scores(SCORED, threshold=math.nan), "a finite number"),
        (lambda: plot_rank_movement(REPORT, "nope"), "no query 'nope'.*'q', 'other'"),
        (lambda: plot_rank_movement(REPORT, "q", "first"), "got 'first'"),
        (lambda: plot_rank_movement(REPORT, "q", depth=True), "depth must be an int of at least"),
        (lambda: plot_rank_movement(EMPTY, "q"), "neither 'first' nor 'second' returned"),
    ],
)
def test_what_can_not_be_drawn_is_said(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
