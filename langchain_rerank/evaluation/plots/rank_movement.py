"""One query's documents on their way from the first system's ranks to another's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_rerank.evaluation.plots.style import BLUE, ORANGE, faded, fit, new_figure, plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from langchain_rerank.evaluation.report import Report
    from langchain_rerank.evaluation.results import Move

_ROW = 0.27
_CUT = 0.8
"""Rows between the last rank shown and the first document below it."""
_LEFT, _RIGHT = -0.14, 2.9
"""Ends of the horizontal axis: lines run from 0 to 1, snippets stand behind them."""


def plot_rank_movement(
    report: Report, query_id: str, system: str | None = None, *, depth: int = 10
) -> Figure:
    """Draw where reranking moved one query's documents: a line from old to new rank for each.

    Shown are the documents among the first `depth` of either ranking. Those that come from
    further down or go there start or end below a dashed line, at their true ranks. Relevant
    documents have thick blue lines, thicker for higher grades, and each disc holds the grade.

    Args:
        report: The old ranks are its first system's.
        query_id: Which query.
        system: The system with the new ranks; None takes the second one.
        depth: How many ranks of either ranking to show.

    Raises:
        ValueError: There is no such query or system, only one system, no document to show, or
            `depth` is not positive.
        MissingDependencyError: The extra `eval` is not installed.
    """
    system = report.other_system(system)
    moves = report.moves(query_id, system, depth=depth, unmoved=True)
    if not moves:
        msg = f"neither '{report.baseline}' nor '{system}' returned a document for {query_id!r}"
        raise ValueError(msg)
    old = _heights({move.id: move.old_rank for move in moves}, depth)
    new = _heights({move.id: move.new_rank for move in moves}, depth)
    rows = max(*old.values(), *new.values()) + 0.5

    figure = new_figure(10, rows * _ROW + 1.3)
    # Snippets are cut where they end, so nothing may be moved afterwards.
    figure.set_layout_engine("none")
    height = figure.get_figheight()
    axes = figure.add_axes((0.02, 0.45 / height, 0.96, rows * _ROW / height))
    axes.set(xlim=(_LEFT, _RIGHT), ylim=(rows + 0.3, 0.3))
    axes.axis("off")
    least = report.settings.min_relevance
    handles = {}
    for move in moves:
        meaning, look = _look(move.grade, least)
        handles[meaning] = _draw(axes, move, look, old[move.id], new[move.id])
    if rows > depth + 1:
        y = depth + (1 + _CUT) / 2
        axes.plot([_LEFT, _RIGHT], [y, y], color=faded(0.4), linewidth=0.8, dashes=(6, 4))
        below: dict[str, Any] = {"fontsize": "x-small", "color": faded(0.7)}
        axes.text(_RIGHT, y + 0.05, f"below rank {depth}", ha="right", va="top", **below)
    _head(figure, axes, report, query_id, system)
    meanings = sorted(handles, key=_meanings(least).index)
    axes.legend(
        [handles[one] for one in meanings],
        meanings,
        loc="upper left",
        bbox_to_anchor=(0, 0),
        ncols=4,
        frameon=False,
        fontsize="small",
        handlelength=3,
    )
    return figure


def _heights(ranks: Mapping[str, int | None], depth: int) -> dict[str, float]:
    """Return each document's row: its rank, or if that is below the cut, the next one there."""
    inside = {one: float(rank) for one, rank in ranks.items() if rank and rank <= depth}
    below = [one for one in ranks if one not in inside]
    below.sort(key=lambda one: (ranks[one] is None, ranks[one] or 0))
    return inside | {one: depth + _CUT + row for row, one in enumerate(below, start=1)}


def _meanings(least: int) -> list[str]:
    relevant = f"relevant (disc: grade {least} or above)"
    return [relevant, "lower grade", "grade 0", "not judged"]


def _look(grade: int | None, least: int) -> tuple[str, dict[str, Any]]:
    """Return what a grade means, and how its line looks."""
    relevant, lower, zero, unjudged = _meanings(least)
    if grade is None:
        return unjudged, {"color": faded(0.45), "linewidth": 1.0, "linestyle": ":"}
    if grade <= 0:
        return zero, {"color": faded(0.45), "linewidth": 1.0}
    if grade < least:
        return lower, {"color": ORANGE, "linewidth": 1.4, "linestyle": "--"}
    return relevant, {"color": BLUE, "linewidth": min(2.0 + 0.8 * (grade - least), 4.0)}


def _draw(axes: Axes, move: Move, look: Mapping[str, Any], start: float, end: float) -> Any:
    """Draw a line, its ranks, the disc with its grade, and the text's start."""
    judged, color = move.grade is not None, look["color"]
    order = 2 + look["linewidth"] * judged
    face = color if judged else axes.get_facecolor()
    dot: dict[str, Any] = {"marker": "o", "markerfacecolor": face}
    [line] = axes.plot([0, 1], [start, end], gid=move.id, zorder=order, **look, **dot, markersize=5)
    axes.plot(1, end, markersize=11, color=color, zorder=order + 0.1, **dot)
    middle: dict[str, Any] = {"va": "center_baseline", "fontsize": "small"}
    axes.text(
        *(1, end, str(move.grade) if judged else "?"),
        ha="center",
        va="center_baseline",
        fontsize="x-small",
        color="white" if judged else faded(1),
        zorder=order + 0.2,
    )
    for x, y, rank in ((-0.04, start, move.old_rank), (1.11, end, move.new_rank)):
        axes.text(x, y, "–" if rank is None else str(rank), ha="right", **middle)
    shade = faded(1 if color in (BLUE, ORANGE) else 0.7)
    label = axes.text(1.14, end, plain(move.text) or plain(move.id), color=shade, **middle)
    fit(label, _pixels(axes, 1.14, _RIGHT))
    return line


def _pixels(axes: Axes, left: float, right: float) -> float:
    (start, _), (end, _) = axes.transData.transform([(left, 1), (right, 1)])
    return float(end - start)


def _head(figure: Figure, axes: Axes, report: Report, query_id: str, system: str) -> None:
    """Write the title, and each system's name and measure above its ranks."""
    measure = report.settings.measures[0]
    inch, top = 1 / figure.get_figheight(), axes.get_position().y1
    title = f"Ranks before and after: {plain(report.queries[query_id])}"
    fit(figure.text(0.02, 1 - 0.1 * inch, title, va="top", weight="bold"), 0.96 * figure.bbox.width)
    for name, x, end in ((report.baseline, _LEFT, 0.9), (system, 0.96, _RIGHT)):
        value = report.systems[name].per_query[measure][query_id]
        left = figure.transFigure.inverted().transform(axes.transData.transform((x, 1)))[0]
        label = figure.text(left, top + 0.27 * inch, plain(name), weight="bold", fontsize="small")
        fit(label, _pixels(axes, x, end))
        figure.text(left, top + 0.08 * inch, f"{measure} {value:.4f}", fontsize="small")
