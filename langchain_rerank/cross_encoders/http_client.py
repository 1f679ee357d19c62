"""Requests to rerank servers: several at once, retried, spread over servers, in time."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import random
from typing import TYPE_CHECKING

import tenacity

from langchain_rerank.cross_encoders import dialects
from langchain_rerank.cross_encoders.endpoints import AttemptError, Endpoint
from langchain_rerank.cross_encoders.processes import is_background_loop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_rerank.cross_encoders.remote import RemoteCrossEncoder

Failure = tuple[Endpoint, AttemptError]
# A forked child keeps its parent's, whose connections it neither uses nor closes, as closing would
# say goodbye on them.
_open: set[asyncio.Task[None]] = set()


class RerankClient:
    """The connections of a remote cross encoder, on the event loop that it is made on."""

    def __init__(self, settings: RemoteCrossEncoder) -> None:
        """Open it; nothing is sent yet."""
        self.settings, self.loop = settings, asyncio.get_running_loop()
        self.endpoints = [Endpoint(url, settings) for url in settings.urls]
        self.users = 1
        self._unused = asyncio.Event()
        self._places = asyncio.Semaphore(settings.max_concurrency)
        self._turns = itertools.count(1)
        _open.add(life := self.loop.create_task(self._live()))
        life.add_done_callback(_open.discard)

    async def _live(self) -> None:
        """Close once its owner and all calls have left, or at exit."""
        try:
            await self._unused.wait()
        finally:
            for transport in (endpoint.transport for endpoint in self.endpoints):
                if transport:
                    await transport.aclose()

    def leave(self) -> None:
        """End a use, on its loop."""
        self.users -= 1
        if not self.users:
            self._unused.set()

    def retire(self) -> None:
        """Let the owner leave; called in any thread, also by the collector."""
        if is_background_loop(self.loop):
            self.loop.call_soon_threadsafe(self.leave)

    async def score(self, pairs: Sequence[tuple[str, str]], instruction: str | None) -> list[float]:
        """Score pairs, in their order.

        Raises:
            RemoteError: A request failed for good; the others are cancelled.
        """
        settings, dialect = self.settings, dialects.DIALECTS[self.settings.dialect]
        deadline = self.loop.time() + settings.timeout
        scores = [math.nan] * len(pairs)

        async def fill(query: str, positions: Sequence[int]) -> None:
            fields = dialect.fields(query, [pairs[position][1] for position in positions])
            more = {"model": settings.model, "instruction": instruction}
            fields |= {name: value for name, value in more.items() if value is not None}
            body = json.dumps(fields | settings.extra_body, ensure_ascii=False)
            found = await self._ask(body.encode(errors="replace"), len(positions), deadline)
            for position, score in zip(positions, found, strict=True):
                scores[position] = score

        self.users += 1
        try:
            async with asyncio.TaskGroup() as group:
                most = settings.max_documents or dialect.max_documents
                for query, positions in dialects.split(pairs, most):
                    group.create_task(fill(query, positions))
        except BaseExceptionGroup as failed:
            first = failed.exceptions[0]
            raise first from first.__cause__
        finally:
            self.leave()
        return scores

    async def _ask(self, body: bytes, count: int, deadline: float) -> list[float]:
        """Get the scores of one request, whatever number of attempts it takes."""
        failures: list[Failure] = []
        endpoint = self.endpoints[0]

        async def attempt() -> list[float]:
            nonlocal endpoint
            endpoint = self.due(failures)
            return await self._attempt(endpoint, body, count, failures)

        try:
            async with asyncio.timeout_at(deadline):
                return await self._retrying(failures, deadline)(attempt)
        except AttemptError as failure:
            cause = failure.__cause__
            raise endpoint.error(failure.problem, failure.status, len(failures)) from cause
        except TimeoutError as error:
            endpoint.failed(self.loop.time())
            problem = f"gave no scores within timeout={self.settings.timeout:g} s"
            if failures:
                problem += f"; before, a server {failures[-1][1].problem}"
            raise endpoint.error(problem, None, len(failures) + 1) from error

    async def _attempt(
        self, endpoint: Endpoint, body: bytes, count: int, failures: list[Failure]
    ) -> list[float]:
        """Send a request once, and note how its server did."""
        endpoint.turn = next(self._turns)
        try:
            async with self._places:
                scores = await endpoint.ask(body, count, len(failures) + 1)
        except AttemptError as failure:
            failures.append((endpoint, failure))
            if failure.retry != "never":
                endpoint.failed(self.loop.time(), failure.retry_after)
            raise
        endpoint.failures, endpoint.out_until = 0, 0.0
        return scores

    def _retrying(self, failures: list[Failure], deadline: float) -> tenacity.AsyncRetrying:
        def is_worth_it(error: BaseException) -> bool:
            return isinstance(error, AttemptError) and bool(self._left(failures))

        def pause(_: object) -> float:
            """Wait until a server is in; those who failed together do not return together."""
            left = self.due(failures).out_until - self.loop.time()
            return max(left, 0.0) * random.uniform(1.0, 1.2)  # noqa: S311  # no secret

        return tenacity.AsyncRetrying(
            sleep=asyncio.sleep,
            retry=tenacity.retry_if_exception(is_worth_it),
            wait=pause,
            stop=tenacity.stop_after_attempt(self.settings.max_retries + 1)
            | tenacity.stop_before_delay(deadline - self.loop.time()),
            reraise=True,
        )

    def _left(self, failures: Sequence[Failure]) -> list[Endpoint]:
        """Give those that may still have scores for a request."""
        given_up = {endpoint for endpoint, failure in failures if failure.retry == "elsewhere"}
        never = any(failure.retry == "never" for _, failure in failures)
        return [] if never else [one for one in self.endpoints if one not in given_up]

    def due(self, failures: Sequence[Failure] = ()) -> Endpoint:
        """Choose whom to ask next: in turn, of those that are in; else the one that is due next."""
        now = self.loop.time()
        return min(self._left(failures), key=lambda one: (max(one.out_until, now), one.turn))
