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
    """Return a cross encoder, not loaded yet, or a copy, that computes on so many threads at once.

    So models of several processes share the cores of a machine and don't fight for them: the number
    holds for all of PyTorch in this process. One that holds no model here comes back as it is.
    """
    from langchain_rerank.cross_encoders.base import LocalCrossEncoder

    if not isinstance(cross_encoder, LocalCrossEncoder):
        return cross_encoder
    import torch

    torch.set_num_threads(cores)
    if getattr(cross_encoder, "num_threads", cores) is None:
        return cross_encoder.model_copy(update={"num_threads": cores})
    return cross_encoder
