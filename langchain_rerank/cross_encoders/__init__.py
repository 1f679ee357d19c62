"""Cross encoders: pairs of texts in, one float a pair out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langchain_core.cross_encoders import BaseCrossEncoder

    from langchain_rerank.cross_encoders.base import LocalCrossEncoder


def from_name(model: str) -> LocalCrossEncoder:
    """Build the cross encoder behind a model's name or path: what `Reranker(model="…")` takes.

    Only FlagEmbedding runs the layerwise and lightweight families; all else runs in our own loop.
    """
    from langchain_rerank.cross_encoders.flag_embedding import (
        ONLY_HERE,
        FlagEmbeddingCrossEncoder,
        family_of,
    )
    from langchain_rerank.cross_encoders.torch import TorchCrossEncoder

    if family_of(model) in ONLY_HERE:
        return FlagEmbeddingCrossEncoder(model=model)
    return TorchCrossEncoder(model=model)


def keep_to_cores(cross_encoder: BaseCrossEncoder, cores: int) -> BaseCrossEncoder:
    """Let a cross encoder use no more than some cores; for a process that has no other model.

    So models of several processes on one machine share its cores and don't fight for them.

    Args:
        cross_encoder: Not loaded yet. One that holds no model here is given back as it is.
        cores: How many threads may compute at once, in all of PyTorch in this process.

    Returns:
        The cross encoder, or a copy of it.
    """
    from langchain_rerank.cross_encoders.base import LocalCrossEncoder

    if not isinstance(cross_encoder, LocalCrossEncoder):
        return cross_encoder
    import torch

    torch.set_num_threads(cores)
    if getattr(cross_encoder, "num_threads", cores) is None:
        return cross_encoder.model_copy(update={"num_threads": cores})
    return cross_encoder
