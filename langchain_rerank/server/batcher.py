"""Requests that wait are scored together: passes of bounded time in one thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import math
import queue
import threading
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_rerank.errors import RerankError, ScoringError
from langchain_rerank.server.fair_queue import READ_CHARACTERS, FairQueue, Job, cost_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from langchain_rerank.server.fair_queue import Pair, Scored
    from langchain_rerank.server.served_model import ServedModel

logger = logging.getLogger(__name__)

PASS_SECONDS = 0.1
_END_SECONDS = 2
# How much the latest pass counts in the measured speed.
_NEWEST = 0.3


class QueueFullError(RerankError):
    """Too many requests wait; `retry_after` says in how many seconds there should be room."""

    def __init__(self, waiting: int, retry_after: int) -> None:
        """Build the message."""
        super().__init__(f"{waiting:,} requests wait already; try again in {retry_after} s")
        self.retry_after = retry_after


class StoppedError(RerankError):
    """The service is not running: shut down, or its model could not be loaded."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass was, for metrics."""

    requests: int
    pairs: int
    tokens: int | None
    seconds: float
    waited_seconds: list[float]
    """How long each request that came to its turn for the first time had waited."""


class DaemonThread:
    """One thread for what blocks; unlike an executor's, it does not hold up the process's end."""

    def __init__(self, name: str) -> None:
        """Start the thread."""
        self._calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function in the thread, after those called before."""
        done: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._calls.put((done, function, arguments))
        return await asyncio.wrap_future(done)

    def end(self, last: Callable[[], Any]) -> None:
        """Run a last function, and end; wait a little for it, as a pass may take long."""
        self._calls.put((concurrent.futures.Future(), last, ()))
        self._calls.put(None)
        self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        while call := self._calls.get():
            done, function, arguments = call
            if not done.set_running_or_notify_cancel():
                continue
            try:
                done.set_result(function(*arguments))
            except BaseException as error:  # noqa: BLE001  # whoever waits gets it
                done.set_exception(error if isinstance(error, Exception) else _as(error))
            del call, done, arguments


class Batcher:
    """Scores requests in passes over the model; see `FairQueue` for whose turn it is.

    A pass takes about `PASS_SECONDS` by the speed of those before. One that fails is scored again
    request by request, so that only those fail that can't be scored. A request that is cancelled
    leaves; what a pass has of it is not looked at.
    """

    def __init__(
        self,
        model: ServedModel,
        *,
        max_waiting: int,
        joint: bool = True,
        pass_seconds: float = PASS_SECONDS,
        on_pass: Callable[[Pass], None] = lambda _: None,
    ) -> None:
        """Store the settings.

        Args:
            model: Is loaded and scores in a thread; nothing else may call it.
            max_waiting: How many requests may have pairs that no pass has taken.
            joint: False scores one request after another, each whole and alone.
            pass_seconds: How long a pass should take.
            on_pass: Told of every pass.
        """
        self._model = model
        self._max_waiting = max_waiting
        self._joint = joint
        self._pass_seconds = pass_seconds
        self._on_pass = on_pass
        self._queue = FairQueue()
        self._stopped = True
        self._speed = 0.0
        """Characters a second."""
        self.ready = False
        self.load_error: BaseException | None = None
        self.on_load_error: Callable[[], None] = lambda: None
        """Called if the model can't be loaded; whoever runs the app sets it."""

    def __len__(self) -> int:
        """How many requests have pairs that no pass has taken yet."""
        return len(self._queue)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load the model in the background and score, until the block ends."""
        thread = DaemonThread("scoring")
        self._arrived = asyncio.Event()
        self._stopped = False
        worker = asyncio.create_task(self._work(thread))
        try:
            yield
        finally:
            self.stop()
            worker.cancel()
            await asyncio.to_thread(thread.end, self._model.close)

    def stop(self) -> None:
        """Be no longer ready, and refuse what waits and what comes."""
        self.ready = False
        self._stopped = True
        for job in self._queue:
            job.fail(_stopped())

    async def score(self, pairs: Sequence[Pair]) -> Scored:
        """Score pairs; to cancel it gives the place up.

        Raises:
            QueueFullError: Too many wait.
            StoppedError: The batcher does not run.
            RerankError: The model failed.
        """
        if self._stopped:
            raise _stopped()
        if len(self._queue) >= self._max_waiting:
            raise QueueFullError(len(self._queue), self._retry_after())
        job = Job(pairs, asyncio.get_running_loop().create_future())
        self._queue.add(job)
        self._arrived.set()
        try:
            return await job.future
        finally:
            self._queue.discard(job)

    def _retry_after(self) -> int:
        """Seconds until what waits now should be scored."""
        left = sum(job.left for job in self._queue)
        return max(1, math.ceil(left / self._speed)) if self._speed else 1

    async def _work(self, thread: DaemonThread) -> None:
        try:
            await thread.call(self._model.load)
        except Exception as error:  # noqa: BLE001  # whoever waits must hear of it
            self.load_error = error
            logger.error("'%s' could not be loaded: %s", self._model.name, error)  # noqa: TRY400
            self.stop()
            self.on_load_error()
            return
        self.ready = True
        logger.info("'%s' is loaded", self._model.name)
        while True:
            while not self._queue:
                self._arrived.clear()
                await self._arrived.wait()
            room = self._speed * self._pass_seconds if self._speed else READ_CHARACTERS
            jobs = self._queue.take(room) if self._joint else self._queue.take_alone()
            await self._pass(thread, jobs)

    async def _pass(self, thread: DaemonThread, jobs: list[Job]) -> None:
        """Score the chunks of some requests, and hand out what is whole."""
        started = time.perf_counter()
        waited = [started - job.arrived for job in jobs if not job.scores]
        chunks = [job.chunk for job in jobs]
        try:
            outcomes = await thread.call(self._outcomes, chunks)
        except asyncio.CancelledError:
            for job in jobs:
                job.fail(_stopped())
            raise
        seconds = time.perf_counter() - started
        speed = sum(cost_of(pair) for chunk in chunks for pair in chunk) / seconds
        self._speed += _NEWEST * (speed - self._speed) if self._speed else speed
        for job, outcome in zip(jobs, outcomes, strict=True):
            if isinstance(outcome, RerankError):
                job.fail(outcome)
                self._queue.discard(job)
            else:
                job.add(*outcome)
        counts = [0 if isinstance(outcome, RerankError) else outcome[1] for outcome in outcomes]
        tokens = None if None in counts else round(sum(counts))
        try:
            self._on_pass(Pass(len(jobs), sum(map(len, chunks)), tokens, seconds, waited))
        except Exception:  # the scoring must live on
            logger.exception("a pass could not be counted")

    def _outcomes(
        self, chunks: list[Sequence[Pair]]
    ) -> list[RerankError | tuple[list[float], float | None]]:
        """Score chunks together; in the thread.

        Returns:
            Of each its scores and its share of the tokens read, or what went wrong.
        """
        try:
            scores, tokens = self._model.score([pair for chunk in chunks for pair in chunk])
        except BaseException as error:  # noqa: BLE001  # the thread must live on
            if len(chunks) > 1:
                logger.warning("a pass of %d requests failed, each is scored alone", len(chunks))
                return [outcome for chunk in chunks for outcome in self._outcomes([chunk])]
            return [_as(error)]
        costs = [sum(map(cost_of, chunk)) for chunk in chunks]
        shares = [None if tokens is None else tokens * cost / sum(costs) for cost in costs]
        remaining = iter(scores)
        parts = [[next(remaining) for _ in chunk] for chunk in chunks]
        return list(zip(parts, shares, strict=True))


def _as(error: BaseException) -> RerankError:
    """Chain what is not ours: raised in a coroutine, `SystemExit` would end the server."""
    if isinstance(error, RerankError):
        return error
    wrapped = ScoringError(f"{type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


def _stopped() -> StoppedError:
    return StoppedError("the service is not running, or is shutting down")
