"""Requests that wait are scored together: one thread, pass after pass."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_rerank.errors import ModelLoadError, RerankError, ScoringError
from langchain_rerank.server.waiting_line import WaitingLine, WaitingRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_rerank.server.served_model import ServedModel
    from langchain_rerank.server.waiting_line import Pair, Scored

logger = logging.getLogger(__name__)

# How much the latest pass counts in the measured speed.
_NEWEST = 0.2


class QueueFullError(RerankError):
    """Too many requests wait; `retry_after` says in how many seconds there should be room."""

    def __init__(self, waiting: int, retry_after: int) -> None:
        """Build the message."""
        super().__init__(f"{waiting:,} requests wait already; try again in {retry_after} s")
        self.retry_after = retry_after


class StoppedError(RerankError):
    """The service is shutting down, or its model could not be loaded."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass was, for metrics."""

    requests: int
    pairs: int
    tokens: int | None
    seconds: float
    waited_seconds: list[float]
    """How long each request that came to its turn for the first time had waited."""


class ScoringQueue:
    """Scores requests in passes over the model, first come, first served; see `WaitingLine`.

    A pass that fails is scored again request by request, so that only those fail that can't be
    scored. A request whose future is cancelled leaves; what a pass has of it is not looked at.
    """

    def __init__(
        self,
        model: ServedModel,
        *,
        max_waiting: int,
        joint: bool = True,
        on_pass: Callable[[Pass], None] = lambda _: None,
    ) -> None:
        """Store the settings; `start` starts the thread.

        Args:
            model: Is loaded by the thread, then scores in it; nothing else may call it.
            max_waiting: How many requests may have pairs that no pass has taken.
            joint: False scores one request after another, each whole and alone.
            on_pass: Told of every pass, in the thread.
        """
        self._model = model
        self._max_waiting = max_waiting
        self._joint = joint
        self._on_pass = on_pass
        self._line = WaitingLine()
        self._changed = threading.Condition()
        self._stopped = True  # until started
        self._seconds_a_pair = 0.0
        self._thread = threading.Thread(target=self._run, name="scoring", daemon=True)

    def start(self) -> asyncio.Future[None]:
        """Start the thread; call it in the event loop that will submit.

        Returns:
            Done when the model is loaded, or its error.
        """
        self._loop = asyncio.get_running_loop()
        self._loaded: asyncio.Future[None] = self._loop.create_future()
        self._stopped = False
        self._thread.start()
        return self._loaded

    def stop(self) -> None:
        """Refuse what waits and what comes; the pass that runs comes to its end."""
        with self._changed:
            self._stopped = True
            left = self._line.clear()
            self._changed.notify()
        for request in left:
            _settle(request.future, _stopped())

    def join(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for the thread to end; tell whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def __len__(self) -> int:
        """How many requests have pairs that no pass has taken yet."""
        return len(self._line)

    def submit(self, pairs: Sequence[Pair]) -> asyncio.Future[Scored]:
        """Let pairs be scored.

        Returns:
            The scores, or a `RerankError`. To cancel it gives the place up.

        Raises:
            QueueFullError: Too many wait.
            StoppedError: The queue was stopped.
        """
        request = WaitingRequest(
            pairs, asyncio.get_running_loop().create_future(), time.perf_counter()
        )
        with self._changed:
            if self._stopped:
                raise _stopped()
            if len(self._line) >= self._max_waiting:
                raise QueueFullError(len(self._line), self._retry_after())
            self._line.add(request)
            self._changed.notify()
        request.future.add_done_callback(lambda future: self._leave(request, future))
        return request.future

    def _retry_after(self) -> int:
        """Seconds until what waits now should be scored; called under the lock."""
        return max(1, math.ceil(self._line.pairs_left * self._seconds_a_pair))

    def _leave(self, request: WaitingRequest, future: asyncio.Future[Scored]) -> None:
        """Free the place of a request that was given up."""
        if future.cancelled():
            self._remove(request)

    def _remove(self, request: WaitingRequest) -> None:
        with self._changed:
            self._line.remove(request)

    def _run(self) -> None:
        """The thread: load, then score until stopped."""
        try:
            self._model.load()
        except BaseException as error:  # noqa: BLE001  # whoever waits must hear of it
            self._in_loop(_settle, self._loaded, _as(ModelLoadError, error))
            self._in_loop(self.stop)
            return
        self._in_loop(_settle, self._loaded, None)
        while requests := self._next_pass():
            started = time.perf_counter()
            waited = [started - request.arrived for request in requests if not request.scores]
            pairs = sum(len(request.chunk) for request in requests)
            tokens = self._score(requests)
            seconds = time.perf_counter() - started
            self._measure(seconds / pairs)
            try:
                self._on_pass(Pass(len(requests), pairs, tokens, seconds, waited))
            except Exception:  # the thread must live on
                logger.exception("a pass could not be counted")

    def _next_pass(self) -> list[WaitingRequest]:
        """Wait for requests and take a part of each; none when stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._line or self._stopped)
            if self._stopped:
                return []
            return self._line.next_pass() if self._joint else self._line.next_alone()

    def _score(self, requests: list[WaitingRequest]) -> int | None:
        """Score one pass and hand out what is complete.

        Returns:
            The tokens that the model read; None if it does not count them.
        """
        try:
            scores, tokens = self._model.score([pair for one in requests for pair in one.chunk])
        except BaseException as error:  # noqa: BLE001  # the thread must live on
            if len(requests) > 1:
                logger.warning("a pass of %d requests failed, each is scored alone", len(requests))
                counts = [self._score([one]) for one in requests if not one.future.done()]
                return None if None in counts else sum(count or 0 for count in counts)
            self._remove(requests[0])
            self._in_loop(_settle, requests[0].future, _as(ScoringError, error))
            return 0
        start = 0
        total = sum(request.characters for request in requests)
        for request in requests:
            share = None if tokens is None else tokens * request.characters / total
            stop = start + len(request.chunk)
            request.add(scores[start:stop], share)
            start = stop
        self._in_loop(_hand_out, [request for request in requests if request.complete])
        return tokens

    def _measure(self, seconds_a_pair: float) -> None:
        before = self._seconds_a_pair or seconds_a_pair
        self._seconds_a_pair = (1 - _NEWEST) * before + _NEWEST * seconds_a_pair

    def _in_loop(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            logger.debug("the event loop is closed, nobody waits for the scores")


def _hand_out(complete: list[WaitingRequest]) -> None:
    for request in complete:
        if not request.future.done():
            request.future.set_result(request.scored)


def _settle(future: asyncio.Future[Any], error: RerankError | None) -> None:
    """End a future without a result, if nobody has given it up."""
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _as(kind: type[RerankError], error: BaseException) -> RerankError:
    """Chain what is no error of this package: `SystemExit` in a coroutine would end the server."""
    if isinstance(error, RerankError):
        return error
    wrapped = kind(f"{type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


def _stopped() -> StoppedError:
    return StoppedError("the service is not running, or is shutting down")
