"""Replies that are not scores: one sentence that says what was wrong."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Receive, Send

# nginx's status for a client that went away; nobody reads the reply, metrics count it.
CLIENT_GONE = 499

_DRAIN_SECONDS = 10


class Refusal(Exception):  # noqa: N818  # not a failure of this process
    """A request that is answered with an error: its status, message and headers."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        """Keep what is answered."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


def reply(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Encode a reply; floats come out with every digit that they have."""
    body = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(body, status, headers, media_type="application/json")


def error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Build the reply of every error."""
    return reply({"message": message}, status, headers)


async def refuse_unread(refusal: Refusal, receive: Receive, send: Send) -> None:
    """Answer a request whose body has not been read, or not to its end.

    A connection closed on a client that is still sending would be reset, and the answer lost with
    it. So the answer goes out at once, and the rest of the body is read and thrown away for a
    while before the connection is closed.
    """
    response = error(refusal.status, refusal.message, {**refusal.headers, "connection": "close"})
    await send(
        {"type": "http.response.start", "status": refusal.status, "headers": response.raw_headers}
    )
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            while (await receive()).get("more_body", False):
                pass
    except TimeoutError:
        pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})
