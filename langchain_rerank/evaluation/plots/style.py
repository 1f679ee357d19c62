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

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BLUE, ORANGE = COLORS[0], COLORS[4]
MARKERS = ("o", "s", "^", "D", "v", "P")


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure, sized in inches, that Jupyter shows without pyplot."""
    require_eval("matplotlib", purpose="Plotting")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    # Jupyter learns how to show matplotlib's own figures only when pyplot is imported.
    figure._repr_png_ = lambda: _png(figure)  # type: ignore[attr-defined]  # IPython's protocol
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

    text, ground = (to_rgb(mpl.rcParams[key]) for key in ("text.color", "axes.facecolor"))
    mixed = strength * np.array(text) + (1 - strength) * np.array(ground)
    return to_hex(tuple(mixed.tolist()))


def plain(text: str, longest: int = 400) -> str:
    """Return text of others for a figure: one line, and no formula between dollar signs."""
    line = " ".join(well_formed(text[:longest]).split())
    return "".join(mark for mark in line if mark.isprintable()).replace("$", r"\$")


def wrapped(text: str, width: int = 32) -> str:
    """Return text of others on up to three lines, so that names that end differently stay so."""
    return "\n".join(wrap(plain(text), width, max_lines=3, placeholder="…"))


def head(figure: Figure, *lines: str) -> None:
    """Write a title at the figure's left edge, broken where it would be too wide."""
    letters = int(figure.get_figwidth() / 0.085)
    title = "\n".join(wrapped(line, letters) for line in lines if line)
    figure.suptitle(title, fontsize="medium", x=0.01, ha="left")


def fit(text: Text, width: float) -> None:
    """Cut a text's end off until it is no wider than `width`, in pixels of its figure."""
    whole = text.get_text()
    length = len(whole)
    while (taken := text.get_window_extent().width) > width and length > 1:
        length = max(1, min(length - 1, int(length * width / taken)))
        text.set_text(whole[:length].rstrip("\\ .,;:") + "…")


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
