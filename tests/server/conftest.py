"""Servers and models that the tests of this folder share."""

from __future__ import annotations

import pytest

from langchain_rerank import TorchCrossEncoder
from tests.server.serving import GatedCrossEncoder, client_of


@pytest.fixture(scope="session")
def in_process(checkpoint: str) -> TorchCrossEncoder:
    """What the server's scores must equal."""
    return TorchCrossEncoder(model=checkpoint)


@pytest.fixture(scope="session")
def client(in_process: TorchCrossEncoder):
    """A client of a server of the real offline reranker."""
    with client_of(in_process, served_name="minilm") as client:
        yield client


@pytest.fixture(scope="session")
def lengths():
    """A client of a server that scores passages by their length."""
    with client_of(GatedCrossEncoder(is_open=True)) as client:
        yield client


@pytest.fixture
def model():
    """Holds each pass up until the test lets it through."""
    model = GatedCrossEncoder()
    yield model
    model.open()
