"""Rerankers in PyTorch: any checkpoint, in our own loop, loaded by transformers alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from langchain_rerank.cross_encoders.checkpoint import find_folder, read_checkpoint, weights_wanted
from langchain_rerank.cross_encoders.loaded import CheckpointCrossEncoder

if TYPE_CHECKING:
    from langchain_rerank.cross_encoders.loaded import LoadedModel

DType = Literal["auto", "float32", "bfloat16", "float16"]


class TorchCrossEncoder(CheckpointCrossEncoder):
    """Any reranker checkpoint, as a LangChain cross encoder.

    It reads what the checkpoint says of itself and obeys: classifiers with one logit (BERT,
    XLM-RoBERTa, DeBERTa, ModernBERT, Qwen3, Llama, …), sentence-transformers' modules (LogitScore;
    Pooling, Dense, LayerNorm), language models that answer yes or no (BGE-Gemma, Qwen3-Reranker,
    mxbai v2, zerank), chat template, prompts, length limit. What it can't read it refuses by name
    before anything is scored.

    Cross encoders of equal weights share one copy of them. Any number of threads may score, and
    so may a forked child.

    Source of the default model: Chen et al., "BGE M3-Embedding", and its card at
    huggingface.co/BAAI/bge-reranker-v2-m3.

    Example:
        >>> from langchain_rerank import TorchCrossEncoder
        >>> from langchain_rerank.offline import offline_reranker
        >>> cross_encoder = TorchCrossEncoder(model=offline_reranker())
        >>> question = "How many people live in Berlin?"
        >>> scores = cross_encoder.score(
        ...     [
        ...         (question, "Berlin had a population of 3,520,031 registered inhabitants."),
        ...         (question, "Berlin is well known for its museums."),
        ...     ]
        ... )
        >>> [round(score, 2) for score in scores]
        [1.0, 0.02]
    """

    device: str | None = None
    """One torch device such as "cuda:1" or "cpu"; None picks cuda, then mps, then cpu."""
    dtype: DType = "auto"
    """Precision of the weights. "auto" is float32 on a CPU, elsewhere bfloat16 where the device
    has it and float16 where not."""
    trust_remote_code: bool = False
    """Run model code that comes with the checkpoint, as the Jina and GTE rerankers need."""

    def _open(self) -> LoadedModel:
        folder = find_folder(self.model, weights_wanted)
        checkpoint = read_checkpoint(self.model, folder, trusted=self.trust_remote_code)
        self._pair_limit(checkpoint.token_limit)
        # Imported late: it imports torch.
        from langchain_rerank.cross_encoders.torch_model import shared_model

        model = shared_model(self, checkpoint)
        model.frame(self.instruction)
        return model


def best_device() -> str:
    """Pick "cuda", "mps" or "cpu", the first that there is."""
    import torch

    mps = "mps" if torch.backends.mps.is_available() else "cpu"
    return "cuda" if torch.cuda.is_available() else mps


def torch_dtype(name: str, device: str) -> Any:
    """Translate a `DType` for a device."""
    import torch

    if name == "auto" and device.partition(":")[0] == "cpu":
        name = "float32"
    elif name == "auto":
        bfloat16 = device.startswith("cuda") and torch.cuda.is_bf16_supported()
        name = "bfloat16" if bfloat16 else "float16"
    return getattr(torch, name)
