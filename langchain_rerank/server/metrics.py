"""Prometheus metrics, a registry an app."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_COUNTS = tuple(2**n for n in range(11))
_HISTOGRAMS = {
    "request_seconds": ("Time of a request, from its body to its answer.", _SECONDS),
    "queue_seconds": ("Time from a request's arrival in the queue to its first pass.", _SECONDS),
    "scoring_seconds": ("Time of a pass.", _SECONDS),
    "pass_pairs": ("Pairs of a pass.", _COUNTS),
    "pass_requests": ("Requests of a pass.", _COUNTS),
}


class Metrics:
    """What `GET /metrics` shows, with the figures of this process (memory, processor time)."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        """Make the registry; `waiting` counts the requests that wait, when asked."""
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        text = "Requests answered; status 499 is a client that went away."
        self._requests = Counter("rerank_requests", text, ["path", "status"], registry=registry)
        text = "Requests with pairs that no pass has taken yet."
        Gauge("rerank_waiting_requests", text, registry=registry).set_function(waiting)
        self._histograms = {
            name: Histogram(f"rerank_{name}", text, buckets=buckets, registry=registry)
            for name, (text, buckets) in _HISTOGRAMS.items()
        }

    def observe(self, **values: float) -> None:
        """Note a value of each histogram named."""
        for name, value in values.items():
            self._histograms[name].observe(value)

    def count(self, request: Request, status: int) -> None:
        """Count how a request ended by its route, one without any as "other"."""
        # Of an app that mounts this one the path would hold the mount as well.
        path = getattr(request.scope.get("route"), "path", "other")
        self._requests.labels(path, status).inc()
