"""Does reranking help, at which depth, and what does it cost: measured on labelled questions.

`evaluate` and `sweep` measure and advise; `suggest_threshold` and `suggest_abstention` say below
which score to drop passages, and when to answer that there is no answer. All of it needs
`pip install "langchain-rerank[eval]"`, whose libraries are imported where they are first needed.
"""

from langchain_rerank.errors import EvaluationError
from langchain_rerank.evaluation.datasets import Dataset
from langchain_rerank.evaluation.evaluator import evaluate
from langchain_rerank.evaluation.generate import generate_dataset
from langchain_rerank.evaluation.loading import (
    load_beir,
    load_ir_dataset,
    read_run,
    write_beir,
    write_run,
)
from langchain_rerank.evaluation.plots import (
    plot_measures,
    plot_rank_movement,
    plot_scores,
    plot_tradeoff,
)
from langchain_rerank.evaluation.report import Report
from langchain_rerank.evaluation.sweep_report import Sweep
from langchain_rerank.evaluation.sweeper import sweep
from langchain_rerank.evaluation.systems import RerankedRun
from langchain_rerank.evaluation.threshold import suggest_abstention, suggest_threshold

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
    "suggest_abstention",
    "suggest_threshold",
    "sweep",
    "write_beir",
    "write_run",
]
