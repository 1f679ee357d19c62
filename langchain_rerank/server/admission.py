"""What a request must pass before it is parsed: its key, its size, and the time that it takes."""

from __future__ import annotations

import asyncio
import hmac
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from langchain_rerank.server.replies import Refusal, refuse_unread

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from langchain_rerank.server.limits import Limits


class Admission:
    """ASGI middleware around the routes that score: 401, 408, 413 and 415 are answered here.

    The routes behind it get a body that is whole and within its limit.
    """

    def __init__(
        self, app: ASGIApp, *, limits: Limits, api_keys: Sequence[str], paths: Collection[str]
    ) -> None:
        """Store the settings.

        Args:
            app: What stands behind.
            limits: See `Limits`.
            api_keys: Any of them opens; none asks for no key.
            paths: The routes that are guarded.

        Raises:
            ValueError: A key is blank.
        """
        if not all(key.strip() for key in api_keys):
            msg = f"an API key must hold text, got a blank one among {len(api_keys)}"
            raise ValueError(msg)
        self._app = app
        self._limits = limits
        self._keys = [key.encode() for key in api_keys]
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, and hand it on with its body read."""
        guarded = scope["type"] == "http" and scope["path"] in self._paths
        if not guarded or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._check_key(headers.get("authorization"))
            _check_content_type(headers.get("content-type"))
            body = await self._read(headers.get("content-length"), receive)
        except Refusal as refusal:
            await refuse_unread(refusal, receive, send)
            return
        if body is not None:
            await self._app(scope, _replayed(body, receive), send)

    def _check_key(self, authorization: str | None) -> None:
        if not self._keys:
            return
        headers = {"www-authenticate": "Bearer"}
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            came = "no such header" if authorization is None else "another scheme or no key"
            msg = f"expected the header 'Authorization: Bearer KEY', got {came}"
            raise Refusal(401, msg, headers)
        # Header values are Latin-1 on the wire. All keys are compared, each in constant time, so
        # that the time taken tells neither a key's letters nor which one it was.
        given = key.strip().encode("latin-1")
        matches = [hmac.compare_digest(given, key) for key in self._keys]
        if not any(matches):
            raise Refusal(401, "the API key of the header 'Authorization' is wrong", headers)

    async def _read(self, content_length: str | None, receive: Receive) -> bytes | None:
        """Read a body within its limits; None if the client went away."""
        most = self._limits.body_bytes
        if content_length is not None and content_length.isdecimal() and int(content_length) > most:
            msg = f"the body must be at most {most:,} bytes, got {int(content_length):,}"
            raise Refusal(413, msg)
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > most:
                        raise Refusal(413, f"the body must be at most {most:,} bytes, got more")
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError as error:
            seconds = self._limits.body_seconds
            msg = f"the body must come within {seconds:g} s, got {len(body):,} bytes of it"
            raise Refusal(408, msg) from error


def _check_content_type(content_type: str | None) -> None:
    if content_type is None:
        return
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        msg = f"content-type must be application/json, got {kind[:80]!r}"
        raise Refusal(415, msg)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Give the body as one message, then whatever the server has to say: that the client left."""
    unread = True

    async def replay() -> Message:
        nonlocal unread
        if unread:
            unread = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replay
