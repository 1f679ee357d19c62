"""Servers that the tests of this folder share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from langchain_rerank import FlagEmbeddingCrossEncoder
from tests.server.serving import client_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx


@pytest.fixture(scope="session")
def in_process(checkpoint: str) -> FlagEmbeddingCrossEncoder:
    """What the server's scores must equal."""
    return FlagEmbeddingCrossEncoder(model=checkpoint)


@pytest.fixture(scope="session")
def client(checkpoint: str) -> Iterator[httpx.Client]:
    """A client of a server of the real offline reranker."""
    with client_of(checkpoint, served_name="minilm") as client:
        yield client


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What was traced; a provider of the test's own, as the global one can be set only once."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return exporter
