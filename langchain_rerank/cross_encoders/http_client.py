"""Requests to rerank servers: several at once, retried, spread over servers, within one deadline.

All clients of a process live on one event loop in a background thread, so that `score` and
`ascore` run the same coroutine there from any thread and event loop; fsspec does it the same way.
"""

from __future__ import annotations

import asyncio
import atexit
import math
import os
import random
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, stop_before_delay

from langchain_rerank import telemetry
from langchain_rerank.cross_encoders import dialects
from langchain_rerank.cross_encoders.addresses import all_urls, parse_url
from langchain_rerank.cross_encoders.endpoints import AttemptError, Endpoint, open_http
from langchain_rerank.cross_encoders.processes import PerProcess
from langchain_rerank.errors import RemoteError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_rerank.cross_encoders.remote import RemoteCrossEncoder

# Seconds before the second attempt, doubled each time up to the longest; each wait is shortened by
# up to a half at random, so that clients that failed together do not return together.
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.5, 8.0
# Requests of one client in flight at once: httpcore looks through all connections for each
# request, in time that grows with their square (300 of them cost 100 ms a request).
_MAX_IN_FLIGHT = 32
_HINTS = {
    401: "check api_key",
    403: "check api_key",
    404: "check the path of url",
    405: "check the path of url",
    413: "a smaller max_documents (it is {max_documents}) makes smaller requests",
    422: "check dialect, model and extra_body; max_documents is {max_documents}",
}
_EXIT_TIMEOUT = 5.0

_lock = PerProcess(threading.Lock)
# A forked child keeps its parent's: it has none of the threads, but copies of the sockets, which
# are neither used nor closed there, as closing would say goodbye on the parent's connections.
_loops: dict[int, asyncio.AbstractEventLoop] = {}
_open: set[RerankClient] = set()


def background_loop() -> asyncio.AbstractEventLoop:
    """Give this process's loop, started if need be."""
    process = os.getpid()
    with _lock.get():
        if process not in _loops:
            loop = _loops[process] = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, name="langchain-rerank", daemon=True)
            thread.start()
            atexit.register(_stop, process, thread)
        return _loops[process]


def _stop(process: int, thread: threading.Thread) -> None:
    if process != os.getpid():
        return
    loop = _loops.pop(process)
    asyncio.run_coroutine_threadsafe(_close_all(loop), loop).result(_EXIT_TIMEOUT)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(_EXIT_TIMEOUT)
    loop.close()


async def _close_all(loop: asyncio.AbstractEventLoop) -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    closing = [client.aclose() for client in _open if client.loop is loop]
    await asyncio.gather(*closing, return_exceptions=True)


@dataclass(slots=True)
class _Tries:
    """The attempts of one request."""

    body: bytes
    count: int
    deadline: float
    asked: list[Endpoint] = field(default_factory=list)
    given_up: set[Endpoint] = field(default_factory=set)
    last: AttemptError | None = None


class RerankClient:
    """The connections of a remote cross encoder, on the event loop that it is made on."""

    def __init__(self, settings: RemoteCrossEncoder) -> None:
        """Open it; nothing is sent yet."""
        self.settings = settings
        self.dialect = dialects.DIALECTS[settings.dialect]
        self.max_documents = settings.max_documents or self.dialect.max_documents
        self.loop = asyncio.get_running_loop()
        urls = [parse_url(url, self.dialect.path) for url in all_urls(settings.url)]
        self.endpoints = [Endpoint(url, settings) for url in urls]
        timeout = httpx.Timeout(settings.read_timeout, connect=settings.connect_timeout)
        self.http = open_http(self.endpoints, timeout)
        self._places = asyncio.Semaphore(_MAX_IN_FLIGHT)
        self._calls: set[asyncio.Future[Any]] = set()
        self._process = os.getpid()
        self._turns = 0
        _open.add(self)

    def retire(self) -> None:
        """Close once running calls are done; called in any thread, also by the collector."""
        if self._process == os.getpid() and not self.loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._close_when_idle(), self.loop)

    async def _close_when_idle(self) -> None:
        while self._calls:
            await asyncio.wait(self._calls)
        await self.aclose()

    async def aclose(self) -> None:
        """Free the connections now."""
        _open.discard(self)
        await self.http.aclose()

    async def score(self, pairs: Sequence[tuple[str, str]], instruction: str | None) -> list[float]:
        """Score pairs, in their order.

        Raises:
            RemoteError: A request failed for good; the others are cancelled.
        """
        deadline = self.loop.time() + self.settings.timeout
        places = asyncio.Semaphore(self.settings.max_concurrency)
        scores = [math.nan] * len(pairs)

        async def fill(request: dialects.RerankRequest) -> None:
            async with places:
                found = await self._ask(request, instruction, deadline)
            for position, score in zip(request.positions, found, strict=True):
                scores[position] = score

        done = self.loop.create_future()
        self._calls.add(done)
        try:
            async with asyncio.TaskGroup() as group:
                for request in dialects.split(pairs, self.max_documents):
                    group.create_task(fill(request))
        except BaseExceptionGroup as failed:
            first = failed.exceptions[0]
            raise first from first.__cause__
        finally:
            self._calls.discard(done)
            done.set_result(None)
        return scores

    async def _ask(
        self, request: dialects.RerankRequest, instruction: str | None, deadline: float
    ) -> list[float]:
        """Get the scores of one request, whatever number of attempts it takes."""
        settings = self.settings
        body = dialects.body(
            self.dialect, request, settings.model, settings.extra_body, instruction
        )
        tries = _Tries(body, len(request.passages), deadline)
        retrying = AsyncRetrying(
            sleep=asyncio.sleep,
            retry=retry_if_exception(
                lambda error: (
                    isinstance(error, AttemptError)
                    and error.retry != "never"
                    and len(tries.given_up) < len(self.endpoints)
                )
            ),
            wait=lambda _: self._pause(tries),
            stop=stop_after_attempt(settings.max_retries + 1)
            | stop_before_delay(deadline - self.loop.time()),
            reraise=True,
        )
        try:
            async with asyncio.timeout_at(deadline):
                return await retrying(self._attempt, tries)
        except AttemptError as failure:
            raise self._error(str(failure), tries) from failure.__cause__
        except TimeoutError as error:
            problem = f"gave no scores within timeout={settings.timeout:g} s"
            if tries.last is not None:
                problem += f"; before, a server {tries.last}"
            raise self._error(problem, tries) from error

    def _choose(self, tries: _Tries) -> Endpoint:
        """Choose the server of the next attempt.

        Of the available ones not yet asked, the one with the fewest requests in flight, equals in
        turn; else of the other available ones; else the one that is due next.
        """
        now = self.loop.time()

        def order(endpoint: Endpoint) -> tuple[float, ...]:
            if endpoint.is_available(now):
                return (0, endpoint in tries.asked, endpoint.in_flight, endpoint.turn)
            return (1, endpoint.out_until, endpoint.in_flight, endpoint.turn)

        return min((one for one in self.endpoints if one not in tries.given_up), key=order)

    def _pause(self, tries: _Tries) -> float:
        """Tell how many seconds to wait before the next attempt."""
        endpoint, now = self._choose(tries), self.loop.time()
        if endpoint.is_available(now) or endpoint.retry_at > now:
            return 0.0
        backoff = min(_FIRST_BACKOFF * 2.0 ** min(len(tries.asked) - 1, 10), _LONGEST_BACKOFF)
        return backoff * random.uniform(0.5, 1.0)  # noqa: S311  # no secret

    async def _leave_alone(self, endpoint: Endpoint, tries: _Tries) -> None:
        """Wait for as long as a server has asked for, all others being out."""
        now = self.loop.time()
        asked, left = endpoint.retry_at - now, tries.deadline - now
        if endpoint.is_available(now) or asked <= 0:
            return
        if asked > left:
            msg = f"{tries.last}; it " if tries.last else ""
            msg += f"asks to wait {asked:.3g} s, {left:.3g} s"
            msg += f" of timeout={self.settings.timeout:g} s are left"
            raise AttemptError(msg, "never")
        # Those whom a server sent away together do not return together.
        await asyncio.sleep(min(asked * random.uniform(1.0, 1.1), left))  # noqa: S311  # no secret

    async def _attempt(self, tries: _Tries) -> list[float]:
        """Send a request once, and note how its server did."""
        endpoint = self._choose(tries)
        await self._leave_alone(endpoint, tries)
        tries.asked.append(endpoint)
        self._turns += 1
        endpoint.turn = self._turns
        # It counts the request also while that waits for a place, for an even spread.
        endpoint.in_flight += 1
        started = math.inf
        try:
            async with self._places:
                started = self.loop.time()
                scores = await self._send(endpoint, tries)
        except AttemptError as failure:
            tries.last = failure
            if failure.retry == "never":
                endpoint.answered(started)
            else:
                endpoint.failed(started, self.loop.time(), failure.retry_after)
            if failure.retry == "elsewhere":
                tries.given_up.add(endpoint)
            raise
        except asyncio.CancelledError:
            # By the deadline, not by the caller: a server that hangs has failed as well.
            if started < tries.deadline <= self.loop.time():
                endpoint.failed(started, self.loop.time())
            raise
        finally:
            endpoint.in_flight -= 1
        endpoint.answered(started)
        return scores

    async def _send(self, endpoint: Endpoint, tries: _Tries) -> list[float]:
        url, model = endpoint.url, self.settings.model
        attributes: dict[str, str | int] = {
            "server.address": url.host,
            "server.port": url.port or (443 if url.scheme == "https" else 80),
            "url.path": url.path,
            "langchain_rerank.documents": tries.count,
            "langchain_rerank.attempt": len(tries.asked),
            **({} if model is None else {"gen_ai.request.model": model}),
        }
        with telemetry.span("rerank", kind="client", attributes=attributes) as span:
            reply = await endpoint.post(self.http, tries.body, span)
            try:
                return dialects.scores(self.dialect, reply, tries.count)
            except dialects.WrongReplyError as error:
                msg = f"gave a wrong reply: {error}"
                raise AttemptError(msg, "elsewhere", 200) from error

    def _error(self, problem: str, tries: _Tries) -> RemoteError:
        """Make the error that the caller sees; `problem` is what the server did."""
        endpoint = (tries.asked or self.endpoints)[-1]
        status = tries.last.status if tries.last else None
        hint = _HINTS.get(status or 0, "").format(max_documents=self.max_documents)
        attempts = len(tries.asked)
        message = f"{endpoint.url}{endpoint.via} {problem}" + (f" ({hint})" if hint else "")
        if attempts > 1:
            message += f", after {attempts} attempts"
        return RemoteError(message, url=str(endpoint.url), status=status, attempts=attempts)
