"""Requests for the scores of many pairs: concurrent, retried, within one deadline."""

from __future__ import annotations

import asyncio
import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from langchain_rerank import telemetry
from langchain_rerank.cross_encoders.remote import background, dialects
from langchain_rerank.cross_encoders.remote.attempt import AttemptError
from langchain_rerank.errors import RemoteError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_rerank.cross_encoders.remote.attempt import Sender
    from langchain_rerank.cross_encoders.remote.dialects import Dialect, Part
    from langchain_rerank.cross_encoders.remote.endpoints import Endpoint, Endpoints

# Seconds before the second attempt, doubled for each further one up to the longest; each wait is
# shortened by up to a half at random, so that clients that failed together do not return together.
_FIRST_BACKOFF = 0.5
_LONGEST_BACKOFF = 8.0

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


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Exchange:
    """The traffic of one client, on one event loop.

    Attributes:
        sender: Sends single requests.
        endpoints: The servers.
        dialect: Theirs.
        model: The body's `model`.
        extra_body: More fields of the body.
        timeout: Seconds for one call of `score`.
        max_retries: Further attempts after the first, for each request.
        max_documents: Of one request.
        max_concurrency: Requests of one call in flight at once.
        loop: The event loop on which the connections live.
    """

    sender: Sender
    endpoints: Endpoints
    dialect: Dialect
    model: str | None
    extra_body: Mapping[str, Any]
    timeout: float
    max_retries: int
    max_documents: int
    max_concurrency: int
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_MAX_IN_FLIGHT))
    _users: int = 0
    _retired: bool = False

    async def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Score pairs, in their order.

        Raises:
            RemoteError: A request failed for good; the others are cancelled.
        """
        deadline = self.loop.time() + self.timeout
        parts = dialects.split(pairs, self.max_documents)
        places = asyncio.Semaphore(self.max_concurrency)
        scores = [math.nan] * len(pairs)

        async def fill(part: Part) -> None:
            async with places:
                found = await self._ask(part, deadline)
            for position, score in zip(part.positions, found, strict=True):
                scores[position] = score

        try:
            async with asyncio.TaskGroup() as group:
                for part in parts:
                    group.create_task(fill(part))
        except BaseExceptionGroup as failed:
            first = failed.exceptions[0]
            raise first from first.__cause__
        return scores

    async def _ask(self, part: Part, deadline: float) -> list[float]:
        """Get the scores of one request, whatever number of attempts it takes."""
        tries = _Tries()
        try:
            async with asyncio.timeout_at(deadline):
                return await self._try(part, tries, deadline)
        except TimeoutError as error:
            problem = f"gave no scores within timeout={self.timeout:g} s"
            if tries.last is not None:
                problem += f"; before, a server {tries.last}"
            raise self._error(problem, tries) from error

    async def _try(self, part: Part, tries: _Tries, deadline: float) -> list[float]:
        """Try until it is answered, elsewhere without waiting where that is possible."""
        endpoint = self.endpoints.choose(self.loop.time())
        await self._leave_alone(endpoint, tries, deadline)
        while True:
            tries.endpoints.append(endpoint)
            try:
                return await self._attempt(part, endpoint, len(tries.endpoints), deadline)
            except AttemptError as failure:
                tries.last = failure
                following = self._following(tries, failure)
                if following is None:
                    raise self._error(str(failure), tries) from failure.__cause__
                pause = self._pause(following, tries, deadline)
            endpoint = following
            await asyncio.sleep(pause)

    async def _leave_alone(self, endpoint: Endpoint, tries: _Tries, deadline: float) -> None:
        """Wait for as long as a server has asked for, all others being out.

        Raises:
            RemoteError: That is longer than there is time.
        """
        left = endpoint.retry_at - self.loop.time()
        if endpoint.is_available(self.loop.time()) or left <= 0:
            return
        if endpoint.retry_at > deadline:
            asked = f"asked to be left alone for another {left:.3g} s, timeout={self.timeout:g} s"
            raise self._error(asked, tries)
        await asyncio.sleep(left)

    async def _attempt(
        self, part: Part, endpoint: Endpoint, number: int, deadline: float
    ) -> list[float]:
        """Send a request once, and note how its server did."""
        started = math.inf
        try:
            # Its server counts the request also while it waits for a place, for an even spread.
            with self.endpoints.use(endpoint):
                async with self._places:
                    started = self.loop.time()
                    scores = await self._send(part, endpoint, number)
        except AttemptError as failure:
            if failure.retry == "never":
                self.endpoints.answered(endpoint, started)
            else:
                now = self.loop.time()
                self.endpoints.failed(endpoint, started, now, failure.retry_after)
            raise
        except asyncio.CancelledError:
            # By the deadline, not by the caller: a server that hangs has failed as well.
            if started < deadline <= self.loop.time():
                self.endpoints.failed(endpoint, started, self.loop.time())
            raise
        self.endpoints.answered(endpoint, started)
        return scores

    async def _send(self, part: Part, endpoint: Endpoint, number: int) -> list[float]:
        body = dialects.body(self.dialect, part, self.model, self.extra_body)
        count = len(part.passages)
        attributes: dict[str, str | int] = {
            **endpoint.address.attributes(),
            "langchain_rerank.documents": count,
            "langchain_rerank.attempt": number,
        }
        if self.model is not None:
            attributes["gen_ai.request.model"] = self.model
        with telemetry.span("rerank", kind="client", attributes=attributes) as span:
            reply = await self.sender.send(endpoint.address, body, span)
            try:
                return dialects.scores(self.dialect, reply, count)
            except dialects.WrongReplyError as error:
                msg = f"gave a wrong reply: {error}"
                raise AttemptError(msg, retry="elsewhere", status=200) from error

    def _following(self, tries: _Tries, failure: AttemptError) -> Endpoint | None:
        """Choose the server of the next attempt; None if there is to be none."""
        if failure.retry == "never" or len(tries.endpoints) > self.max_retries:
            return None
        now = self.loop.time()
        endpoint = self.endpoints.choose(now, tries.endpoints)
        if failure.retry == "elsewhere" and endpoint in tries.endpoints:
            untried = [one for one in self.endpoints.all if one not in tries.endpoints]
            return min(untried, key=lambda one: one.out_until, default=None)
        return endpoint

    def _pause(self, endpoint: Endpoint, tries: _Tries, deadline: float) -> float:
        """Tell how long to wait before the next attempt, in seconds.

        Raises:
            RemoteError: Longer than there is time.
        """
        now = self.loop.time()
        if endpoint.is_available(now):
            return 0.0
        asked, left = endpoint.retry_at - now, deadline - now
        backoff = min(_FIRST_BACKOFF * 2.0 ** min(len(tries.endpoints) - 1, 10), _LONGEST_BACKOFF)
        # Those whom a server sent away together do not return together either.
        spread = backoff * random.uniform(0.0, 0.5)  # noqa: S311  # no secret
        pause = asked + spread if asked > 0 else backoff - spread
        if 0 < asked <= left:
            return min(pause, left)
        if pause <= left:
            return pause
        why = f"it asks to wait {asked:.3g} s" if asked > left else "no time for another attempt"
        problem = f"{tries.last}; {why}, {left:.3g} s of timeout={self.timeout:g} s are left"
        raise self._error(problem, tries)

    def _error(self, problem: str, tries: _Tries) -> RemoteError:
        """Make the error that the caller sees; `problem` is what the server did."""
        asked = tries.endpoints or self.endpoints.all
        url = asked[-1].address.shown
        status = tries.last.status if tries.last else None
        hint = _HINTS.get(status or 0, "").format(max_documents=self.max_documents)
        attempts = len(tries.endpoints)
        message = f"{url} {problem}" + (f" ({hint})" if hint else "")
        if attempts > 1:
            message += f", after {attempts} attempts"
        return RemoteError(message, url=url, status=status, attempts=attempts)

    async def __aenter__(self) -> Self:
        self._users += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self._users -= 1
        if self._retired and not self._users:
            await self.aclose()

    async def retire(self) -> None:
        """Close once nobody uses it any more."""
        self._retired = True
        if not self._users:
            await self.aclose()

    async def aclose(self) -> None:
        """Free the connections now."""
        background.forget(self)
        await self.sender.client.aclose()


@dataclass(slots=True)
class _Tries:
    """The attempts of one request: the servers asked, and how the last one failed."""

    endpoints: list[Endpoint] = field(default_factory=list)
    last: AttemptError | None = None
