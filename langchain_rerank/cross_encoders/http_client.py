"""Requests to rerank servers: several at once, retried, spread over servers, within one deadline.

All clients of a process live on one event loop in a background thread, so that `score` and
`ascore` run the same coroutine there from any thread and event loop; fsspec does it the same way.
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
import json
import math
import os
import random
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx
import tenacity

from langchain_rerank.cross_encoders import addresses, dialects
from langchain_rerank.cross_encoders.endpoints import AttemptError, Endpoint
from langchain_rerank.cross_encoders.processes import PerProcess
from langchain_rerank.errors import RemoteError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_rerank.cross_encoders.remote import RemoteCrossEncoder

# Requests of one client in flight at once: httpcore looks through all connections for each
# request, in time that grows with their square (300 of them cost 100 ms a request).
_MAX_IN_FLIGHT = 32
_HINTS: dict[int | None, str] = {
    401: " (check api_key)",
    403: " (check api_key)",
    404: " (check the path of url)",
    413: " (a smaller max_documents makes smaller requests)",
    422: " (check dialect, model, extra_body and max_documents)",
}
_EXIT_TIMEOUT = 5.0

_lock = PerProcess(threading.Lock)
_loops: dict[int, asyncio.AbstractEventLoop] = {}
# A forked child keeps its parent's, whose connections it neither uses nor closes, as closing would
# say goodbye on them.
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
    if process == os.getpid():
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
    closing = [client.http.aclose() for client in _open if client.loop is loop]
    await asyncio.gather(*closing, return_exceptions=True)


@dataclass(slots=True)
class Tries:
    """One request of `count` passages, and whom it was sent to."""

    body: bytes
    count: int
    deadline: float
    asked: list[Endpoint] = field(default_factory=list)
    given_up: set[Endpoint] = field(default_factory=set)
    last: AttemptError | None = None

    def error(self, problem: str) -> RemoteError:
        """Make the error that the caller sees; `problem` is what the server did."""
        endpoint, status = self.asked[-1], self.last.status if self.last else None
        message = f"{endpoint.url}{endpoint.via} {problem}{_HINTS.get(status, '')}"
        if len(self.asked) > 1:
            message += f", after {len(self.asked)} attempts"
        url, attempts = str(endpoint.url), len(self.asked)
        return RemoteError(message, url=url, status=status, attempts=attempts)


class RerankClient:
    """The connections of a remote cross encoder, on the event loop that it is made on."""

    def __init__(self, settings: RemoteCrossEncoder) -> None:
        """Open it; nothing is sent yet."""
        self.settings, self.dialect = settings, dialects.DIALECTS[settings.dialect]
        self.loop = asyncio.get_running_loop()
        self.endpoints: list[Endpoint] = []
        mounts: dict[str, httpx.AsyncBaseTransport | None] = {}
        for given in addresses.all_urls(settings.url):
            url = addresses.parse_url(given, self.dialect.path)
            self.endpoints.append(endpoint := Endpoint(url, settings))
            try:
                mounts[f"{url.scheme}://{url.netloc.decode()}"], proxy = addresses.open_way(url)
                endpoint.via = f" (through the proxy of {proxy})" if proxy else ""
            except ValueError as error:
                endpoint.obstacle = str(error)
        timeout = httpx.Timeout(settings.read_timeout, connect=settings.connect_timeout)
        self.http = httpx.AsyncClient(
            trust_env=False, verify=addresses.NOBODY, mounts=mounts, timeout=timeout
        )
        self._places = asyncio.Semaphore(_MAX_IN_FLIGHT)
        self._turns = itertools.count(1)
        self._calls: set[asyncio.Future[None]] = set()
        _open.add(self)

    def retire(self) -> None:
        """Close once running calls are done; called in any thread, also by the collector."""
        if self.loop is _loops.get(os.getpid()):
            asyncio.run_coroutine_threadsafe(self._close_when_idle(), self.loop)

    async def _close_when_idle(self) -> None:
        while self._calls:
            await asyncio.wait(self._calls)
        _open.discard(self)
        await self.http.aclose()

    async def score(self, pairs: Sequence[tuple[str, str]], instruction: str | None) -> list[float]:
        """Score pairs, in their order.

        Raises:
            RemoteError: A request failed for good; the others are cancelled.
        """
        settings, deadline = self.settings, self.loop.time() + self.settings.timeout
        places = asyncio.Semaphore(settings.max_concurrency)
        scores = [math.nan] * len(pairs)

        async def fill(query: str, positions: Sequence[int]) -> None:
            fields = self.dialect.fields(query, [pairs[position][1] for position in positions])
            more = {"model": settings.model, "instruction": instruction}
            fields |= {name: value for name, value in more.items() if value is not None}
            body = json.dumps(fields | settings.extra_body, ensure_ascii=False).encode()
            async with places:
                found = await self._ask(Tries(body, len(positions), deadline))
            for position, score in zip(positions, found, strict=True):
                scores[position] = score

        most = settings.max_documents or self.dialect.max_documents
        self._calls.add(done := self.loop.create_future())
        try:
            async with asyncio.TaskGroup() as group:
                for query, positions in dialects.split(pairs, most):
                    group.create_task(fill(query, positions))
        except BaseExceptionGroup as failed:
            first = failed.exceptions[0]
            raise first from first.__cause__
        finally:
            self._calls.discard(done)
            done.set_result(None)
        return scores

    async def _ask(self, tries: Tries) -> list[float]:
        """Get the scores of one request, whatever number of attempts it takes."""
        retrying = tenacity.AsyncRetrying(
            sleep=asyncio.sleep,
            retry=tenacity.retry_if_exception(
                lambda error: (
                    isinstance(error, AttemptError)
                    and error.retry != "never"
                    and len(tries.given_up) < len(self.endpoints)
                )
            ),
            wait=lambda _: self._pause(tries),
            stop=tenacity.stop_after_attempt(self.settings.max_retries + 1)
            | tenacity.stop_before_delay(tries.deadline - self.loop.time()),
            reraise=True,
        )
        try:
            async with asyncio.timeout_at(tries.deadline):
                return await retrying(self._attempt, tries)
        except AttemptError as failure:
            raise tries.error(failure.problem) from failure.__cause__
        except TimeoutError as error:
            problem = f"gave no scores within timeout={self.settings.timeout:g} s"
            if tries.last:
                problem += f"; before, a server {tries.last.problem}"
            raise tries.error(problem) from error

    async def _attempt(self, tries: Tries) -> list[float]:
        """Send a request once, and note how its server did."""
        tries.asked.append(endpoint := self._due(tries))
        endpoint.turn = next(self._turns)
        async with self._places:
            try:
                scores = await endpoint.ask(
                    self.http, tries.body, tries.count, attempt=len(tries.asked)
                )
            except AttemptError as failure:
                tries.last = failure
                if failure.retry == "elsewhere":
                    tries.given_up.add(endpoint)
                if failure.retry != "never":
                    endpoint.failed(self.loop.time(), failure.retry_after)
                raise
            except asyncio.CancelledError:
                # By the deadline, not by the caller: a server that hangs has failed as well.
                if self.loop.time() >= tries.deadline:
                    endpoint.failed(self.loop.time())
                raise
        endpoint.failures, endpoint.out_until = 0, 0.0
        return scores

    def _due(self, tries: Tries) -> Endpoint:
        """Choose whom to ask next: in turn, of those that are in; else the one that is due next."""
        now = self.loop.time()
        left = (endpoint for endpoint in self.endpoints if endpoint not in tries.given_up)
        return min(left, key=lambda one: (max(one.out_until, now), one.turn))

    def _pause(self, tries: Tries) -> float:
        """Tell how long no server is in; those who failed together do not return together."""
        left = self._due(tries).out_until - self.loop.time()
        return max(left, 0.0) * random.uniform(1.0, 1.2)  # noqa: S311  # no secret
