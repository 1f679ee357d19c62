"""Models and stores that many tests share."""

from __future__ import annotations

import os

# No test may reach a model hub; set before any library reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["LANGSMITH_TRACING"] = "false"
# Waiting threads of one library must not take the cores from those of another.
os.environ["OMP_WAIT_POLICY"] = "passive"

from typing import TYPE_CHECKING

import pytest

from langchain_rerank import FlagEmbeddingCrossEncoder
from langchain_rerank.offline import OfflineEmbeddings, offline_reranker

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings


@pytest.fixture(scope="session")
def checkpoint() -> str:
    """Folder of the real offline reranker."""
    return offline_reranker()


@pytest.fixture(scope="session")
def cross_encoder(checkpoint: str) -> FlagEmbeddingCrossEncoder:
    """The real offline reranker, giving logits; loaded once a session."""
    return FlagEmbeddingCrossEncoder(model=checkpoint, normalize=False)


@pytest.fixture(scope="session")
def embeddings() -> Embeddings:
    """The real offline embeddings."""
    return OfflineEmbeddings()
