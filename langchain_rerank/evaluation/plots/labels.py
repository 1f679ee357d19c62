"""Labels of points that don't lie on each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from langchain_rerank.evaluation.plots.style import faded, fit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

_DIRECTIONS = ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0))
_DISTANCES = (6, 14, 26, 40)
"""In points: the second and further ones get a line to their point."""
_WIDEST = 0.42
"""Share of the axes that a label may take."""
_MARKER = 5
_CROSSED = 0.25
"""What a place on a line counts, where one on another label counts 4."""
_SIDES = {-1: "right", 0: "center", 1: "left"}
_HEIGHTS = {-1: "top", 0: "center", 1: "bottom"}


def place_labels(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    labels: Sequence[str],
    *,
    avoid: Sequence[tuple[float, float]] = (),
) -> list[Annotation]:
    """Label points where there is room; a label far from its point gets a line to it.

    Call it last: places are found for the axes as they are laid out then.

    Args:
        axes: With everything else drawn, and the limits set.
        points: In data coordinates.
        labels: One a point; an empty one is left out.
        avoid: Places along lines, in data coordinates, better kept free as well.

    Returns:
        The labels, in order.
    """
    from matplotlib.patheffects import withStroke

    figure = axes.figure
    figure.draw_without_rendering()  # type: ignore[union-attr]  # a subfigure is never given
    pixels = axes.transData.transform
    marks = pixels(points)
    taken = [_around(x, y, _MARKER * figure.dpi / 72) for x, y in marks]
    lines = [_around(x, y, 1) for x, y in pixels(avoid)] if len(avoid) else []
    placed = []
    for point, mark, label in zip(points, marks, labels, strict=True):
        if not label:
            continue
        note = axes.annotate(
            label,
            point,
            xytext=(0, 0),
            textcoords="offset points",
            fontsize="small",
            linespacing=1,
            path_effects=[withStroke(linewidth=2.5, foreground=axes.get_facecolor())],
            zorder=5,
        )
        fit(note, _WIDEST * axes.bbox.width)
        taken.append(_put(axes, note, mark, taken, lines))
        placed.append(note)
    return placed


def _put(
    axes: Axes,
    note: Annotation,
    mark: Sequence[float],
    taken: Sequence[Bbox],
    lines: Sequence[Bbox],
) -> Bbox:
    """Move a label to the place near its point that covers least, and return that place."""
    from matplotlib.transforms import Bbox

    extent, frame = note.get_window_extent(), axes.bbox
    pixel = axes.figure.dpi / 72
    best, least = None, np.inf
    for x, y, distance in _places():
        left = mark[0] + x * pixel - extent.width * {-1: 1, 0: 0.5, 1: 0}[int(np.sign(x))]
        low = mark[1] + y * pixel - extent.height * {-1: 1, 0: 0.5, 1: 0}[int(np.sign(y))]
        box = Bbox.from_bounds(left, low, extent.width, extent.height)
        outside = not (frame.x0 <= box.x0 and box.x1 <= frame.x1)
        outside |= not (frame.y0 <= box.y0 and box.y1 <= frame.y1)
        cost = 4 * box.count_overlaps(taken) + _CROSSED * box.count_overlaps(lines)
        cost += 20 * outside + distance / 20
        if cost < least:
            best, least = (x, y, distance, box), cost
    x, y, distance, box = best  # type: ignore[misc]  # some place costs less than infinity
    note.set_position((x, y))
    note.set(ha=_SIDES[int(np.sign(x))], va=_HEIGHTS[int(np.sign(y))])
    if distance > _DISTANCES[0]:
        arrow = {"arrowstyle": "-", "color": faded(), "linewidth": 0.7, "shrinkA": 0}
        axes.annotate("", note.xy, (x, y), textcoords="offset points", arrowprops=arrow)
    return box


def _places() -> Iterator[tuple[float, float, float]]:
    """Yield offsets in points, the nearest first, and how far they are."""
    for distance in _DISTANCES:
        for x, y in _DIRECTIONS:
            yield x * distance, y * distance, distance


def _around(x: float, y: float, radius: float) -> Bbox:
    from matplotlib.transforms import Bbox

    return Bbox.from_extents(x - radius, y - radius, x + radius, y + radius)
