"""Figures of an evaluation, by matplotlib: measures with their intervals, and scores.

Each function returns a `matplotlib.figure.Figure`, which shows itself as the last expression of a
notebook's cell and is written by `savefig`. Nothing of pyplot is touched: no backend is chosen and
no figure stays open. Colours are those of Okabe and Ito, "Color universal design", 2008; what they
tell is told by a shape or a width as well.
"""

from __future__ import annotations

import math
from io import BytesIO
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np

from langchain_rerank.evaluation.runs import require_eval
from langchain_rerank.evaluation.tables import percent, queries
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from langchain_rerank.evaluation.report import Report

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BLUE, ORANGE = COLORS[0], COLORS[4]
_PANELS_A_ROW = 4
_BINS = 40
_TAIL = 1e-6
"""Where the axis of log-odds ends: a score of 0 or 1 has none."""
_TICKS = (1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)


def new_figure(width: float, height: float, *title: str) -> Figure:
    """Make a figure, sized in inches, that Jupyter shows without pyplot, with lines of a title."""
    require_eval("matplotlib", purpose="Plotting")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    # Jupyter learns how to show matplotlib's own figures only when pyplot is imported.
    figure._repr_png_ = lambda: _png(figure)  # type: ignore[attr-defined]  # IPython's protocol
    lines = "\n".join(wrapped(line, int(width / 0.085)) for line in title if line)
    figure.suptitle(lines, fontsize="medium", x=0.01, ha="left")
    return figure


def _png(figure: Figure) -> tuple[bytes, dict[str, int]]:
    """Draw a figure twice as fine, for fine screens."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=2 * figure.dpi)
    width, height = (figure.get_size_inches() * figure.dpi).astype(int).tolist()
    return buffer.getvalue(), {"width": width, "height": height}


def faded(strength: float = 0.55) -> str:
    """Return the colour of text, which style sheets choose, blended into the background."""
    import matplotlib as mpl
    from matplotlib.colors import to_hex, to_rgb

    text, ground = (np.array(to_rgb(mpl.rcParams[k])) for k in ("text.color", "axes.facecolor"))
    return to_hex(tuple((strength * text + (1 - strength) * ground).tolist()))


def plain(text: str, longest: int = 400) -> str:
    """Return text of others for a figure: one line, and no formula between dollar signs."""
    line = " ".join(well_formed(text[:longest]).split())
    return "".join(mark for mark in line if mark.isprintable()).replace("$", r"\$")


def wrapped(text: str, width: int = 32) -> str:
    """Return text of others on up to three lines, so that names that end differently stay so."""
    return "\n".join(wrap(plain(text), width, max_lines=3, placeholder="…"))


def bare(axes: Axes, grid: str) -> None:
    """Leave of a frame what carries an axis, and put light grid lines behind everything."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(faded())
    axes.tick_params(color=faded(), labelsize="small")
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=faded(0.12))  # type: ignore[arg-type]  # "x", "y" or "both"


def name_of(dataset: str) -> str:
    """Return a data set's name as the end of a title; nothing if it has none."""
    return f" – {dataset}" if dataset else ""


def plot_measures(report: Report, *, differences: bool = False) -> Figure:
    """Draw each measure's mean and its bootstrap interval, a panel a measure, a row a system.

    A dashed line goes down from the first system's mean. Intervals of two systems may overlap
    though one is better on nearly every query: `differences` shows the paired comparison.

    Args:
        report: What to draw; every measure has an axis of its own.
        differences: Draw the differences to the first system instead, with their intervals.

    Raises:
        ValueError: Differences are asked of a report with one system.
        MissingDependencyError: The extra `eval` is not installed.
    """
    names = [name for name in report.systems if not (differences and name == report.baseline)]
    if not names:
        msg = f"differences need two systems, this report has '{report.baseline}' alone"
        raise ValueError(msg)
    measures, count = report.settings.measures, len(report.queries)
    columns = min(len(measures), _PANELS_A_ROW)
    rows = -(-len(measures) // columns)
    labels = [wrapped(name) for name in names]
    row = max(0.42, 0.14 * max(label.count("\n") + 1 for label in labels) + 0.06)
    letters = max(len(line) for label in labels for line in label.split("\n"))
    figure = new_figure(
        max(columns * 2.15, 3.4) + 0.075 * letters + 0.3,
        rows * (row * len(names) + 0.75) + 0.6,
        f"{f'Difference to {report.baseline}' if differences else 'Mean'} over {queries(count)}"
        f"{name_of(report.dataset)}",
        f"bars: {percent(report.settings.confidence)} bootstrap intervals" if count > 1 else "",
    )
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten().tolist()
    for axes in grid[len(measures) :]:
        axes.remove()
    for axes, measure in zip(grid, measures, strict=False):
        found = [report.systems[name].summaries[measure] for name in names]
        if differences:
            values = [(one.difference or 0.0, one.difference_interval) for one in found]
        else:
            values = [(one.mean, one.interval) for one in found]
        start = 0.0 if differences else values[0][0]
        axes.axvline(start, color=faded(0.5), linewidth=1, dashes=(4, 3), zorder=1)
        for y, (mean, interval) in enumerate(values):
            first = y == 0 and not differences
            color, form = faded(1) if first else BLUE, "+.4f" if differences else ".4f"
            if interval is not None:
                axes.plot([interval.low, interval.high], [y, y], color=color, linewidth=2)
            face = axes.get_facecolor() if first else color
            axes.plot(mean, y, "o", markersize=7, color=color, markerfacecolor=face, zorder=3)
            axes.text(mean, y - 0.15, f"{mean:{form}}", ha="center", va="bottom", fontsize="small")
        bare(axes, "x")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set(xlabel=plain(measure), xmargin=0.18, ylim=(len(names) - 0.6, -0.75))
        axes.locator_params(axis="x", nbins=5)
    for axes in grid[::columns]:
        axes.set_yticks(range(len(names)), labels)
    return figure


def plot_scores(
    report: Report, system: str | None = None, *, threshold: float | None = None
) -> Figure:
    """Draw the distribution of scores of relevant, of other and of unjudged passages.

    A passage counts once for each query that it was scored for. Scores that are all between 0 and
    1, as a sigmoid gives them, are spread out by their log-odds.

    Args:
        report: Where the scores are.
        system: Whose scores; None takes the first system that reranks.
        threshold: Draw this `score_threshold`, and say how precise what is kept would be, and how
            much of what is relevant among the scored passages it keeps. Unjudged passages count
            as not relevant, as they do in the measures.

    Raises:
        ValueError: There is no such system, it has no scores, or none reranks, or the threshold
            is not a finite number.
        MissingDependencyError: The extra `eval` is not installed.
    """
    if threshold is not None and not math.isfinite(threshold):
        msg = f"threshold must be a finite number, got {threshold!r}"
        raise ValueError(msg)
    system, groups = _scores(report, system)
    every = np.concatenate(list(groups.values()))
    log_odds = every.min() >= 0 and every.max() <= 1
    places = _log_odds if log_odds else np.asarray
    edges = np.histogram_bin_edges(places(every), bins=_BINS)
    marks = [] if threshold is None else places(np.array([threshold])).tolist()
    kept = {
        name: (found >= (-math.inf if threshold is None else threshold)).sum()
        for name, found in groups.items()
    }
    verdict = ""
    if threshold is not None:
        [first, *_] = groups
        hits, relevant = (kept[first], len(groups[first])) if first.startswith("rel") else (0, 0)
        precision, recall = (
            f"{hits / n:.3f}" if n else "–" for n in (sum(kept.values()), relevant)
        )
        verdict = f"Threshold {threshold:g} for the scored passages: "
        verdict += f"precision {precision}, recall {recall}"
    figure = new_figure(
        7.2,
        1.35 * len(groups) + 1.15,
        f"Scores of {system}, {queries(len(report.queries))}{name_of(report.dataset)}",
        verdict,
    )
    panels = figure.subplots(len(groups), 1, squeeze=False, sharex=True).flatten().tolist()
    colors = {"r": BLUE, "j": ORANGE, "n": faded(0.5)}
    for axes, (name, found) in zip(panels, groups.items(), strict=True):
        counts, _ = np.histogram(places(found), edges)
        axes.stairs(counts, edges, fill=True, color=colors[name[0]], alpha=0.85)
        for mark in marks:
            axes.axvline(mark, color=faded(1), linewidth=1.2, dashes=(5, 3))
        shown = f"{len(found):,}" if threshold is None else f"{kept[name]:,} of {len(found):,} kept"
        axes.set_title(f"{name}: {shown}", loc="left", fontsize="small", color=faded(1), pad=3)
        bare(axes, "y")
        axes.locator_params(axis="y", nbins=4, integer=True)
    if log_odds:
        ticks = [one for one in _TICKS if edges[0] <= _log_odds(np.array([one]))[0] <= edges[-1]]
        axes.set_xticks(_log_odds(np.array(ticks)), [f"{tick:.5f}".rstrip("0") for tick in ticks])
    axes.set_xlim(min(*edges, *marks), max(*edges, *marks))
    axes.set_xlabel(f"score{' (spaced by log-odds)' if log_odds else ''}")
    figure.supylabel("passages", fontsize="medium")
    return figure


def _log_odds(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    inside = np.clip(scores, _TAIL, 1 - _TAIL)
    odds: npt.NDArray[np.float64] = np.log(inside / (1 - inside))
    return odds


def _scores(report: Report, system: str | None) -> tuple[str, dict[str, npt.NDArray[np.float64]]]:
    """Sort a system's scores by what is known of the passage; leave out what none belongs to."""
    if system is None and not report.reranking_systems:
        msg = "no system of this report reranks: name the one whose scores to draw"
        raise ValueError(msg)
    system = report.reranking_systems[0] if system is None else system
    if system not in report.systems:
        msg = f"no system {system!r} in this report, which has {list(report.systems)}"
        raise ValueError(msg)
    least = report.settings.min_relevance
    relevant = f"relevant (grade {least} or above)"
    others = f"judged not relevant (below grade {least})"
    groups: dict[str, list[float]] = {relevant: [], others: [], "not judged": []}
    for query, found in report.systems[system].rankings.items():
        for one in found:
            grade = report.qrels[query].get(one.id)
            name = "not judged" if grade is None else relevant if grade >= least else others
            groups[name] += [] if one.score is None else [one.score]
    if not any(groups.values()):
        msg = f"system {system!r} has no scores: draw those of one that reranks"
        raise ValueError(msg)
    return system, {name: np.array(scores) for name, scores in groups.items() if scores}
