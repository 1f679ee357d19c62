"""What one request, and all that are held, may take; bodies are read within it."""

import asyncio
from collections.abc import AsyncIterator

from pydantic import PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from starlette.exceptions import HTTPException
from starlette.requests import Request


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

    documents: PositiveInt = 1000
    text_characters: PositiveInt = 1_000_000
    body_bytes: PositiveInt = 16 * 2**20
    body_brackets: PositiveInt = 500_000
    held_bytes: PositiveInt = 128 * 2**20
    waiting: PositiveInt = 256
    body_seconds: PositiveFloat = 30


async def held_body(request: Request) -> AsyncIterator[bytearray]:
    """Read a request's body, whose bytes count as held until it is answered.

    Raises:
        HTTPException: It is too large (413) or too slow (408), or too much is held (503).
    """
    state, body = request.app.state, bytearray()
    limits: Limits = state.limits
    too_large = HTTPException(413, f"the body must be at most {limits.body_bytes:,} bytes")
    if int(request.headers.get("content-length", 0)) > limits.body_bytes:
        raise too_large
    try:
        try:
            async with asyncio.timeout(limits.body_seconds):
                async for chunk in request.stream():
                    body += chunk
                    state.held_bytes += len(chunk)
                    if len(body) > limits.body_bytes:
                        raise too_large
                    if state.held_bytes > limits.held_bytes:
                        msg = f"requests of {state.held_bytes:,} bytes wait already; try later"
                        raise HTTPException(503, msg, {"retry-after": "1"})
        except TimeoutError as error:
            msg = f"the body must come within {limits.body_seconds:g} s"
            raise HTTPException(408, msg, {"connection": "close"}) from error
        yield body
    finally:
        state.held_bytes -= len(body)
