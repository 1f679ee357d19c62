"""One query's documents on their way from the first system's ranks to another's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_rerank.evaluation.plots.style import (
    BLUE,
    ORANGE,
    faded,
    fit,
    ink,
    new_figure,
    plain,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from langchain_rerank.evaluation.results import Move
    from langchain_rerank.evaluation.report import Report

_WIDTH = 10.0
_ROW = 0.27
_HEAD = 0.85
_FOOT = 0.45
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

    figure = new_figure(_WIDTH, _HEAD + rows * _ROW + _FOOT, arranged=False)
    height = figure.get_figheight()
    axes = figure.add_axes((0.02, _FOOT / height, 0.96, rows * _ROW / height))
    axes.set(xlim=(_LEFT, _RIGHT), ylim=(rows + 0.3, 0.3))
    axes.axis("off")
    ways = [_Way(move, _look(move.grade, report), old[move.id], new[move.id]) for move in moves]
    for way in ways:
        _draw(axes, way)
    if rows > depth + 1:
        _draw_cut(axes, depth)
    _head(figure, axes, report, (query_id, system))
    looks = {way.look.meaning: way.look for way in ways}
    words = {_RELEVANT: f"relevant (disc: grade {report.settings.min_relevance} or above)"}
    axes.legend(
        handles=[looks[one].handle(words.get(one, one)) for one in _ORDER if one in looks],
        loc="upper left",
        bbox_to_anchor=(0, 0),
        ncols=4,
        frameon=False,
        fontsize="small",
        handlelength=3,
    )
    return figure


@dataclass(frozen=True, slots=True)
class _Look:
    """How a document is drawn, and what that means."""

    meaning: str
    color: str
    width: float
    style: str = "-"
    filled: bool = True

    def handle(self, label: str) -> Any:
        """Return a line for the legend."""
        from matplotlib.lines import Line2D

        return Line2D([], [], label=label, **self.line())

    def line(self) -> dict[str, Any]:
        """Return the arguments of a line with an end marker."""
        return {
            "color": self.color,
            "linewidth": self.width,
            "linestyle": self.style,
            "marker": "o",
            "markersize": 5,
            "markerfacecolor": self.color if self.filled else "none",
        }


@dataclass(frozen=True, slots=True)
class _Way:
    """A document's line: how it looks, and its two ends in rows from the top."""

    move: Move
    look: _Look
    start: float
    end: float


def _heights(ranks: Mapping[str, int | None], depth: int) -> dict[str, float]:
    """Return each document's row: its rank, or if that is below the cut, the next one there."""
    inside = {one: float(rank) for one, rank in ranks.items() if rank and rank <= depth}
    below = [one for one in ranks if one not in inside]
    below.sort(key=lambda one: (ranks[one] is None, ranks[one] or 0))
    return inside | {one: depth + _CUT + row for row, one in enumerate(below, start=1)}


_RELEVANT, _LOWER, _ZERO, _UNJUDGED = "relevant", "lower grade", "grade 0", "not judged"
_ORDER = (_RELEVANT, _LOWER, _ZERO, _UNJUDGED)


def _look(grade: int | None, report: Report) -> _Look:
    if grade is None:
        return _Look(_UNJUDGED, faded(0.45), 1.0, ":", filled=False)
    if grade <= 0:
        return _Look(_ZERO, faded(0.45), 1.0)
    least = report.settings.min_relevance
    if grade < least:
        return _Look(_LOWER, ORANGE, 1.4, "--")
    return _Look(_RELEVANT, BLUE, min(2.0 + 0.8 * (grade - least), 4.0))


def _draw(axes: Axes, way: _Way) -> None:
    """Draw a line, its ranks, the disc with its grade, and the text's start."""
    move, look = way.move, way.look
    order = 2 + (look.width if look.filled else 0)
    axes.plot([0, 1], [way.start, way.end], gid=move.id, zorder=order, **look.line())
    axes.plot(
        *(1, way.end),
        marker="o",
        markersize=11,
        color=look.color,
        markerfacecolor=look.color if look.filled else axes.get_facecolor(),
        zorder=order + 0.1,
    )
    grade = "?" if move.grade is None else str(move.grade)
    axes.text(
        *(1, way.end, grade),
        ha="center",
        va="center_baseline",
        fontsize="x-small",
        weight="bold",
        color="white" if look.filled else ink(),
        zorder=order + 0.2,
    )
    middle: dict[str, Any] = {"va": "center_baseline", "fontsize": "small"}
    weight = "bold" if look.meaning == _RELEVANT else "normal"
    for x, y, rank in ((-0.04, way.start, move.old_rank), (1.11, way.end, move.new_rank)):
        axes.text(x, y, "–" if rank is None else str(rank), ha="right", weight=weight, **middle)
    color = ink() if look.meaning in (_RELEVANT, _LOWER) else faded(0.7)
    label = axes.text(1.14, way.end, plain(move.text) or plain(move.id), color=color, **middle)
    fit(label, _pixels(axes, 1.14, _RIGHT))


def _pixels(axes: Axes, left: float, right: float) -> float:
    (start, _), (end, _) = axes.transData.transform([(left, 1), (right, 1)])
    return float(end - start)


def _draw_cut(axes: Axes, depth: int) -> None:
    y = depth + (1 + _CUT) / 2
    axes.plot([_LEFT, _RIGHT], [y, y], color=faded(0.4), linewidth=0.8, dashes=(6, 4), zorder=1)
    axes.text(
        *(_RIGHT, y + 0.05),
        f"below rank {depth}",
        ha="right",
        va="top",
        fontsize="x-small",
        color=faded(0.7),
    )


def _head(figure: Figure, axes: Axes, report: Report, shown: tuple[str, str]) -> None:
    """Write the title, and each system's name and measure above its ranks."""
    query_id, system = shown
    measure = report.settings.measures[0]
    top = axes.get_position().y1
    inch = 1 / figure.get_figheight()
    title = figure.text(
        *(0.02, 1 - 0.1 * inch),
        f"Ranks before and after: {plain(report.queries[query_id])}",
        va="top",
        weight="bold",
    )
    fit(title, 0.96 * figure.bbox.width)
    for name, x, end in ((report.baseline, _LEFT, 0.9), (system, 0.96, _RIGHT)):
        value = report.systems[name].per_query[measure][query_id]
        left = figure.transFigure.inverted().transform(axes.transData.transform((x, 1)))[0]
        label = figure.text(left, top + 0.27 * inch, plain(name), va="bottom", weight="bold")
        label.set_fontsize("small")
        fit(label, _pixels(axes, x, end))
        figure.text(left, top + 0.08 * inch, f"{measure} {value:.4f}", fontsize="small")
