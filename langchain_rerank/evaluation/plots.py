"""Figures of an evaluation, by matplotlib, which the extra `eval` installs.

Each function returns a `matplotlib.figure.Figure`, which shows itself as the last expression of a
notebook's cell and is written by `savefig`. Nothing of pyplot is touched: no backend is chosen and
no figure stays open. Colours are those of Okabe and Ito, "Color universal design", 2008; what they
tell is told by a shape or a width as well.
"""

from __future__ import annotations

import itertools
import math
from io import BytesIO
from textwrap import shorten, wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from langchain_rerank.evaluation.measures import require_eval
from langchain_rerank.evaluation.sweep_report import FIRST_STAGE_ALONE
from langchain_rerank.ranking import are_shares
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from langchain_rerank.evaluation.report import Report
    from langchain_rerank.evaluation.sweep_report import Sweep

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BLUE, ORANGE = _COLORS[0], _COLORS[4]
GRAY = "0.5"  # seen on white and on black, as style sheets have it
_TAIL = 1e-6  # where the axis of log-odds ends: a score of 0 or 1 has none


def _figure(width: float, height: float, *title: str) -> Figure:
    """Make a figure, sized in inches, that Jupyter shows without pyplot, with lines of a title."""
    require_eval("Plotting")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")

    def png() -> tuple[bytes, dict[str, int]]:
        """Draw a figure twice as fine, for fine screens."""
        buffer = BytesIO()
        figure.savefig(buffer, format="png", dpi=2 * figure.dpi)
        pixels = (figure.get_size_inches() * figure.dpi).astype(int).tolist()
        return buffer.getvalue(), dict(zip(("width", "height"), pixels, strict=True))

    # Jupyter learns how to show matplotlib's own figures only when pyplot is imported.
    figure._repr_png_ = png  # type: ignore[attr-defined]  # IPython's protocol
    lines = "\n".join(_wrapped(line, int(width / 0.085)) for line in title if line)
    figure.suptitle(lines, fontsize="medium", x=0.01, ha="left")
    return figure


def _wrapped(text: str, width: int = 32) -> str:
    """Return text of others on up to three lines, so that names that end differently stay so."""
    return "\n".join(wrap(_plain(text), width, max_lines=3, placeholder="…"))


def _plain(text: str) -> str:
    """Return text of others for a figure: one line, and no formula between dollar signs."""
    line = "".join(mark for mark in " ".join(well_formed(text).split()) if mark.isprintable())
    return line.replace("$", r"\$")


def _bare(axes: Axes, grid: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=GRAY, alpha=0.25)


def plot_measures(report: Report, *, differences: bool = False) -> Figure:
    """Draw each measure's mean and its bootstrap interval, a panel a measure, a row a system.

    A dashed line goes down from the first system's mean. Intervals of two systems may overlap
    though one is better on nearly every query: `differences` draws those to the first system.

    Raises:
        ValueError: Differences are asked of a report with one system.
    """
    names = report.names[1:] if differences else report.names
    if not names:
        msg = f"differences need two systems, this report has '{report.names[0]}' alone"
        raise ValueError(msg)
    what = f"Difference to {report.names[0]}" if differences else "Mean"
    column, form = (" difference", "+.4f") if differences else ("", ".4f")
    title = f"{what}, {report.title}"
    bars = f"bars: {report.intervals}"
    figure = _figure(2.2 * len(report.measures) + 2.6, 0.5 * len(names) + 1.3, title, bars)
    panels = figure.subplots(1, len(report.measures), squeeze=False, sharey=True)[0]
    for axes, measure in zip(panels, report.measures, strict=True):
        found = [report.estimate(name, measure + column) for name in names]
        start = 0.0 if differences else found[0].mean
        axes.axvline(start, color=GRAY, linewidth=1, dashes=(4, 3), zorder=1)
        for y, one in enumerate(found):
            axes.plot([one.low, one.high], [y, y], color=BLUE, linewidth=2)
            axes.plot(one.mean, y, "o", markersize=7, color=BLUE, zorder=3)
            shown = f"{one.mean:{form}}"
            axes.text(one.mean, y - 0.15, shown, ha="center", va="bottom", fontsize="small")
        _bare(axes, "x")
        axes.set(xlabel=_plain(measure), xmargin=0.18, ylim=(len(names) - 0.6, -0.75))
    panels[0].set_yticks(range(len(names)), map(_wrapped, names), fontsize="small")
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
        ValueError: There is no such system, it reranked nothing, or the threshold is not a finite
            number.
    """
    if threshold is not None and not math.isfinite(threshold):
        msg = f"threshold must be a finite number, got {threshold!r}"
        raise ValueError(msg)
    system, scored = report.scored(system)
    least, grades, scores = report.min_relevance, scored["grade"], scored["score"].to_numpy()
    kinds = {
        f"relevant (grade {least} or above)": (grades >= least, BLUE),
        f"judged not relevant (below grade {least})": (grades < least, ORANGE),
        "not judged": (grades.isna(), GRAY),
    }
    kinds = {name: (those, color) for name, (those, color) in kinds.items() if those.any()}
    verdict, kept, relevant = "", scores >= (threshold or 0), (grades >= least).to_numpy()
    if threshold is not None:
        right = [
            f"{one.mean():.3f}" if len(one) else "–" for one in (relevant[kept], kept[relevant])
        ]
        verdict = f"Threshold {threshold:g}: of the scored, precision {right[0]}, recall {right[1]}"
    title = f"Scores of {system}, {report.title}"
    figure = _figure(7.2, 1.35 * len(kinds) + 1.15, title, verdict)
    panels = figure.subplots(len(kinds), 1, squeeze=False, sharex=True)[:, 0]
    edges = np.histogram_bin_edges(scores, 40)
    if log_odds := are_shares(scores):
        scores = np.clip(scores, _TAIL, 1 - _TAIL)
        edges = 1 / (1 + np.exp(-np.histogram_bin_edges(np.log(scores / (1 - scores)), 40)))
    for axes, (name, (those, color)) in zip(panels, kinds.items(), strict=True):
        # Clipped, as rounding must push none of them out.
        axes.hist(np.clip(scores[those], edges[0], edges[-1]), edges, color=color, alpha=0.85)
        shown = f"{those.sum():,}"
        if threshold is not None:
            axes.axvline(threshold, color=GRAY, linewidth=1.2, dashes=(5, 3))
            shown = f"{kept[those].sum():,} of {shown} kept"
        axes.set_title(f"{name}: {shown}", loc="left", fontsize="small", pad=3)
        _bare(axes, "y")
        axes.locator_params(axis="y", integer=True)
    if log_odds:
        axes.set_xscale("logit")
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(f"score{' (spaced by log-odds)' if log_odds else ''}")
    figure.supylabel("passages", fontsize="medium")
    return figure


def plot_rank_movement(
    report: Report, query_id: str, system: str | None = None, *, depth: int = 10
) -> Figure:
    """Draw where reranking moved one query's documents: a line from old to new rank for each.

    Shown are the first `depth` of either ranking. Those that come from further down or go there
    start or end below a dashed line, at their true ranks. Relevant documents have thick blue
    lines, and each disc holds the grade.

    Args:
        report: The old ranks are its first system's.
        query_id: Which query.
        system: Of the new ranks; None takes the second one.
        depth: How many ranks of either ranking to show.

    Raises:
        ValueError: There is no such query or system, only one system, no document to show, or
            `depth` is not positive.
    """
    system = report.other_system(system)
    moves = report.moves(query_id, system, depth=depth, unmoved=True)
    if moves.empty:
        msg = f"neither '{report.names[0]}' nor '{system}' returned a document for {query_id!r}"
        raise ValueError(msg)
    least, measure = report.min_relevance, report.measures[0]
    heights = moves[["old_rank", "new_rank"]].astype(float).fillna(math.inf)
    # Ranks below the cut stand in order under the line; a missing one is last.
    below = heights.rank(method="first") - (heights <= depth).sum() + depth + 0.8
    heights = heights.where(heights <= depth, below)
    rows = heights.max(axis=None)
    found = [
        f"{name} {report.per_query.loc[(name, query_id), measure]:.4f}"
        for name in (report.names[0], system)
    ]
    title = f"Ranks before and after: {report.queries[query_id]}"
    figure = _figure(10, rows * 0.27 + 1.4, title, f"{measure}: {' → '.join(found)}")
    axes = figure.subplots()
    axes.set(xlim=(-0.15, 2.9), ylim=(rows + 0.8, 0.3))
    axes.axis("off")
    small: Any = {"va": "center_baseline", "fontsize": "small"}
    handles = {}
    for move, (start, end) in zip(moves.itertuples(), heights.to_numpy(), strict=True):
        kind, color, width, style = _look(move.grade, least)
        look: Any = {"color": color, "linewidth": width, "linestyle": style, "markersize": 5}
        [handles[kind]] = axes.plot([0, 1], [start, end], gid=move.id, marker="o", **look)
        disc: Any = {"boxstyle": "circle,pad=0.25", "facecolor": color, "linewidth": 0}
        grade = "?" if move.grade is None else str(move.grade)
        axes.text(1, end, grade, ha="center", color="white", bbox=disc, **small)
        for x, y, rank in ((-0.04, start, move.old_rank), (1.11, end, move.new_rank)):
            axes.text(x, y, str(rank or "–"), ha="right", **small)
        snippet = _plain(shorten(move.text, 75, placeholder="…") or move.id)
        axes.text(1.14, end, snippet, **small)
    if rows > depth:
        axes.axhline(depth + 0.9, color=GRAY, linewidth=0.8, dashes=(6, 4))
        axes.text(2.9, depth + 0.9, f"below rank {depth}", ha="right", va="top", fontsize="x-small")
    axes.legend(handles.values(), handles, loc="upper left", bbox_to_anchor=(0, 0), ncols=4)
    return figure


def _look(grade: int | None, least: int) -> tuple[str, str, float, str]:
    """Return what a grade means, and the colour, width and style of its line."""
    if grade is None:
        return "not judged", GRAY, 1, ":"
    if grade >= least:
        return f"relevant (grade {least} or above)", BLUE, min(2 + 0.8 * (grade - least), 4), "-"
    return ("lower grade", ORANGE, 1.4, "--") if grade > 0 else ("grade 0", GRAY, 1, "-")


def plot_tradeoff(sweep: Sweep) -> Figure:
    """Draw a sweep's quality against median latency, each model a line over `fetch_k`.

    A point is labelled with its `fetch_k`, in brackets the `first_stage_weight` that is best
    there, where it isn't 0. The gray steps are the frontier, above which nothing is both better and
    faster; a ring is the recommended setting, a dashed line a first stage that was not timed.

    Raises:
        ValueError: Nothing was timed.
    """
    advised = sweep.recommend().setting
    points = sweep.summary.loc[[*dict.fromkeys([*sweep.chosen().values(), advised])]].iloc[:, :4]
    points.columns = ["mean", "low", "high", "ms"]
    timed = points[points["ms"] > 0].sort_values("ms", kind="stable")
    if timed.empty:
        msg = "nothing here was timed"
        raise ValueError(msg)
    title = f"{sweep.measure} against latency, {sweep.title}"
    legend = f"bars: {sweep.intervals}; ring: recommended"
    labels = "numbers: fetch_k (first_stage_weight); steps: none is both better and faster"
    figure = _figure(7.6, 5.2, title, legend, labels)
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.set(xlabel="median latency (ms a query)", ylabel=sweep.measure, xmargin=0.14, ymargin=0.14)
    _bare(axes, "both")
    text: Any = {"ha": "right", "fontsize": "small"}
    for mean in points.loc[points["ms"] == 0, "mean"]:
        axes.axhline(mean, color=GRAY, linewidth=1, dashes=(5, 4), zorder=1)
        across = axes.get_yaxis_transform()
        axes.text(1, mean, f"{FIRST_STAGE_ALONE} (not timed)", transform=across, **text)
    colors = itertools.cycle(_COLORS)
    for model, line in timed.groupby("model", sort=False):
        alone = model == FIRST_STAGE_ALONE
        look: Any = {"color": GRAY} if alone else {"color": next(colors), "label": _wrapped(model)}
        bars = [line["mean"] - line["low"], line["high"] - line["mean"]]
        axes.errorbar(line["ms"], line["mean"], bars, fmt="o-", linewidth=1, zorder=2, **look)
        for (_, fetch_k, weight), one in line.iterrows():
            label = f"{fetch_k} ({weight:g})" if weight else str(fetch_k)
            at = (one["ms"], one["mean"])
            label = FIRST_STAGE_ALONE if alone else label
            axes.annotate(label, at, (-5, 5), textcoords="offset points", **text)
    ring: Any = {"color": GRAY, "markerfacecolor": "none", "markersize": 17}
    here = timed.loc[timed.index == advised]
    axes.plot(here["ms"], here["mean"], "o", gid="recommended", **ring)
    best = timed[timed["mean"] > timed["mean"].cummax().shift(fill_value=-math.inf)]
    left, right = axes.get_xlim()
    steps: Any = {"drawstyle": "steps-post", "color": GRAY, "linewidth": 3, "alpha": 0.4}
    xs, ys = [*best["ms"], right], [*best["mean"], best["mean"].iloc[-1]]
    axes.plot(xs, ys, gid="frontier", zorder=1, **steps)
    axes.set_xlim(left, right)
    figure.legend(loc="outside lower left", ncols=2, frameon=False, fontsize="small")
    return figure
