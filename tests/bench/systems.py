"""The systems that are timed: ours, and those of other libraries that are installed."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

Pairs = list[tuple[str, str]]
Score = Callable[[Pairs], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Weights:
    """What every system loads, and where it runs it."""

    checkpoint: str
    graph: str | None = None
    """Folder of an int8 ONNX graph of the same model with its tokenizer."""
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class System:
    """One way to score pairs; `load` is called in a process of its own."""

    name: str
    load: Callable[[Weights], Score]
    needs_graph: bool = False


def _onnx(weights: Weights, *, given: bool = False) -> Score:
    from langchain_rerank import OnnxCrossEncoder

    return OnnxCrossEncoder(model=str(weights.graph) if given else weights.checkpoint).score


def _torch(weights: Weights, dtype: str) -> Score:
    from langchain_rerank import TorchCrossEncoder

    return TorchCrossEncoder(model=weights.checkpoint, device=weights.device, dtype=dtype).score


def _flag(weights: Weights, **settings: int) -> Score:
    from FlagEmbedding import FlagReranker

    # A list of one device: None would take every GPU.
    where = {"use_fp16": weights.device != "cpu", "devices": [weights.device]}
    return FlagReranker(weights.checkpoint, **where, **settings).compute_score


def _huggingface(weights: Weights) -> Score:
    from langchain_community.cross_encoders import HuggingFaceCrossEncoder

    settings = {"device": weights.device}
    return HuggingFaceCrossEncoder(model_name=weights.checkpoint, model_kwargs=settings).score


def _flashrank(weights: Weights) -> Score:
    from flashrank import Ranker, RerankRequest
    from transformers import AutoConfig

    [graph] = Path(str(weights.graph)).rglob("*.onnx")
    config = AutoConfig.from_pretrained(weights.checkpoint)
    with tempfile.TemporaryDirectory() as cache:
        # A name that FlashRank knows: it takes a graph's file name from a table, by model.
        folder = Path(cache) / "ms-marco-MiniLM-L-12-v2"
        ours = shutil.ignore_patterns("config.json")
        shutil.copytree(graph.parent, folder, copy_function=os.symlink, ignore=ours)
        (folder / graph.name).rename(folder / "flashrank-MiniLM-L-12-v2_Q.onnx")
        # transformers 5 leaves it out where it is the default; FlashRank reads it.
        full = {**config.to_dict(), "pad_token_id": config.pad_token_id}
        (folder / "config.json").write_text(json.dumps(full), encoding="utf-8")
        ranker = Ranker(model_name=folder.name, cache_dir=cache, log_level="WARNING")

    def score(pairs: Pairs) -> Sequence[float]:
        passages = [{"id": i, "text": passage} for i, (_, passage) in enumerate(pairs)]
        ranked = ranker.rerank(RerankRequest(query=pairs[0][0], passages=passages))
        return [found["score"] for found in sorted(ranked, key=lambda found: found["id"])]

    return score


SYSTEMS = {
    "onnx": System("langchain-rerank, ONNX int8", _onnx),
    "onnx-given": System(
        "langchain-rerank, ONNX int8, given graph", partial(_onnx, given=True), needs_graph=True
    ),
    "torch-bf16": System("langchain-rerank, torch bfloat16", partial(_torch, dtype="bfloat16")),
    "torch": System("langchain-rerank, torch float32", partial(_torch, dtype="float32")),
    "flashrank": System("FlashRank, given graph", _flashrank, needs_graph=True),
    "huggingface": System("LangChain HuggingFaceCrossEncoder", _huggingface),
    "flag-16": System("FlagReranker, batch_size=16", partial(_flag, batch_size=16)),
    "flag": System("FlagReranker, default", _flag),
}


def chosen(only: list[str], weights: Weights) -> list[str]:
    """Return the keys of the systems to time: those of `only`, else all that can run there."""
    able = [key for key, system in SYSTEMS.items() if weights.graph or not system.needs_graph]
    if unable := [key for key in only if key not in able]:
        msg = f"expected systems out of {', '.join(able)}, got {', '.join(unable)}"
        raise ValueError(msg)
    return [key for key in able if not only or key in only]
