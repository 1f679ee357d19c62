"""Prometheus metrics, a registry an app."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from langchain_rerank.server.batcher import Pass

# nginx's status for a client that went away; nobody reads the reply, metrics count it.
CLIENT_GONE = 499

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """What `GET /metrics` shows, with the figures of this process (memory, processor time)."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        """Make the registry; `waiting` counts the requests that wait, when asked."""
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "rerank_requests",
            "Requests answered; status 499 is a client that went away.",
            ["path", "status"],
            registry=registry,
        )
        self._pairs = Counter("rerank_pairs", "Pairs scored.", registry=registry)
        self._tokens = Counter("rerank_tokens", "Tokens that the model read.", registry=registry)
        waits = "Requests with pairs that no pass has taken yet."
        Gauge("rerank_waiting_requests", waits, registry=registry).set_function(waiting)

        def histogram(name: str, text: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
            return Histogram(name, text, buckets=buckets, registry=registry)

        self._request_seconds = histogram("rerank_request_seconds", "Time of a request.")
        self._queue_seconds = histogram(
            "rerank_queue_seconds", "Time from a request's arrival in the queue to its first pass."
        )
        self._scoring_seconds = histogram("rerank_scoring_seconds", "Time of a pass.")
        self._pass_pairs = histogram("rerank_pass_pairs", "Pairs of a pass.", _COUNTS)
        self._pass_requests = histogram("rerank_pass_requests", "Requests of a pass.", _COUNTS)

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


class MetricsMiddleware:
    """Counts and times requests by route, those without one as "other"."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        """Store the settings."""
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app and note how it answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500  # unless it answers

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        started = time.perf_counter()
        try:
            await self._app(scope, receive, noting)
        finally:
            # Of an app that mounts this one the path would hold the mount as well.
            path = getattr(scope.get("route"), "path", "other")
            self._metrics.observe_request(path, status, time.perf_counter() - started)
