"""Requests to rerank servers: several at once, sent again, spread over servers, in time."""

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
            for endpoint in self.endpoints:
                if endpoint.transport:
                    await endpoint.transport.aclose()

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
        left, endpoint, sent = [*self.endpoints], self.endpoints[0], 0
        failures: list[AttemptError] = []

        async def attempt() -> list[float]:
            nonlocal endpoint, sent
            endpoint = self.due(left)
            endpoint.turn = next(self._turns)
            async with self._places:
                sent += 1
                try:
                    return await endpoint.ask(body, count, sent)
                except AttemptError as failure:
                    failures.append(failure)
                    if failure.retry == "never":
                        left.clear()
                        raise
                    endpoint.failed(self.loop.time(), failure.retry_after)
                    if failure.retry == "elsewhere":
                        left.remove(endpoint)
                    raise

        def pause(_: object) -> float:
            """Wait until a server is in; those who failed together do not return together."""
            wait = self.due(left).out_until - self.loop.time()
            return max(wait, 0.0) * random.uniform(1.0, 1.2)  # noqa: S311  # no secret

        retrying = tenacity.AsyncRetrying(
            sleep=asyncio.sleep,
            retry=tenacity.retry_if_exception(
                lambda error: isinstance(error, AttemptError) and bool(left)
            ),
            wait=pause,
            stop=tenacity.stop_after_attempt(self.settings.max_retries + 1)
            | tenacity.stop_before_delay(deadline - self.loop.time()),
            reraise=True,
        )
        try:
            async with asyncio.timeout_at(deadline):
                return await retrying(attempt)
        except AttemptError as failure:
            raise endpoint.error(failure.problem, failure.status, sent) from failure.__cause__
        except TimeoutError as error:
            problem = f"gave no scores within timeout={self.settings.timeout:g} s"
            if sent > len(failures):
                endpoint.failed(self.loop.time())
            if failures:
                problem += f"; before, a server {failures[-1].problem}"
            raise endpoint.error(problem, None, sent) from error

    def due(self, endpoints: Sequence[Endpoint]) -> Endpoint:
        """Choose whom to ask next: in turn, of those that are in; else the one that is due next."""
        now = self.loop.time()
        return min(endpoints, key=lambda one: (max(one.out_until, now), one.turn))
