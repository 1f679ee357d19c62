"""Servers: what one request to them gives, and how they have been doing."""

from __future__ import annotations

import asyncio
import email.utils
import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import httpx

from langchain_rerank import telemetry
from langchain_rerank.cross_encoders import addresses, dialects
from langchain_rerank.cross_encoders.addresses import QuietURL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_rerank.cross_encoders.remote import RemoteCrossEncoder
    from langchain_rerank.telemetry import Span

# How long a server is left out after its first failure, doubled each time up to the longest; the
# last is for one that asks for it: a mistaken header must not leave it out for ever. In seconds.
_FIRST_OUT, _LONGEST_OUT, _LONGEST_ASKED = 1.0, 60.0, 3600.0
# Enough to find what a server says about an error.
_MAX_ERROR_BYTES = 64 * 1024
_OVERLOADED = (429, 502, 503, 504)


class AttemptError(Exception):
    """A request that gave no scores; says what its server did, without secrets.

    Attributes:
        retry: "anywhere", also on the same server, "elsewhere", on another only, or "never".
        status: The HTTP status; None if no answer came.
        retry_after: How many seconds the server asked to wait.
    """

    def __init__(
        self,
        problem: str,
        retry: Literal["anywhere", "elsewhere", "never"],
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        """Keep what decides on the next attempt."""
        super().__init__(problem)
        self.retry = retry
        self.status = status
        self.retry_after = retry_after


@dataclass(slots=True, eq=False)
class Endpoint:
    """A server; times are those of the event loop's clock.

    Attributes:
        url: Its address, with what must not be shown.
        settings: Of its client.
        via: Names the proxy on the way there, for errors.
        obstacle: Why nothing can be sent there.
        in_flight: Requests that it has not yet answered.
        turn: When it was last chosen, counted in choices.
        failures: How often it failed since it last answered.
        failed_at: When it last failed.
        out_until: It is left out until then.
        retry_at: It asked for no request before then.
    """

    url: QuietURL
    settings: RemoteCrossEncoder
    via: str = ""
    obstacle: str = ""
    in_flight: int = 0
    turn: int = 0
    failures: int = 0
    failed_at: float = 0.0
    out_until: float = 0.0
    retry_at: float = 0.0

    def is_available(self, now: float) -> bool:
        """Tell whether a request may go there; one that has failed is tried by one at first."""
        return not self.failures or (now >= self.out_until and not self.in_flight)

    def answered(self, started: float) -> None:
        """Take it back in, unless it has failed since the request was sent, at `started`."""
        if not self.failures or started >= self.failed_at:
            self.failures = 0
            self.out_until = self.retry_at = 0.0

    def failed(self, started: float, now: float, retry_after: float | None = None) -> None:
        """Leave it out for a while, `retry_after` seconds if it asked for them.

        Requests that were in flight together fail together, and count as one failure.
        """
        if not self.failures or started >= self.failed_at:
            self.failures += 1
            self.failed_at = now
        # 2**10 is over the longest already, and no power of 2 overflows a float then.
        out = min(_FIRST_OUT * 2 ** min(self.failures - 1, 10), _LONGEST_OUT)
        if retry_after is not None:
            out = min(retry_after, _LONGEST_ASKED)
        self.retry_at = now + (retry_after or 0.0)
        self.out_until = max(self.out_until, now + out)

    async def post(self, http: httpx.AsyncClient, body: bytes, span: Span) -> bytes:
        """Send a body and give the reply's; the span gains the status.

        Raises:
            AttemptError: No reply, one of an error, or one that is too large or compressed.
        """
        if self.obstacle:
            raise AttemptError(self.obstacle, "elsewhere")
        connect, read = self.settings.connect_timeout, self.settings.read_timeout
        try:
            # The read timeout alone would let a server dribble for ever.
            async with asyncio.timeout(connect + read):
                return await self._exchange(http, body, span)
        except httpx.ConnectTimeout as error:
            msg = f"could not be reached within connect_timeout={connect:g} s"
            raise AttemptError(msg, "anywhere") from error
        except (TimeoutError, httpx.TimeoutException) as error:
            msg = f"gave no whole answer within read_timeout={read:g} s"
            raise AttemptError(msg, "anywhere") from error
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: httpx.TransportError) -> AttemptError:
        said = f"could not be reached: {type(error).__name__}: {self._redacted(str(error))}"
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            given = [name for name in addresses.CERTIFICATES if os.environ.get(name)]
            trusted = f"{' and '.join(given)} of the environment" if given else "certifi's list"
            said += f"; trusted is {trusted}, set SSL_CERT_FILE to trust another issuer"
            return AttemptError(said, "elsewhere")
        # A proxy's refusal starts with its status.
        refused = isinstance(error, httpx.ProxyError) and str(error).startswith("4")
        return AttemptError(said, "elsewhere" if refused else "anywhere")

    async def _exchange(self, http: httpx.AsyncClient, body: bytes, span: Span) -> bytes:
        headers = addresses.headers(self.settings)
        telemetry.inject(headers)
        request = http.build_request("POST", self.url, content=body, headers=headers)
        # `build_request` makes a plain URL, which httpx would log with its query.
        request.url = self.url
        response = await http.send(request, stream=True)
        status = response.status_code
        try:
            span.set_attribute("http.response.status_code", status)
            encoding = response.headers.get("content-encoding", "identity").strip().lower()
            is_plain = encoding in {"", "identity"}
            if status != httpx.codes.OK:
                raise self._refusal(response, await _start(response) if is_plain else b"")
            if not is_plain:
                msg = f"gave a reply compressed by {encoding[:20]!r}, though none was asked for"
                raise AttemptError(msg, "elsewhere", status)
            limit = self.settings.max_reply_bytes
            reply = await _start(response, limit)
            if len(reply) > limit:
                msg = f"gave a reply over max_reply_bytes={limit}"
                raise AttemptError(msg, "elsewhere", status)
            return reply
        finally:
            await response.aclose()

    def _refusal(self, response: httpx.Response, reply: bytes) -> AttemptError:
        status, location = response.status_code, response.headers.get("location")
        if response.is_redirect and location:
            try:
                to = str(QuietURL(self.url.join(location)))
            except httpx.InvalidURL:
                to = "an address that can't be read"
            msg = (
                f"answered {status}, a redirect to {to}, which is not followed as the key would "
                "go along: if you trust it, give that address as url"
            )
            return AttemptError(self._redacted(msg), "never", status)
        # Blotted out before it is cut, lest half a key stays.
        said = self._redacted(dialects.error_message(reply[:_MAX_ERROR_BYTES]))
        msg = f"answered {status}" + (f": {dialects.trimmed(said)}" if said else "")
        if status in _OVERLOADED:
            wait = retry_after(response.headers.get("retry-after"))
            return AttemptError(msg, "anywhere", status, wait)
        return AttemptError(msg, "elsewhere" if response.is_server_error else "never", status)

    def _redacted(self, text: str) -> str:
        for secret in addresses.secrets(self.settings):
            text = text.replace(secret, "***")
        return text


def open_http(endpoints: Sequence[Endpoint], timeout: httpx.Timeout) -> httpx.AsyncClient:
    """Open the client for all endpoints, and note what keeps from some of them."""
    mounts: dict[str, httpx.AsyncBaseTransport | None] = {}
    for endpoint in endpoints:
        try:
            transport, variable = addresses.open_transport(endpoint.url)
        except ValueError as error:
            endpoint.obstacle = str(error)
            continue
        mounts[f"{endpoint.url.scheme}://{endpoint.url.netloc.decode()}"] = transport
        endpoint.via = f" (through the proxy of {variable})" if variable else ""
    return httpx.AsyncClient(
        trust_env=False, verify=addresses.NOBODY, mounts=mounts, timeout=timeout
    )


async def _start(response: httpx.Response, most: int = _MAX_ERROR_BYTES) -> bytes:
    """Read a reply's body, and stop once it is over `most` bytes."""
    reply = bytearray()
    async for chunk in response.aiter_raw():
        reply += chunk
        if len(reply) > most:
            break
    return bytes(reply)


def retry_after(header: str | None) -> float | None:
    """Read a Retry-After header, of seconds or a date, as seconds from now; None if it is neither.

    Source: RFC 9110, section 10.2.3.
    """
    given = (header or "").strip()
    if given.isascii() and given.isdigit():
        # More digits than any wait has are infinite, not an error.
        return float(given)
    try:
        date = email.utils.parsedate_to_datetime(given)
    except (ValueError, OverflowError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max((date - datetime.now(UTC)).total_seconds(), 0.0)
