"""Rerankers in PyTorch: any checkpoint, in our own loop, loaded by transformers alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from langchain_rerank.cross_encoders import batching
from langchain_rerank.cross_encoders.base import DEFAULT_MODEL, LocalCrossEncoder
from langchain_rerank.cross_encoders.checkpoint import read_checkpoint
from langchain_rerank.cross_encoders.hub import find_folder, weights_wanted

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from langchain_rerank.cross_encoders.torch_model import TorchModel

DType = Literal["auto", "float32", "bfloat16", "float16"]


class TorchCrossEncoder(LocalCrossEncoder):
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

    model: str = Field(default=DEFAULT_MODEL, min_length=1)
    """Name on the Hugging Face hub, or path of a folder (str or Path, "~" for the home folder)."""
    device: str | None = None
    """One torch device such as "cuda:1" or "cpu"; None picks cuda, then mps, then cpu."""
    dtype: DType = "auto"
    """Precision of the weights. "auto" is float32 on a CPU, elsewhere bfloat16 where the device
    has it and float16 where not."""
    trust_remote_code: bool = False
    """Run model code that comes with the checkpoint, as the Jina and GTE rerankers need."""

    def _open(self) -> TorchModel:
        folder = find_folder(self.model, weights_wanted)
        trust = self.trust_remote_code
        checkpoint = read_checkpoint(self.model, folder, trust_remote_code=trust)
        self._max_length(checkpoint)
        # Imported late: it imports torch.
        from langchain_rerank.cross_encoders.torch_model import shared_model

        model = shared_model(self, checkpoint)
        model.frame(self.instruction)
        return model

    @property
    def activation(self) -> str:
        """What the checkpoint's author makes of a logit: "sigmoid" or "identity".

        With "identity" the sigmoid of `normalize` still gives 0–1, in the same order, but nobody
        fitted it: a wrong passage may stand at .95. Find a `score_threshold` on data of your own
        (`langchain_rerank.evaluation.suggest_threshold`).

        Raises:
            ModelLoadError: The model could not be loaded.
        """
        with self._lock.get():
            self.load()
            activation: str = self._loaded.checkpoint.activation
            return activation

    @property
    def score_scale(self) -> str:
        """What a score is, for traces; "uncalibrated" once the checkpoint is known to be so."""
        loaded = self._loaded
        identity = loaded is not None and loaded.checkpoint.activation == "identity"
        return super().score_scale + (" (uncalibrated)" if self.normalize and identity else "")

    def _logits(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float64]:
        model: TorchModel = self._loaded
        with model.lock.get():
            windows = self._windows(pairs)
            logits = model.logits(
                windows, batch_tokens=self.batch_tokens, show_progress=self.show_progress
            )
        merged = batching.merge_windows(logits, windows.owners, self.long_documents)
        return merged / model.checkpoint.divisor


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
