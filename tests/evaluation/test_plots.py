"""Figures: the data that they draw, odd inputs, and nothing global touched."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from io import BytesIO

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from langchain_rerank.evaluation import (
    Dataset,
    Sweep,
    evaluate,
    plot_measures,
    plot_rank_movement,
    plot_scores,
    plot_tradeoff,
    suggest_threshold,
)
from langchain_rerank.evaluation.plots.style import BLUE, ORANGE
from langchain_rerank.evaluation.records import RankedDocument
from langchain_rerank.evaluation.statistics import Interval
from langchain_rerank.evaluation.sweep_records import Setting, Trial, WeightChoice

QUERY = "how many <people> cost $5 and $10?"
TEXTS = {
    "a": "Berlin is a city. " * 20,
    "b": "x",
    "c": "costs $5 and $x_{^ more",
    "d": "\ud800 lone\nline\x00",
}
# By rank: "d" comes from below rank 2, "b" goes there, "e" and "f" come and go as a whole.
OLD, NEW = ["a", "b", "c", "d", "e"], ["d", "a", "c", "b", "f"]


def by_rank(ids):
    return {one: float(-rank) for rank, one in enumerate(ids)}


@pytest.fixture(scope="module")
def report():
    dataset = Dataset(
        {"q": QUERY, "other": "who?"},
        {"q": {"a": 3, "b": 0, "d": 2, "c": 1}, "other": {"a": 2}},
        name="toy $x$",
    )
    systems = {
        "first": {"q": by_rank(OLD), "other": by_rank(["b", "a"])},
        "second": {"q": by_rank(NEW), "other": by_rank(["a", "b"])},
    }
    measures = ["nDCG@3", "RR", "P@1", "P@2", "P@3"]
    found = evaluate(systems, dataset, measures, min_relevance=2, resamples=99, show_progress=False)
    return dataclasses.replace(found, texts=TEXTS)


def with_system(report, name, **changes):
    """Return the report with a further system, like its second one."""
    system = dataclasses.replace(report.systems["second"], **changes)
    return dataclasses.replace(report, systems={**report.systems, name: system})


def reranked(report, scores=(0.9, 0.8, 0.3, 0.2, None)):
    """Return the report with a system that reranked: "second" with a cross encoder's scores."""
    rankings = {
        query: tuple(
            RankedDocument(one.id, score, rank)
            for rank, (one, score) in enumerate(zip(ranking, scores, strict=False), start=1)
        )
        for query, ranking in report.systems["second"].rankings.items()
    }
    return with_system(report, "reranked", rankings=rankings)


def timed(report, **systems):
    """Return the report with systems of a latency in milliseconds and a mean of the measure."""
    for name, (stages, mean) in systems.items():
        old = report.systems["second"].summaries
        summary = dataclasses.replace(old["nDCG@3"], mean=mean, interval=Interval(mean, mean + 0.1))
        seconds = {stage: (ms / 1000, ms / 1000) for stage, ms in stages.items()}
        report = with_system(report, name, seconds=seconds, summaries={**old, "nDCG@3": summary})
    return report


def drawn(figure):
    """Write a figure in all ways, and return the texts that it shows."""
    for form in ("png", "pdf", "svg"):
        buffer = BytesIO()
        figure.savefig(buffer, format=form)
        assert len(buffer.getvalue()) > 1000
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def lines(axes):
    return {line.get_gid(): line for line in axes.lines if line.get_gid()}


# Rank movement


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


# Measures


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


# Quality against latency


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


def test_labels_lie_neither_on_each_other_nor_on_points(report):
    rng = np.random.default_rng(0)
    names = [f"reranker number {number} with fetch_k {number * 10}" for number in range(8)]
    systems = {
        name: ({"total": float(rng.uniform(50, 200))}, float(rng.uniform(0.4, 0.7)))
        for name in names
    }
    figure = plot_tradeoff(timed(report, **systems))
    figure.draw_without_rendering()
    [axes] = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts if "number" in text.get_text()]
    marks = axes.transData.transform(list({(ms["total"], mean) for ms, mean in systems.values()}))
    boxes += [Bbox.from_extents(x - 4, y - 4, x + 4, y + 4) for x, y in marks]
    assert len(boxes) == 16
    assert not any(box.count_overlaps(boxes[n + 1 :]) for n, box in enumerate(boxes))


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
    with pytest.raises(ValueError, match=r"no stage in common.*\['reranking', 'retrieval', 'total"):
        plot_tradeoff(mixed)
    assert len(frontier_of(plot_tradeoff(mixed, stage="reranking").axes[0])) == 3


def test_what_cannot_be_drawn_against_latency_is_said(report):
    one = timed(report, one=({"total": 40}, 0.5))
    with pytest.raises(ValueError, match="nothing here was timed"):
        plot_tradeoff(report)
    with pytest.raises(ValueError, match=r"no measure 'AP'.*nDCG@3"):
        plot_tradeoff(one, measure="AP")
    with pytest.raises(ValueError, match=r"no system has a stage 'nope', expected one of \['tot"):
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


# Scores


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


# All of them


def test_a_notebook_shows_a_figure_without_pyplot(report):
    figure = plot_measures(report)
    image, size = figure._repr_png_()
    assert isinstance(figure, Figure)
    assert image.startswith(b"\x89PNG")
    width, height = (figure.get_size_inches() * figure.dpi).astype(int)
    assert size == {"width": width, "height": height}
    assert int.from_bytes(image[16:20]) == pytest.approx(2 * width, abs=2)


def test_a_dark_style_is_followed(report):
    given = timed(reranked(report), one=({"total": 40}, 0.5))
    with mpl.rc_context({"text.color": "white", "axes.facecolor": "black"}):
        figures = [
            *(plot_rank_movement(given, "q"), plot_measures(given)),
            *(plot_tradeoff(given), plot_scores(given, threshold=0.5)),
        ]
        for figure in figures:
            texts = [text for text in figure.findobj(Text) if text.get_text()]
            assert not any(to_hex(text.get_color()) == "#000000" for text in texts if text.axes)


def test_pyplot_is_not_imported_and_settings_stay(report, tmp_path):
    given = timed(reranked(report), one=({"total": 40}, 0.5))
    given = dataclasses.replace(given, texts={"a": TEXTS["a"]})
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
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "report.json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("4", "")


def test_a_missing_matplotlib_is_named(report, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "langchain-rerank\[eval\]"'):
        plot_measures(report)
