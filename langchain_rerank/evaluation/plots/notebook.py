"""A figure that shows itself in a notebook; imported where a figure is made."""

from __future__ import annotations

from io import BytesIO

from matplotlib.figure import Figure

_SHARPNESS = 2


class NotebookFigure(Figure):
    """A figure that Jupyter shows, sharp on fine screens.

    Jupyter learns how to show matplotlib's own figures only when pyplot is imported.
    """

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=_SHARPNESS * self.dpi)
        width, height = (self.get_size_inches() * self.dpi).astype(int).tolist()
        return buffer.getvalue(), {"width": width, "height": height}
