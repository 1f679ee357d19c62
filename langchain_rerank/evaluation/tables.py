"""Words and tables, for Markdown, notebooks and terminals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from html import escape
from typing import TYPE_CHECKING

from langchain_rerank.evaluation.measures import Draws, questions_needed

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt
    import pandas as pd

NOTHING = "–"


class Shown(ABC):
    """What shows itself as words, tables of text and notes."""

    __slots__ = ()
    dataset: str
    draws: Draws
    per_query: pd.DataFrame
    notes: Sequence[str]

    @property
    def title(self) -> str:
        """The data set, if it has a name, and how many queries it has."""
        count = len(self.per_query.index.unique(-1))
        name = f"{self.dataset}: " if self.dataset else ""
        return f"{name}{count} {'query' if count == 1 else 'queries'}"

    @property
    def intervals(self) -> str:
        """What the intervals are; 0.995 is "99.5%", not "100%"."""
        return f"{100 * self.draws['confidence']:g}% bootstrap intervals"

    @abstractmethod
    def _introduction(self) -> list[str]:
        """Say what was found, then what was measured and how."""

    @abstractmethod
    def _tables(self) -> dict[str, pd.DataFrame]:
        """Lay out what was found, by title."""

    def to_markdown(self) -> str:
        """Return what it means and the tables as GitHub's Markdown."""

        def cell(text: str) -> str:
            return " ".join(text.split()).replace("|", "\\|")

        parts = list(map(cell, self._introduction()))
        for title, table in self._tables().items():
            aligned = ["---", *["---:"] * (len(table.columns) - 1)]
            rows = [table.columns, aligned, *table.to_numpy().tolist()]
            lines = [f"| {' | '.join(map(cell, row))} |" for row in rows]
            parts += [f"**{cell(title)}**", "\n".join(lines)]
        parts += ["\n".join(f"- {cell(note)}" for note in self.notes)] if self.notes else []
        return "\n\n".join(parts) + "\n"

    def _repr_html_(self) -> str:
        import pandas as pd

        parts = [f"<p>{escape(line)}</p>" for line in self._introduction()]
        with pd.option_context("display.max_colwidth", None):
            for title, table in self._tables().items():
                parts += [f"<p>{escape(title)}</p>", table.to_html(index=False, border=0)]
        parts += [f"<p>{escape(note)}</p>" for note in self.notes]
        return f"<div>{''.join(parts)}</div>"


def more_questions(differences: npt.NDArray[np.float64]) -> str:
    """Say how many judged questions would tell a difference from chance."""
    needed = questions_needed(differences)
    if needed is None:
        return ""
    return (
        f" About {needed:,} judged questions would tell one of this size; "
        f"here are {len(differences):,}."
    )
