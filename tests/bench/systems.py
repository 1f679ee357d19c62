"""The systems that are timed: ours, and those of other libraries that are installed."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

Pairs = list[tuple[str, str]]
Score = Callable[[Pairs], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Weights:
    """What every system loads, and where it runs it."""

    checkpoint: str
    """Name or folder of a Hugging Face checkpoint."""
    graph: str | None = None
    """Folder of an int8 ONNX graph of the same model with its tokenizer."""
    flashrank_graph: str | None = None
    """The same graph, laid out as FlashRank looks for it."""
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class System:
    """One way to score pairs."""

    name: str
    load: Callable[[Weights], Score]
    """Called in a process of its own."""
    needs_graph: bool = False


def _onnx(weights: Weights) -> Score:
    from langchain_rerank import OnnxCrossEncoder

    return OnnxCrossEncoder(model=weights.checkpoint).score


def _onnx_given(weights: Weights) -> Score:
    return _onnx(replace(weights, checkpoint=str(weights.graph)))


def _torch(dtype: str) -> Callable[[Weights], Score]:
    def load(weights: Weights) -> Score:
        from langchain_rerank import TorchCrossEncoder

        settings: dict[str, Any] = {"device": weights.device, "dtype": dtype}
        return TorchCrossEncoder(model=weights.checkpoint, **settings).score

    return load


def _flag(**settings: Any) -> Callable[[Weights], Score]:
    def load(weights: Weights) -> Score:
        from FlagEmbedding import FlagReranker

        # A list of one device: None would take every GPU.
        reranker = FlagReranker(
            weights.checkpoint,
            use_fp16=weights.device != "cpu",
            devices=[weights.device],
            **settings,
        )
        return reranker.compute_score

    return load


def _huggingface(weights: Weights) -> Score:
    from langchain_community.cross_encoders import HuggingFaceCrossEncoder

    settings = {"device": weights.device}
    return HuggingFaceCrossEncoder(model_name=weights.checkpoint, model_kwargs=settings).score


def _flashrank(weights: Weights) -> Score:
    from flashrank import Ranker, RerankRequest

    folder = Path(str(weights.flashrank_graph))
    # It keeps its models as cache_dir/name and takes the graph's file name from a table.
    ranker = Ranker(model_name=folder.name, cache_dir=str(folder.parent), log_level="WARNING")

    def score(pairs: Pairs) -> Sequence[float]:
        passages = [{"id": i, "text": passage} for i, (_, passage) in enumerate(pairs)]
        ranked = ranker.rerank(RerankRequest(query=pairs[0][0], passages=passages))
        return [found["score"] for found in sorted(ranked, key=lambda found: found["id"])]

    return score


SYSTEMS = {
    "onnx": System("langchain-rerank, ONNX int8", _onnx),
    "onnx-given": System("langchain-rerank, ONNX int8, given graph", _onnx_given, needs_graph=True),
    "torch-bf16": System("langchain-rerank, torch bfloat16", _torch("bfloat16")),
    "torch": System("langchain-rerank, torch float32", _torch("float32")),
    "flashrank": System("FlashRank, given graph", _flashrank, needs_graph=True),
    "huggingface": System("LangChain HuggingFaceCrossEncoder", _huggingface),
    "flag-16": System("FlagReranker, batch_size=16", _flag(batch_size=16)),
    "flag": System("FlagReranker, default", _flag()),
}


def chosen(only: list[str], weights: Weights) -> list[str]:
    """Return the keys of the systems to time: those of `only`, else all that can run there."""
    able = [key for key, system in SYSTEMS.items() if weights.graph or not system.needs_graph]
    if unable := [key for key in only if key not in able]:
        msg = f"expected systems out of {', '.join(able)}, got {', '.join(unable)}"
        raise ValueError(msg)
    return [key for key in able if not only or key in only]


@contextmanager
def laid_out_for_flashrank(weights: Weights) -> Iterator[Weights]:
    """Lay out the int8 graph in a temporary folder as FlashRank looks for it."""
    if weights.graph is None:
        yield weights
        return
    from transformers import AutoConfig

    graphs = sorted(Path(weights.graph).rglob("*.onnx"))
    if len(graphs) != 1:
        msg = f"expected one *.onnx file in {weights.graph}, found {len(graphs)}"
        raise ValueError(msg)
    config = AutoConfig.from_pretrained(weights.checkpoint)
    with tempfile.TemporaryDirectory() as temporary:
        # A name that FlashRank knows: it takes a graph's file name from a table, by model.
        folder = Path(temporary) / "ms-marco-MiniLM-L-12-v2"
        shutil.copytree(graphs[0].parent, folder)
        (folder / graphs[0].name).rename(folder / "flashrank-MiniLM-L-12-v2_Q.onnx")
        # transformers 5 leaves it out where it is the default; FlashRank reads it.
        full = {**config.to_dict(), "pad_token_id": config.pad_token_id}
        (folder / "config.json").write_text(json.dumps(full), encoding="utf-8")
        yield replace(weights, flashrank_graph=str(folder))
