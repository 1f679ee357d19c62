"""Real servers on free ports of this machine: in a thread of the test, or their own process."""

from __future__ import annotations

import math
import os
import re
import socket
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
from langchain_core.cross_encoders import BaseCrossEncoder

from langchain_rerank.server.app import create_app
from langchain_rerank.server.run import make_server
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE_S = 30
GOOD = {"query": "q", "documents": ["a", "bb"]}
JSON = {"content-type": "application/json"}
PATHS = ("/v1/rerank", "/v2/rerank", "/rerank")

# Marks of tests that share the session's Ray: one worker runs them, one after another.
on_ray = [
    pytest.mark.integration,
    pytest.mark.xdist_group("ray"),
    # Ray sets options of its own that it has deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@contextmanager
def client_of(
    model: str | BaseCrossEncoder, server_options: dict[str, Any] | None = None, **settings: Any
) -> Iterator[httpx.Client]:
    """Serve a model and give an HTTP client of it, whose `app` is the server's."""
    app = create_app(model, **settings)
    app.state.batcher._pass_seconds = math.inf  # else a pass depends on how fast the test was
    listening = socket.create_server(("127.0.0.1", 0))
    server = make_server(app, **(server_options or {}))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        wait_until(lambda: app.state.batcher.runs, "the model to load")
        with httpx.Client(base_url=url, timeout=DEADLINE_S) as client:
            client.app = app  # type: ignore[attr-defined]
            yield client
    finally:
        server.should_exit = True
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


def connected(client: httpx.Client) -> socket.socket:
    return socket.create_connection((client.base_url.host, client.base_url.port), timeout=30)


class GatedCrossEncoder(BaseCrossEncoder):
    """Scores a passage by its length, and each pass only when the test opens the gate for it.

    Records the passages of each pass. A passage "poison" fails the pass, "panic" raises what is no
    Exception (as a panic of a tokenizer in Rust is none), "NaN" scores NaN, "lost" is left out.
    """

    def __init__(self, *, is_open: bool = False) -> None:
        self.passes: list[list[str]] = []
        self._gate = threading.Semaphore(0)
        self._is_open = is_open

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        passages = [passage for _, passage in text_pairs]
        self.passes.append(passages)
        if not self._is_open:
            assert self._gate.acquire(timeout=DEADLINE_S)
        if "poison" in passages:
            msg = "poisoned"
            raise RuntimeError(msg)
        if "panic" in passages:
            raise SystemExit(3)
        return [
            math.nan if passage == "NaN" else float(len(passage.strip()))
            for passage in passages
            if passage != "lost"
        ]

    def let_pass(self) -> None:
        """Let one pass through."""
        self._gate.release()

    def open(self) -> None:
        """Let every pass through from now on."""
        self._is_open = True
        self._gate.release()


class Child(psutil.Popen):
    """A Python process of its own, whose output can be read."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self._log = tempfile.NamedTemporaryFile()  # noqa: SIM115  # closed by `child`
        environment = {**os.environ, "COLUMNS": "200", **environment}
        command = [sys.executable, *arguments]
        super().__init__(command, stdout=self._log, stderr=self._log, env=environment)

    @property
    def output(self) -> str:
        return Path(self._log.name).read_text(encoding="utf-8")

    def url(self) -> str:
        """Where it serves, once it answers there."""

        def serving() -> re.Match[str] | None:
            assert self.poll() is None, self.output
            return re.search(r"on (http://\S+)", self.output)

        url = wait_until(serving, "the server to start")[1]
        assert httpx.get(f"{url}/ready", timeout=DEADLINE_S).status_code == 200
        return url


@contextmanager
def child(*arguments: str, **environment: str) -> Iterator[Child]:
    """Run Python in a process that is gone afterwards."""
    running = Child(*arguments, **environment)
    try:
        yield running
    finally:
        if running.poll() is None:
            running.kill()
            running.wait()
        running._log.close()


def serve(*options: str, **environment: str):
    """Run `langchain-rerank serve` on a free port."""
    command = ("-m", "langchain_rerank.cli", "serve", "--port", "0")
    return child(*command, *options, **environment)
