"""Servers that the tests of this folder share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from langchain_rerank import TorchCrossEncoder
from tests.server.serving import client_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx


@pytest.fixture(scope="session")
def in_process(checkpoint: str) -> TorchCrossEncoder:
    """What the server's scores must equal."""
    return TorchCrossEncoder(model=checkpoint)


@pytest.fixture(scope="session")
def client(checkpoint: str) -> Iterator[httpx.Client]:
    """A client of a server of the real offline reranker."""
    with client_of(checkpoint, served_name="minilm") as client:
        yield client


@pytest.fixture(scope="session")
def tiny(tiny_checkpoint: str) -> TorchCrossEncoder:
    """A random reranker, for what does not depend on the scores."""
    return TorchCrossEncoder(model=tiny_checkpoint, device="cpu")
