"""nDCG@10 of the systems whose speed is compared, where there are judgments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_rerank.compressor import Reranker
from langchain_rerank.cross_encoders.onnx import OnnxCrossEncoder
from langchain_rerank.cross_encoders.torch import TorchCrossEncoder
from langchain_rerank.evaluation.evaluator import evaluate
from langchain_rerank.evaluation.systems import RerankedRun

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_rerank.bench.tasks import Task
    from langchain_rerank.evaluation.datasets import Dataset
    from langchain_rerank.evaluation.runs import Run
    from langchain_rerank.evaluation.systems import AnySystem

_MEASURE = "nDCG@10"
FIRST_STAGE = "first stage"


def ndcg_at_10(
    task: Task, judged: tuple[Dataset, Run], keys: set[str], progress: Callable[[str], None]
) -> dict[str, float]:
    """Measure our float32 and int8 on every judged query.

    Args:
        task: Whose weights, and how many candidates.
        judged: Judgments and the first stage's run.
        keys: Of the systems that were timed; "torch" and "onnx" are measured.
        progress: Is told what is being done.

    Returns:
        nDCG@10 by key of the system, and of the first stage alone.
    """
    dataset, run = judged
    checkpoint = task.models.checkpoint
    cross_encoders = {
        "torch": TorchCrossEncoder(model=checkpoint, device=task.models.device),
        "onnx": OnnxCrossEncoder(model=checkpoint),
    }
    systems: dict[str, AnySystem] = {FIRST_STAGE: run}
    for key, cross_encoder in cross_encoders.items():
        if key in keys:
            reranker = Reranker(model=cross_encoder, top_n=None, deduplicate=False)
            systems[key] = RerankedRun(run, reranker, fetch_k=task.size.candidates)
    progress(f"{_MEASURE} over {len(dataset.qrels)} queries")
    report = evaluate(systems, dataset, (_MEASURE,), show_progress=False)
    return {name: result.summaries[_MEASURE].mean for name, result in report.systems.items()}
