"""What one request, and all that are held, may take; bodies are read within it."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


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
    raised out of `receive` in the route that reads it, after its key was checked.
    """

    app: ASGIApp
    limits: Limits
    held: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app with a bounded `receive`."""
        most = self.limits.body_bytes
        too_large = HTTPException(413, f"the body must be at most {most:,} bytes")
        deadline: float | None = None
        read = 0
        whole = scope["type"] != "http"

        async def bounded() -> Message:
            nonlocal deadline, read, whole
            if whole:  # whoever asks now wants to know whether the client is still there
                return await receive()
            if int(Headers(scope=scope).get("content-length", 0)) > most:
                raise too_large
            deadline = deadline or asyncio.get_running_loop().time() + self.limits.body_seconds
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as error:
                msg = f"the body must come within {self.limits.body_seconds:g} s"
                raise HTTPException(408, msg, {"connection": "close"}) from error
            size = len(message.get("body", b""))
            read += size
            self.held += size
            whole = not message.get("more_body", False)
            if read > most:
                raise too_large
            if self.held > self.limits.held_bytes:
                msg = f"requests of {self.held:,} bytes wait already; try again later"
                raise HTTPException(503, msg, {"retry-after": "1"})
            return message

        try:
            await self.app(scope, bounded, send)
        finally:
            self.held -= read
