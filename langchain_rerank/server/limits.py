"""What one request, and all that are held, may take; bodies are read within it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from langchain_rerank.server.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that the service takes on; what is over it is refused with a status of its own.

    Attributes:
        documents: Documents of a request (413).
        text_characters: Characters of the query, or of one document (413).
        body_bytes: Bytes of a request's body (413); they are counted before any is parsed.
        body_brackets: Opening brackets of a body, in texts as well (413): what nests takes the
            parser far longer than text.
        held_bytes: Bytes of the bodies of all requests that are not answered yet (503).
        waiting: Requests that wait to be scored (503, with Retry-After).
        body_seconds: Seconds that a client may take to send a body (408).
    """

    documents: int = 1000
    text_characters: int = 1_000_000
    body_bytes: int = 16 * 2**20
    body_brackets: int = 500_000
    held_bytes: int = 128 * 2**20
    waiting: int = 256
    body_seconds: float = 30

    def __post_init__(self) -> None:
        """Check that every limit lets something through.

        Raises:
            ValueError: One is zero or negative.
        """
        for name, value in asdict(self).items():
            if not value > 0:
                msg = f"limit {name} must be > 0, got {value!r}"
                raise ValueError(msg)


@dataclass
class LimitsMiddleware:
    """Bounds how large bodies are, how long they take to come, and how many are held at once.

    A body is bounded where it is read, whatever the path or the mount: 413, 408 and 503 are
    raised out of `receive` in the route that reads it, after its key was checked. How requests end
    is counted by route, those without one as "other".
    """

    app: ASGIApp
    limits: Limits
    metrics: Metrics
    held: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app on a bounded body, and count how it answers."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        body = _Body(self, int(Headers(scope=scope).get("content-length", 0)), receive)
        status = 500  # unless it answers

        async def noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, body.receive, noting)
        finally:
            self.held -= body.read
            # Of an app that mounts this one the path would hold the mount as well.
            path = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(path, status).inc()
            self.metrics.observe(request_seconds=time.perf_counter() - started)


@dataclass(slots=True)
class _Body:
    """A request's body on its way in."""

    all: LimitsMiddleware
    announced: int
    inner: Receive
    read: int = 0
    whole: bool = False
    deadline: float | None = None

    async def receive(self) -> Message:
        if self.whole:  # whoever asks now wants to know whether the client is still there
            return await self.inner()
        limits = self.all.limits
        too_large = HTTPException(413, f"the body must be at most {limits.body_bytes:,} bytes")
        if self.announced > limits.body_bytes:
            raise too_large
        self.deadline = self.deadline or asyncio.get_running_loop().time() + limits.body_seconds
        try:
            async with asyncio.timeout_at(self.deadline):
                message = await self.inner()
        except TimeoutError as error:
            msg = f"the body must come within {limits.body_seconds:g} s"
            raise HTTPException(408, msg, {"connection": "close"}) from error
        size = len(message.get("body", b""))
        self.read += size
        self.all.held += size
        self.whole = not message.get("more_body", False)
        if self.read > limits.body_bytes:
            raise too_large
        if self.all.held > limits.held_bytes:
            msg = f"requests of {self.all.held:,} bytes wait already; try again later"
            raise HTTPException(503, msg, {"retry-after": "1"})
        return message
