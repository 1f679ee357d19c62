"""Models of several processes on one machine that share its cores, not fight for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_rerank.cross_encoders.base import LocalCrossEncoder
from langchain_rerank.cross_encoders.onnx import OnnxCrossEncoder
from langchain_rerank.cross_encoders.processes import available_cores

if TYPE_CHECKING:
    from langchain_core.cross_encoders import BaseCrossEncoder

__all__ = ["available_cores", "keep_to_cores"]


def keep_to_cores(cross_encoder: BaseCrossEncoder, cores: int) -> BaseCrossEncoder:
    """Let a cross encoder use no more than some cores; for a process that has no other model.

    Args:
        cross_encoder: Not loaded yet. One that holds no model here is given back as it is.
        cores: How many threads may compute at once, in all of PyTorch in this process.

    Returns:
        The cross encoder, or a copy of it.
    """
    if not isinstance(cross_encoder, LocalCrossEncoder):
        return cross_encoder
    import torch

    torch.set_num_threads(cores)
    if isinstance(cross_encoder, OnnxCrossEncoder) and cross_encoder.num_threads is None:
        return cross_encoder.model_copy(update={"num_threads": cores})
    return cross_encoder
