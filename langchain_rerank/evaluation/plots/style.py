"""What all figures share: how they are made, their colours, and text as it is."""

from __future__ import annotations

from io import BytesIO
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np

from langchain_rerank.evaluation.runs import require_eval
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    from langchain_rerank.evaluation.report import Report
    from langchain_rerank.evaluation.sweep_report import Sweep

BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
)
COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")
_FADED = 0.55
_LONGEST = 400
_LETTER = 0.085
"""Width of a letter of a title, in inches."""


def new_figure(width: float, height: float, *, arranged: bool = True) -> Figure:
    """Make an empty figure, sized in inches, that Jupyter shows without pyplot.

    Args:
        width: In inches.
        height: In inches.
        arranged: Let matplotlib arrange axes and texts; else they stay where they are put.
    """
    require_eval("matplotlib", purpose="Plotting")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained" if arranged else None)
    # Jupyter learns how to show matplotlib's own figures only when pyplot is imported.
    figure._repr_png_ = lambda: _png(figure)  # type: ignore[attr-defined]  # IPython's protocol
    return figure


def _png(figure: Figure) -> tuple[bytes, dict[str, int]]:
    """Draw a figure twice as fine, for fine screens."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=2 * figure.dpi)
    width, height = (figure.get_size_inches() * figure.dpi).astype(int).tolist()
    return buffer.getvalue(), {"width": width, "height": height}


def ink() -> str:
    """Return the colour of text, which differs between light and dark style sheets."""
    import matplotlib as mpl
    from matplotlib.colors import to_hex

    return to_hex(mpl.rcParams["text.color"])


def faded(strength: float = _FADED) -> str:
    """Return the colour of text, blended into the background."""
    import matplotlib as mpl
    from matplotlib.colors import to_hex, to_rgb

    text, ground = (to_rgb(mpl.rcParams[key]) for key in ("text.color", "axes.facecolor"))
    mixed = strength * np.array(text) + (1 - strength) * np.array(ground)
    return to_hex(tuple(mixed.tolist()))


def plain(text: str) -> str:
    """Return text of others for a figure: one line, and no formula between dollar signs."""
    line = " ".join(well_formed(text[:_LONGEST]).split())
    return "".join(mark for mark in line if mark.isprintable()).replace("$", r"\$")


def wrapped(text: str, width: int = 32, lines: int = 3) -> str:
    """Return text of others on up to three lines, so that names that end differently stay so."""
    return "\n".join(wrap(plain(text), width, max_lines=lines, placeholder="…"))


def head(figure: Figure, *lines: str) -> None:
    """Write a title at the figure's left edge, broken where it would be too wide."""
    letters = int(figure.get_figwidth() / _LETTER)
    title = "\n".join(wrapped(line, letters) for line in lines if line)
    figure.suptitle(title, fontsize="medium", x=0.01, ha="left")


def fit(text: Text, width: float) -> None:
    """Cut a text's end off until it is no wider than `width`, in pixels of its figure."""
    whole = text.get_text()
    length = len(whole)
    while text.get_window_extent().width > width and length > 1:
        share = width / text.get_window_extent().width
        length = max(1, min(length - 1, int(length * share)))
        text.set_text(whole[:length].rstrip("\\ .,;:") + "…")


def bare(axes: Axes) -> None:
    """Leave of a frame what carries an axis, and put light grid lines behind everything."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(faded())
    axes.tick_params(color=faded(), labelsize="small")
    axes.set_axisbelow(True)


def name_of(results: Report | Sweep) -> str:
    """Return the data set's name as the end of a title; nothing if it has none."""
    return f" – {results.dataset}" if results.dataset else ""
