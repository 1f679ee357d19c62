"""Cross encoders: pairs of texts in, one float a pair out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langchain_rerank.cross_encoders.base import LocalCrossEncoder


def from_name(model: str) -> LocalCrossEncoder:
    """Build the cross encoder behind a model's name or path: what `Reranker(model="…")` takes."""
    from langchain_rerank.cross_encoders.torch import TorchCrossEncoder

    return TorchCrossEncoder(model=model)
