"""Cross encoders: pairs of texts in, one float a pair out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
