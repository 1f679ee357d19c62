"""Figures of measures and scores, and what all figures keep: styles and global settings."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import matplotlib as mpl
import pytest
from matplotlib.colors import to_hex

from langchain_rerank.evaluation import (
    Dataset,
    evaluate,
    plot_measures,
    plot_rank_movement,
    plot_scores,
    plot_tradeoff,
    suggest_threshold,
)
from tests.evaluation.figures import a_report, drawn, reranked, timed, with_system
from tests.evaluation.toy import QUIET


@pytest.fixture(scope="module")
def report():
    return a_report()


def test_figures_follow_a_dark_style_and_show_themselves_in_a_notebook(report):
    given = timed(reranked(report), one=({"total": 40}, 0.5))
    with mpl.rc_context({"text.color": "white", "axes.facecolor": "black"}):
        figures = [plot_rank_movement(given, "q"), plot_measures(given)]
        figures += [plot_tradeoff(given), plot_scores(given, threshold=0.5)]
    for figure in figures:
        colors = {to_hex(text.get_color()) for axes in figure.axes for text in axes.texts}
        assert "#000000" not in colors
    image, size = figures[0]._repr_png_()
    width, height = (figures[0].get_size_inches() * figures[0].dpi).astype(int)
    assert size == {"width": width, "height": height}
    assert image.startswith(b"\x89PNG")
    assert int.from_bytes(image[16:20]) == pytest.approx(2 * width, abs=2)


def test_pyplot_is_not_imported_and_settings_stay(report, tmp_path):
    given = timed(reranked(report), one=({"total": 40}, 0.5))
    (tmp_path / "report.json").write_text(given.to_json())
    code = """
import sys, pathlib
from langchain_rerank.evaluation import *
assert "matplotlib" not in sys.modules
report = Report.from_json(pathlib.Path(sys.argv[1]).read_text())
import matplotlib
# Looking up the backend imports pyplot.
names = [name for name in matplotlib.rcParams if name != "backend"]
before = [matplotlib.rcParams[name] for name in names]
figures = [plot_rank_movement(report, "q"), plot_measures(report), plot_tradeoff(report),
           plot_scores(report, threshold=0.5)]
for figure in figures:
    figure._repr_png_()
assert [matplotlib.rcParams[name] for name in names] == before
assert "matplotlib.pyplot" not in sys.modules
print(len(figures))
"""
    given = [sys.executable, "-c", code, tmp_path / "report.json"]
    done = subprocess.run(given, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("4", "")


def test_a_missing_matplotlib_is_named(report, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "langchain-rerank\[eval\]"'):
        plot_measures(report)


def test_each_measure_has_a_panel_with_means_and_intervals(report):
    figure = plot_measures(report)
    assert [axes.get_xlabel() for axes in figure.axes] == list(report.settings.measures)
    for axes, measure in zip(figure.axes, report.settings.measures, strict=True):
        found = [one.summaries[measure] for one in report.systems.values()]
        bars = [tuple(line.get_xdata()) for line in axes.lines if line.get_linewidth() == 2]
        dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
        assert dots == [one.mean for one in found]
        assert bars == [(one.interval.low, one.interval.high) for one in found]
        assert [text.get_text() for text in axes.texts] == [f"{one.mean:.4f}" for one in found]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["first", "second"]
    assert r"Mean over 2 queries – toy \$x\$" in figure.get_suptitle()
    drawn(figure)


def test_differences_are_those_to_the_first_system(report):
    figure = plot_measures(report, differences=True)
    summary = report.systems["second"].summaries["RR(rel=2)"]
    axes = figure.axes[1]
    [bar] = [tuple(line.get_xdata()) for line in axes.lines if line.get_linewidth() == 2]
    assert bar == (summary.difference_interval.low, summary.difference_interval.high)
    assert [text.get_text() for text in axes.texts] == [f"{summary.difference:+.4f}"]
    assert axes.lines[0].get_xdata() == [0, 0]
    assert figure.get_suptitle().startswith("Difference to first")
    lone = replace(report, systems={"first": report.systems["first"]})
    with pytest.raises(ValueError, match=r"need two systems.*'first' alone"):
        plot_measures(lone, differences=True)


def test_one_query_has_no_interval_and_many_names_do_not_overlap(report):
    dataset = Dataset({"1": "who?"}, {"1": {"a": 1}})
    alone = evaluate({"_run": {"1": {"a": 1.0}}}, dataset, ["RR"], **QUIET)
    assert plot_measures(alone).get_suptitle() == "Mean over 1 query"
    for number in range(12):
        report = with_system(report, f"{number}: BM25 + cross-encoder/ms-marco-MiniLM " * 3)
    figure = plot_measures(report)
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert all(box.x0 >= 0 for box in boxes)
    assert not any(box.count_overlaps(boxes[n + 1 :]) for n, box in enumerate(boxes))


def counts(figure):
    return [int(axes.patches[0].get_data().values.sum()) for axes in figure.axes]


def test_scores_are_counted_by_what_is_known_of_the_passages(report):
    figure = plot_scores(reranked(report))
    drawn(figure)
    # Of query "q": d 2, a 3, c 1, b 0, and f without a score; of "other": a 2, b unjudged.
    assert counts(figure) == [3, 2, 1]
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "relevant (grade 2 or above): 3",
        "judged not relevant (below grade 2): 2",
        "not judged: 1",
    ]
    assert figure.get_suptitle().startswith("Scores of reranked, 2 queries")
    assert figure.axes[-1].get_xlabel() == "score (spaced by log-odds)"


def test_a_threshold_says_what_it_keeps_of_these_passages(report):
    given = reranked(report, (0.9, 0.4, 0.8, 0.2, 0.1))
    found = suggest_threshold(given, precision=0.01)
    figure = plot_scores(given, threshold=found.threshold)
    said = f"precision {found.seen_precision:.3f}, recall {found.seen_recall:.3f}"
    assert said in figure.get_suptitle()
    assert figure.axes[0].get_title(loc="left").endswith(" of 3 kept")
    place = math.log(found.threshold / (1 - found.threshold))
    for axes in figure.axes:
        assert axes.lines[0].get_xdata()[0] == pytest.approx(place)


def test_logits_stay_as_they_are_and_a_far_threshold_is_in_view(report):
    figure = plot_scores(reranked(report, (5.0, -1.0, -3.0, 2.0, 0.0)), threshold=40)
    drawn(figure)
    assert figure.axes[-1].get_xlabel() == "score"
    assert figure.axes[-1].get_xlim() == (-3, 40)
    assert "precision –, recall 0.000" in figure.get_suptitle()


@pytest.mark.parametrize("scores", [(1.0, 0.0, 1.0, 0.0, 0.0), (0.5,) * 5, (7.0,) * 5])
def test_scores_at_the_ends_and_all_alike_are_drawn(report, scores):
    figure = plot_scores(reranked(report, scores), threshold=0.5)
    drawn(figure)
    assert sum(counts(figure)) == 7
