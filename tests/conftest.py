"""Models and stores that many tests share."""

from __future__ import annotations

import os

# No test may reach a model hub; set before any library reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["LANGSMITH_TRACING"] = "false"
# Waiting threads of one library must not take the cores from those of another.
os.environ["OMP_WAIT_POLICY"] = "passive"

import logging
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from langchain_rerank import TorchCrossEncoder
from langchain_rerank.offline import OfflineEmbeddings, offline_reranker
from tests.checkpoints import save_bert

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_core.embeddings import Embeddings


# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("default-without-deadline", deadline=None)
hypothesis.settings.load_profile("default-without-deadline")


@pytest.fixture(scope="session")
def checkpoint() -> str:
    """Folder of the real offline reranker."""
    return offline_reranker()


@pytest.fixture(scope="session")
def cross_encoder(checkpoint: str) -> TorchCrossEncoder:
    """The real offline reranker, giving logits; loaded once a session."""
    return TorchCrossEncoder(model=checkpoint, normalize=False)


@pytest.fixture(scope="session")
def embeddings() -> Embeddings:
    """The real offline embeddings."""
    return OfflineEmbeddings()


@pytest.fixture(scope="session")
def tiny_checkpoint(checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random reranker that loads in milliseconds, for what does not depend on the scores."""
    folder = tmp_path_factory.mktemp("tiny-bert")
    return save_bert(folder, checkpoint, "BertForSequenceClassification", num_labels=1)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What was traced; a provider of the test's own, as the global one can be set only once."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return exporter


@pytest.fixture(scope="session")
def tiny(tiny_checkpoint: str) -> TorchCrossEncoder:
    """A random reranker, for what does not depend on the scores."""
    return TorchCrossEncoder(model=tiny_checkpoint, device="cpu")


@pytest.fixture(scope="session")
def local_ray() -> Iterator[Any]:
    """A Ray of two cores for all tests of a session, connected before as a user's own."""
    import ray

    from langchain_rerank.server import ray_proxy

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # It ends workers when other programs fill the machine.
    os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
    os.environ[ray_proxy.VARIABLE] = ray_proxy.IMPORT_PATH
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=128 * 2**20,
    )
    yield ray
    ray.shutdown()
