"""What `--model` and `--backend` mean, in every command."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from langchain_rerank.cross_encoders.base import LocalCrossEncoder

Backend = Literal["torch", "onnx"]

OFFLINE = "offline"
MODEL_HELP = f"Reranker: a hub name, a folder, or '{OFFLINE}', the one of the extra of that name; "
BACKEND_HELP = "'torch', or 'onnx': encoder-only models in int8, faster on a CPU."


def build_cross_encoder(
    model: str | None, backend: Backend = "torch", *, default: str | None = None
) -> LocalCrossEncoder:
    """Build the cross encoder that the options name; nothing is loaded.

    Args:
        model: A hub name, a folder or "offline"; None takes the default.
        backend: What it runs in.
        default: Of the command; None takes `DEFAULT_MODEL`.

    Raises:
        MissingDependencyError: "offline", and its extra is not installed.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    model = model or default
    if model == OFFLINE:
        # Said before transformers is imported, which reads it once: no hub is to be asked.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from langchain_rerank.offline import offline_reranker

        model = offline_reranker()
    from langchain_rerank.cross_encoders.base import DEFAULT_MODEL
    from langchain_rerank.cross_encoders.onnx import OnnxCrossEncoder
    from langchain_rerank.cross_encoders.torch import TorchCrossEncoder

    kind = OnnxCrossEncoder if backend == "onnx" else TorchCrossEncoder
    return kind(model=model or DEFAULT_MODEL)
