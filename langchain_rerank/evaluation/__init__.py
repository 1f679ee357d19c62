"""Does reranking help, at which depth, and what does it cost: measured on labelled questions.

The names below are imported when first used. Measures, statistics and data frames need
`pip install "langchain-rerank[eval]"`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langchain_rerank.errors import EvaluationError
    from langchain_rerank.evaluation.beir import load_beir
    from langchain_rerank.evaluation.datasets import Dataset
    from langchain_rerank.evaluation.evaluator import evaluate
    from langchain_rerank.evaluation.generate import generate_dataset
    from langchain_rerank.evaluation.ir_dataset import load_ir_dataset
    from langchain_rerank.evaluation.report import Report
    from langchain_rerank.evaluation.runs import read_run, write_run
    from langchain_rerank.evaluation.systems import RerankedRun

__all__ = [
    "Dataset",
    "EvaluationError",
    "Report",
    "RerankedRun",
    "evaluate",
    "generate_dataset",
    "load_beir",
    "load_ir_dataset",
    "read_run",
    "write_run",
]

_HOMES = {
    "Dataset": "evaluation.datasets",
    "EvaluationError": "errors",
    "Report": "evaluation.report",
    "RerankedRun": "evaluation.systems",
    "evaluate": "evaluation.evaluator",
    "generate_dataset": "evaluation.generate",
    "load_beir": "evaluation.beir",
    "load_ir_dataset": "evaluation.ir_dataset",
    "read_run": "evaluation.runs",
    "write_run": "evaluation.runs",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(f"langchain_rerank.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
