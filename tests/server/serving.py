"""A real uvicorn on a free port of this machine, in a thread of the test."""

from __future__ import annotations

import math
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
from langchain_core.cross_encoders import BaseCrossEncoder

from langchain_rerank.server.app import create_app
from langchain_rerank.server.run import listen, make_server
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi import FastAPI

DEADLINE_S = 30


@contextmanager
def serving(app: FastAPI, **options: Any) -> Iterator[str]:
    """Serve an app and give its URL, once its model is loaded or has failed to."""
    listening = listen("127.0.0.1", 0)
    server = make_server(app, **options)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    batcher = app.state.batcher
    try:
        wait_until(lambda: batcher.ready or batcher.load_error, "the model to load")
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


@contextmanager
def client_of(
    model: str | BaseCrossEncoder, server_options: dict[str, Any] | None = None, **settings: Any
) -> Iterator[httpx.Client]:
    """Serve a model and give an HTTP client of it, whose `app` is the server's."""
    app = create_app(model, **settings)
    app.state.batcher._pass_seconds = math.inf  # else a pass depends on how fast the test was
    with serving(app, **(server_options or {})) as url, httpx.Client(base_url=url) as client:
        client.app = app  # type: ignore[attr-defined]
        yield client


class GatedCrossEncoder(BaseCrossEncoder):
    """Scores a passage by its length, and each pass only when the test opens the gate for it.

    Records the passages of each pass. A passage "poison" fails the pass, "NaN" scores NaN.
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
        return [
            float("nan") if passage == "NaN" else float(len(passage.strip()))
            for passage in passages
        ]

    def let_pass(self) -> None:
        """Let one pass through."""
        self._gate.release()

    def open(self) -> None:
        """Let every pass through from now on."""
        self._is_open = True
        self._gate.release()
