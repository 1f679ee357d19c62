"""Prometheus metrics, a registry an app."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from langchain_rerank.server.replies import CLIENT_GONE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from langchain_rerank.server.scoring_queue import Pass

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_PAIRS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """What `GET /metrics` shows, with the figures of this process (memory, processor time)."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        """Make the registry.

        Args:
            waiting: Counts the requests that wait, when asked.
        """
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "rerank_requests",
            "Requests answered; status 499 is a client that went away.",
            ["path", "status"],
            registry=self.registry,
        )
        self._pairs = Counter("rerank_pairs", "Pairs scored.", registry=self.registry)
        self._tokens = Counter(
            "rerank_tokens", "Tokens that the model read.", registry=self.registry
        )
        Gauge(
            "rerank_waiting_requests",
            "Requests with pairs that no pass has taken yet.",
            registry=self.registry,
        ).set_function(waiting)
        self._request_seconds = self._histogram("rerank_request_seconds", "Time of a request.")
        self._queue_seconds = self._histogram(
            "rerank_queue_seconds", "Time from a request's arrival in the queue to its first pass."
        )
        self._scoring_seconds = self._histogram("rerank_scoring_seconds", "Time of a pass.")
        self._pass_pairs = Histogram(
            "rerank_pass_pairs", "Pairs of a pass.", buckets=_PAIRS, registry=self.registry
        )
        self._pass_requests = Histogram(
            "rerank_pass_requests", "Requests of a pass.", buckets=_PAIRS, registry=self.registry
        )

    def _histogram(self, name: str, documentation: str) -> Histogram:
        return Histogram(name, documentation, buckets=_SECONDS, registry=self.registry)

    def observe_pass(self, done: Pass) -> None:
        """Count a pass over the model."""
        self._pairs.inc(done.pairs)
        self._tokens.inc(done.tokens or 0)
        self._scoring_seconds.observe(done.seconds)
        self._pass_pairs.observe(done.pairs)
        self._pass_requests.observe(done.requests)
        for seconds in done.waited_seconds:
            self._queue_seconds.observe(seconds)

    def observe_request(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(path, status).inc()
        self._request_seconds.observe(seconds)


class Measured:
    """ASGI middleware that counts and times the requests of some paths, all others as "other"."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, paths: Collection[str]) -> None:
        """Store the settings."""
        self._app = app
        self._metrics = metrics
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app and note how it answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # A client that leaves before its body is whole gets no answer, hence the start.
        status = CLIENT_GONE

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        started = time.perf_counter()
        try:
            await self._app(scope, receive, noting)
        except Exception:
            status = 500
            raise
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.observe_request(path, status, time.perf_counter() - started)
