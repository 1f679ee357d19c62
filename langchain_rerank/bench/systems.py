"""The systems that are timed: ours, and those of other libraries that are installed."""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_core.cross_encoders import BaseCrossEncoder

Pairs = Sequence[tuple[str, str]]
Score = Callable[[Pairs], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Models:
    """The weights that every system gets, and where it runs them."""

    checkpoint: str
    """Name or folder of a Hugging Face checkpoint."""
    graph: str | None = None
    """Folder of an int8 ONNX graph of the same model with its tokenizer; None leaves out the
    systems that need one."""
    peer_graph: str | None = None
    """The same graph, laid out as other libraries look for it; see `laid_out_for_peers`."""
    device: str = "cpu"
    """A torch device."""


@dataclass(frozen=True, slots=True)
class System:
    """One way to score pairs."""

    key: str
    name: str
    dtype: str
    """What its matrices are multiplied in."""
    build: Callable[[Models], Score]
    """Loads the model; called in a process of its own."""
    packages: tuple[str, ...] = ()
    """Import names of what must be installed."""
    needs_graph: bool = False

    def missing(self, models: Models) -> str | None:
        """Say in a few words what this system lacks here; None if it can run."""
        lacking = [name for name in self.packages if not _installed(name)]
        if lacking:
            return f"not installed: {', '.join(lacking)}"
        if self.needs_graph and models.graph is None:
            return "no int8 graph given (--graph)"
        return None


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of the package that a module would be in
        return False


def _onnx(models: Models) -> Score:
    return _ours_onnx(models.checkpoint)


def _onnx_given(models: Models) -> Score:
    return _ours_onnx(str(models.graph))


def _ours_onnx(model: str) -> Score:
    from langchain_rerank.cross_encoders.onnx import OnnxCrossEncoder

    return _score_of(OnnxCrossEncoder(model=model))


def _torch(dtype: str) -> Callable[[Models], Score]:
    def build(models: Models) -> Score:
        from langchain_rerank.cross_encoders.torch import TorchCrossEncoder

        settings: dict[str, Any] = {"device": models.device, "dtype": dtype}
        return _score_of(TorchCrossEncoder(model=models.checkpoint, **settings))

    return build


def _score_of(cross_encoder: BaseCrossEncoder) -> Score:
    return lambda pairs: cross_encoder.score(list(pairs))


def _flag(*, use_fp16: bool, **settings: Any) -> Callable[[Models], Score]:
    def build(models: Models) -> Score:
        from FlagEmbedding import FlagReranker

        # A list and one device: a string of one would also do, None takes every GPU.
        reranker = FlagReranker(
            models.checkpoint, use_fp16=use_fp16, devices=[models.device], **settings
        )

        def score(pairs: Pairs) -> Sequence[float]:
            scores: Sequence[float] = reranker.compute_score([list(pair) for pair in pairs])
            return scores

        return score

    return build


def _huggingface(models: Models) -> Score:
    from langchain_community.cross_encoders import HuggingFaceCrossEncoder

    settings = {"device": models.device}
    cross_encoder = HuggingFaceCrossEncoder(model_name=models.checkpoint, model_kwargs=settings)
    return lambda pairs: [float(score) for score in cross_encoder.score(list(pairs))]


def _flashrank(models: Models) -> Score:
    from flashrank import Ranker, RerankRequest

    folder = Path(str(models.peer_graph))
    # It keeps its models as cache_dir/name and takes the graph's file name from a table.
    ranker = Ranker(model_name=folder.name, cache_dir=str(folder.parent), log_level="WARNING")

    def score(pairs: Pairs) -> Sequence[float]:
        passages = [{"id": i, "text": passage} for i, (_, passage) in enumerate(pairs)]
        ranked = ranker.rerank(RerankRequest(query=pairs[0][0], passages=passages))
        return [found["score"] for found in sorted(ranked, key=lambda found: found["id"])]

    return score


def _sentence_transformers_onnx(models: Models) -> Score:
    from sentence_transformers import CrossEncoder

    cross_encoder = CrossEncoder(
        str(models.peer_graph),
        backend="onnx",
        device="cpu",
        model_kwargs={"file_name": "model.onnx", "provider": "CPUExecutionProvider"},
    )
    return lambda pairs: [float(score) for score in cross_encoder.predict(list(pairs))]


@contextmanager
def laid_out_for_peers(models: Models) -> Iterator[Models]:
    """Lay out the int8 graph as FlashRank and sentence-transformers look for it.

    Yields:
        The models with `peer_graph` set, where there is a graph; its folder is temporary.

    Raises:
        ValueError: The graph's folder holds none or several.
    """
    if models.graph is None:
        yield models
        return
    from transformers import AutoConfig

    graphs = sorted(Path(models.graph).rglob("*.onnx"))
    if len(graphs) != 1:
        msg = f"expected one *.onnx file in {models.graph}, found {len(graphs)}"
        raise ValueError(msg)
    config = AutoConfig.from_pretrained(models.checkpoint)
    # Names that FlashRank knows: it takes a graph's file name from a table, by model.
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "ms-marco-MiniLM-L-12-v2"
        shutil.copytree(graphs[0].parent, folder)
        (folder / "onnx").mkdir(exist_ok=True)
        shutil.copy(graphs[0], folder / "onnx" / "model.onnx")
        (folder / graphs[0].name).rename(folder / "flashrank-MiniLM-L-12-v2_Q.onnx")
        # transformers 5 leaves it out where it is the default; FlashRank reads it.
        full = {**config.to_dict(), "pad_token_id": config.pad_token_id}
        (folder / "config.json").write_text(json.dumps(full), encoding="utf-8")
        yield replace(models, peer_graph=str(folder))


_ONNX_PACKAGES = ("onnxruntime", "onnx", "filelock")

_HUGGINGFACE = System(
    "huggingface",
    "LangChain HuggingFaceCrossEncoder",
    "float32",
    _huggingface,
    ("langchain_community", "sentence_transformers"),
)

CPU_SYSTEMS = (
    System("onnx", "langchain-rerank, ONNX int8", "int8", _onnx, _ONNX_PACKAGES),
    System(
        "onnx-given",
        "langchain-rerank, ONNX int8, given graph",
        "int8",
        _onnx_given,
        _ONNX_PACKAGES,
        needs_graph=True,
    ),
    System("torch-bf16", "langchain-rerank, torch bfloat16", "bfloat16", _torch("bfloat16")),
    System("torch", "langchain-rerank, torch float32", "float32", _torch("float32")),
    System(
        "flashrank", "FlashRank, given graph", "int8", _flashrank, ("flashrank",), needs_graph=True
    ),
    System(
        "st-onnx",
        "sentence-transformers ONNX, given graph",
        "int8",
        _sentence_transformers_onnx,
        ("sentence_transformers", "optimum.onnxruntime"),
        needs_graph=True,
    ),
    _HUGGINGFACE,
    System(
        "flag-16", "FlagReranker, batch_size=16", "float32", _flag(use_fp16=False, batch_size=16)
    ),
    System("flag", "FlagReranker, default", "float32", _flag(use_fp16=False)),
)

GPU_SYSTEMS = (
    System("torch-bf16", "langchain-rerank, bfloat16", "bfloat16", _torch("bfloat16")),
    System("torch-fp16", "langchain-rerank, float16", "float16", _torch("float16")),
    System("torch", "langchain-rerank, float32", "float32", _torch("float32")),
    _HUGGINGFACE,
    System(
        "flag-16",
        "FlagReranker use_fp16, batch_size=16",
        "float16",
        _flag(use_fp16=True, batch_size=16),
    ),
    System("flag", "FlagReranker use_fp16, default", "float16", _flag(use_fp16=True)),
)
