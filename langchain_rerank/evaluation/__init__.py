"""Does reranking help, at which depth, and what does it cost: measured on labelled questions.

The names below are imported when first used. Measures, statistics and data frames need
`pip install "langchain-rerank[eval]"`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langchain_rerank.errors import EvaluationError
    from langchain_rerank.evaluation.datasets import Dataset
    from langchain_rerank.evaluation.evaluator import evaluate
    from langchain_rerank.evaluation.generate import generate_dataset
    from langchain_rerank.evaluation.line_plots import plot_rank_movement, plot_tradeoff
    from langchain_rerank.evaluation.loading import load_beir, load_ir_dataset
    from langchain_rerank.evaluation.plots import plot_measures, plot_scores
    from langchain_rerank.evaluation.report import Report
    from langchain_rerank.evaluation.runs import read_run, write_run
    from langchain_rerank.evaluation.sweep_report import Sweep
    from langchain_rerank.evaluation.sweeper import sweep
    from langchain_rerank.evaluation.systems import RerankedRun
    from langchain_rerank.evaluation.threshold import suggest_threshold

__all__ = [
    "Dataset",
    "EvaluationError",
    "Report",
    "RerankedRun",
    "Sweep",
    "evaluate",
    "generate_dataset",
    "load_beir",
    "load_ir_dataset",
    "plot_measures",
    "plot_rank_movement",
    "plot_scores",
    "plot_tradeoff",
    "read_run",
    "suggest_threshold",
    "sweep",
    "write_run",
]

_HOMES = {
    "datasets": ["Dataset"],
    "evaluator": ["evaluate"],
    "generate": ["generate_dataset"],
    "loading": ["load_beir", "load_ir_dataset"],
    "line_plots": ["plot_rank_movement", "plot_tradeoff"],
    "plots": ["plot_measures", "plot_scores"],
    "report": ["Report"],
    "runs": ["read_run", "write_run"],
    "sweep_report": ["Sweep"],
    "sweeper": ["sweep"],
    "systems": ["EvaluationError", "RerankedRun"],
    "threshold": ["suggest_threshold"],
}


def __getattr__(name: str) -> object:
    home = next((one for one, names in _HOMES.items() if name in names), None)
    if home is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
