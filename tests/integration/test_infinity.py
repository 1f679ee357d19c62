"""Our client against a real infinity server; opt-in, as infinity pins older libraries.

python -m venv infinity && infinity/bin/pip install "infinity-emb[torch,server]"
INFINITY_EMB=infinity/bin/infinity_emb pytest tests/integration/test_infinity.py
"""

from __future__ import annotations

import os
import subprocess

import httpx
import pytest

from langchain_rerank import RemoteCrossEncoder, TorchCrossEncoder
from tests.support import free_port, wait_until

EXECUTABLE = os.environ.get("INFINITY_EMB")
START_S = 120

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(EXECUTABLE is None, reason="INFINITY_EMB names no infinity_emb"),
]

QUERY = "How many people live in Berlin?"
PASSAGES = [
    "Berlin is well known for its museums.",
    "Berlin had a population of 3,520,031 registered inhabitants in an area of 891.82 km2.",
    "The dog sleeps.",
    "In Berlin people like to count people. " * 12,
]


@pytest.fixture(scope="module")
def infinity(checkpoint, tmp_path_factory):
    """Address of an infinity server that serves the offline reranker."""
    port = free_port()
    options = ["--engine", "torch", "--device", "cpu", "--no-bettertransformer"]
    options += ["--no-model-warmup", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    log = tmp_path_factory.mktemp("infinity") / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [EXECUTABLE, "v2", "--model-id", checkpoint, *options],
            stdout=output,
            stderr=output,
            env=environment,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            wait_until(lambda: server.poll() is not None or _answers(url), "infinity", START_S)
            assert server.poll() is None, log.read_text()
            yield url
        finally:
            server.terminate()
            server.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").is_success
    except httpx.TransportError:
        return False


def test_infinity_scores_as_in_process(infinity, checkpoint):
    pairs = [(QUERY, passage) for passage in PASSAGES]
    local = TorchCrossEncoder(model=checkpoint)
    remote = RemoteCrossEncoder(url=infinity, model=checkpoint.rsplit("/", 1)[-1])
    assert remote.score(pairs) == pytest.approx(local.score(pairs), abs=1e-5)


async def test_infinity_scores_many_at_a_time(infinity, checkpoint):
    pairs = [(f"{QUERY} {i % 7}", PASSAGES[i % 4]) for i in range(200)]
    local = TorchCrossEncoder(model=checkpoint)
    remote = RemoteCrossEncoder(url=infinity, model="any", max_documents=5)
    assert await remote.ascore(pairs) == pytest.approx(local.score(pairs), abs=1e-5)
