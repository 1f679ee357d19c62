"""Requests that wait are scored together: passes of bounded time in one thread."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge, Histogram, ProcessCollector
from starlette.exceptions import HTTPException

from langchain_rerank.errors import RerankError, ScoringError
from langchain_rerank.scoring import score_pairs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from langchain_core.cross_encoders import BaseCrossEncoder

    Pair = tuple[str, str]

logger = logging.getLogger(__name__)

PASS_SECONDS = 0.1
# Characters of a pair that count: about what most models read of it, whatever its length.
READ_CHARACTERS = 4000
# What a pair costs beside its characters, so that empty texts cost something.
_PAIR_CHARACTERS = 20
# How much the latest pass counts in the measured speed.
_NEWEST = 0.3
_END_SECONDS = 2
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_COUNTS = tuple(2**n for n in range(11))
_FIGURES = {
    "request_seconds": ("Time of a request, from its body to its answer.", _SECONDS),
    "queue_seconds": ("Time from a request's arrival in the queue to its first pass.", _SECONDS),
    "scoring_seconds": ("Time of a pass.", _SECONDS),
    "pass_pairs": ("Pairs of a pass.", _COUNTS),
    "pass_requests": ("Requests of a pass.", _COUNTS),
}


def cost_of(pair: Pair) -> float:
    """What a pair takes of a pass: characters, which stand for time."""
    query, passage = pair
    return min(len(query) + len(passage), READ_CHARACTERS) + _PAIR_CHARACTERS


@dataclass(slots=True, eq=False)
class Job:
    """A request on its way: the pass that runs has `pairs[len(scores):taken]` of it."""

    pairs: Sequence[Pair]
    future: asyncio.Future[list[float]]
    left: float
    """Cost of the pairs that no pass has taken."""
    arrived: float = field(default_factory=time.perf_counter)
    taken: int = 0
    scores: list[float] = field(default_factory=list)

    def take(self, room: float) -> float:
        """Put pairs into the pass, one at least, and give their cost."""
        cost = 0.0
        for pair in self.pairs[self.taken :]:
            if cost and cost + cost_of(pair) > room:
                break
            cost += cost_of(pair)
            self.taken += 1
        self.left -= cost
        return cost


def take(waiting: Iterable[Job], room: float) -> list[Job]:
    """Take pairs that cost about `room` together.

    Half of a pass goes to the requests that have the least left, half to the oldest. So a small
    request waits for one pass, not for the large ones before it, and a large one takes at most
    twice as long as in the order of arrival, however many small ones come.

    Args:
        waiting: Requests with pairs that no pass has taken, in order of arrival.
        room: In characters.

    Returns:
        Those that have pairs in the pass.
    """
    taken: dict[Job, None] = {}
    used = 0.0
    for job in sorted(waiting, key=lambda job: job.left):
        if used and used + job.left > room / 2:
            break
        used += job.take(room / 2)
        taken[job] = None
    # Small requests that this pass ends wait for little beside themselves.
    room = min(room, max(2 * used, room / 4))
    for job in waiting:
        if used >= room:
            break
        if job.taken < len(job.pairs):
            used += job.take(room - used)
            taken[job] = None
    return list(taken)


class Batcher:
    """Scores requests in passes over the model; see `take` for whose turn it is.

    A pass takes about `PASS_SECONDS` by the speed of those before. One that fails is scored again
    request by request, so that only those fail that can't be scored. A request that is cancelled
    leaves; what a pass has of it is not looked at. `registry` has figures of it all, and of the
    process, for Prometheus.
    """

    def __init__(self, model: BaseCrossEncoder, *, max_waiting: int) -> None:
        """Store the settings."""
        self._model, self._max_waiting = model, max_waiting
        self._pass_seconds = PASS_SECONDS
        self._speed = 0.0  # characters a second
        self._waiting: dict[Job, None] = {}
        self._changed = threading.Condition()
        self.runs = False
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.figures = {
            name: Histogram(f"rerank_{name}", text, buckets=buckets, registry=registry)
            for name, (text, buckets) in _FIGURES.items()
        }
        text = "Requests with pairs that no pass has taken yet."
        waiting = Gauge("rerank_waiting_requests", text, registry=registry)
        waiting.set_function(self._waiting.__len__)

    def load(self) -> None:
        """Load the model, if it is of a kind that holds weights here."""
        if hasattr(self._model, "load"):
            self._model.load()

    @asynccontextmanager
    async def running(self, _: object = None) -> AsyncIterator[None]:
        """Load the model and score, until the block ends: an app's lifespan."""
        await asyncio.to_thread(self.load)
        self.runs = True
        loop = asyncio.get_running_loop()
        # A daemon: a pass that takes long must not hold up the end of the process.
        thread = threading.Thread(target=self._run, args=(loop,), name="scoring", daemon=True)
        thread.start()
        try:
            yield
        finally:
            with self._changed:
                self.runs = False
                for job in self._waiting:
                    _settle(job.future, _not_running())
                self._changed.notify()
            await asyncio.to_thread(thread.join, _END_SECONDS)

    async def score(self, pairs: Sequence[Pair]) -> list[float]:
        """Give raw scores of pairs; to cancel it gives the place up.

        Raises:
            HTTPException: Too many wait, or the service is not running (503).
            RerankError: The model failed.
        """
        if not self.runs:
            raise _not_running()
        if len(self._waiting) >= self._max_waiting:
            left = sum(job.left for job in self._waiting)
            seconds = max(1, math.ceil(left / self._speed)) if self._speed else 1
            msg = f"{len(self._waiting):,} requests wait already; try again in {seconds} s"
            raise HTTPException(503, msg, {"retry-after": str(seconds)})
        future = asyncio.get_running_loop().create_future()
        job = Job(pairs, future, sum(map(cost_of, pairs)))
        with self._changed:
            self._waiting[job] = None
            self._changed.notify()
        try:
            return await job.future
        finally:
            with self._changed:
                self._waiting.pop(job, None)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        """Score until stopped; in the thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            while chunks := self._next():
                outcomes = self._pass(chunks)
                for job, outcome in zip(chunks, outcomes, strict=True):
                    if isinstance(outcome, RerankError):
                        with self._changed:
                            self._waiting.pop(job, None)
                        loop.call_soon_threadsafe(_settle, job.future, outcome)
                        continue
                    job.scores += outcome
                    if len(job.scores) == len(job.pairs):
                        loop.call_soon_threadsafe(_settle, job.future, job.scores)

    def _next(self) -> dict[Job, Sequence[Pair]]:
        """Wait for requests, and take the pairs of the next pass; none once stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self.runs)
            if not self.runs:
                return {}
            room = self._speed * self._pass_seconds if self._speed else READ_CHARACTERS
            jobs = take(self._waiting, room)
            for job in jobs:
                if job.taken == len(job.pairs):
                    del self._waiting[job]
            return {job: job.pairs[len(job.scores) : job.taken] for job in jobs}

    def _pass(self, chunks: dict[Job, Sequence[Pair]]) -> list[list[float] | RerankError]:
        """Score the pairs of a pass, and note how long it took."""
        started = time.perf_counter()
        for job in chunks:
            if not job.scores:
                self.figures["queue_seconds"].observe(started - job.arrived)
        outcomes = self._outcomes(list(chunks.values()))
        seconds = time.perf_counter() - started
        pairs = [pair for chunk in chunks.values() for pair in chunk]
        speed = sum(map(cost_of, pairs)) / seconds
        self._speed += _NEWEST * (speed - self._speed) if self._speed else speed
        self.figures["scoring_seconds"].observe(seconds)
        self.figures["pass_pairs"].observe(len(pairs))
        self.figures["pass_requests"].observe(len(chunks))
        return outcomes

    def _outcomes(self, chunks: list[Sequence[Pair]]) -> list[list[float] | RerankError]:
        """Score chunks together, and give of each its scores, or what went wrong."""
        try:
            pairs = [pair for chunk in chunks for pair in chunk]
            scores = iter(score_pairs(self._model, pairs))
        except BaseException as error:  # noqa: BLE001  # the thread must live on
            if len(chunks) > 1:
                logger.warning("a pass of %d requests failed, each is scored alone", len(chunks))
                return [outcome for chunk in chunks for outcome in self._outcomes([chunk])]
            if isinstance(error, RerankError):
                return [error]
            wrapped = ScoringError(f"{type(error).__name__}: {error}")
            wrapped.__cause__ = error
            return [wrapped]
        return [[next(scores) for _ in chunk] for chunk in chunks]


def _settle(future: asyncio.Future[list[float]], outcome: list[float] | Exception) -> None:
    """Tell whoever asked, if nobody has given it up."""
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _not_running() -> HTTPException:
    msg = "the service is not running, or is shutting down"
    return HTTPException(503, msg, {"retry-after": "1"})
