"""Figures of an evaluation, by matplotlib.

Each function returns a `matplotlib.figure.Figure`, which shows itself as the last expression of a
notebook's cell and is written by `savefig`. Nothing of pyplot is touched: no backend is chosen and
no figure stays open. Colours are those of Okabe and Ito, "Color universal design", 2008; what they
tell is told by a shape or a width as well.
"""

from __future__ import annotations

from langchain_rerank.evaluation.plots.panels import plot_measures, plot_scores
from langchain_rerank.evaluation.plots.rank_movement import plot_rank_movement
from langchain_rerank.evaluation.plots.tradeoff import plot_tradeoff

__all__ = ["plot_measures", "plot_rank_movement", "plot_scores", "plot_tradeoff"]
