"""One HTTP request to one server, and what its failure means."""

from __future__ import annotations

import asyncio
import email.utils
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import httpx

from langchain_rerank import telemetry
from langchain_rerank.cross_encoders.remote import addresses, dialects

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_rerank.cross_encoders.remote.addresses import Address
    from langchain_rerank.telemetry import Span

# Enough to find what a server says about an error.
_MAX_ERROR_BYTES = 64 * 1024
# Seconds that an idle connection is kept; one that the server closed meanwhile is noticed.
_KEEPALIVE = 30.0
_OVERLOADED = (429, 502, 503, 504)


class AttemptError(Exception):
    """A request that gave no scores."""

    def __init__(
        self,
        problem: str,
        *,
        retry: Literal["anywhere", "elsewhere", "never"],
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        """Keep what decides on the next attempt.

        Args:
            problem: What the server did, for the error; without secrets.
            retry: "anywhere", also on the same server, "elsewhere", on another only, or "never".
            status: The HTTP status; None if no answer came.
            retry_after: How many seconds the server asked to wait.
        """
        super().__init__(problem)
        self.retry = retry
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Sender:
    """Sends single requests.

    Attributes:
        client: The pool of connections.
        headers: Of every request; their values may be secret.
        secrets: What is blotted out of what servers say.
        connect_timeout: Seconds to connect.
        read_timeout: Seconds from then to the end of the answer.
        max_reply_bytes: Of the answer.
    """

    client: httpx.AsyncClient
    headers: Mapping[str, str]
    secrets: Sequence[str]
    connect_timeout: float
    read_timeout: float
    max_reply_bytes: int

    async def send(self, address: Address, body: bytes, span: Span) -> bytes:
        """Send a body and give the reply's.

        Args:
            address: Where to.
            body: JSON.
            span: The current one; gains the status.

        Raises:
            AttemptError: No reply, one of an error, or one that is too large.
        """
        try:
            # The read timeout alone would let a server dribble for ever.
            async with asyncio.timeout(self.connect_timeout + self.read_timeout):
                return await self._exchange(address, body, span)
        except TimeoutError as error:
            msg = f"gave no whole answer within read_timeout={self.read_timeout:g} s"
            raise AttemptError(msg, retry="anywhere") from error
        except httpx.DecodingError as error:
            msg = "gave a reply that could not be decompressed"
            raise AttemptError(msg, retry="elsewhere") from error
        except httpx.TimeoutException as error:
            raise AttemptError(self._waited(error), retry="anywhere") from error
        except httpx.TransportError as error:
            said = self._redacted(str(error))
            msg = f"could not be reached: {type(error).__name__}: {said}"
            raise AttemptError(msg, retry="anywhere") from error

    async def _exchange(self, address: Address, body: bytes, span: Span) -> bytes:
        headers = {**self.headers, "accept-encoding": "identity"}
        if address.authorization is not None:
            headers["authorization"] = address.authorization
        telemetry.inject(headers)
        request = self.client.build_request("POST", address.url, content=body, headers=headers)
        # `build_request` makes a plain URL, which httpx would log with its query.
        request.url = addresses.QuietURL(request.url)
        response = await self.client.send(request, stream=True)
        try:
            span.set_attribute("http.response.status_code", response.status_code)
            encoding = response.headers.get("content-encoding", "identity").strip().lower()
            if encoding not in {"", "identity"}:
                # A few bytes can unpack to gigabytes before any of them can be counted.
                msg = f"gave a reply compressed by {encoding[:20]!r}, though none was asked for"
                raise AttemptError(msg, retry="elsewhere", status=response.status_code)
            if response.status_code == httpx.codes.OK:
                return await self._read(response)
            raise await self._refusal(response)
        finally:
            await response.aclose()

    async def _read(self, response: httpx.Response) -> bytes:
        reply = await _up_to(response, self.max_reply_bytes)
        if len(reply) > self.max_reply_bytes:
            msg = f"gave a reply over max_reply_bytes={self.max_reply_bytes}"
            raise AttemptError(msg, retry="elsewhere", status=response.status_code)
        return reply

    async def _refusal(self, response: httpx.Response) -> AttemptError:
        status = response.status_code
        location = response.headers.get("location")
        if response.is_redirect and location:
            to = _shown_location(response.request.url, location)
            msg = (
                f"answered {status}, a redirect to {to}, which is not followed as the key would "
                "go along: if you trust it, give that address as url"
            )
            return AttemptError(self._redacted(msg), retry="never", status=status)
        reply = await _up_to(response, _MAX_ERROR_BYTES)
        # Blotted out before it is cut, lest half a key stays.
        said = self._redacted(dialects.error_message(reply[:_MAX_ERROR_BYTES]))
        msg = f"answered {status}" + (f": {dialects.trimmed(said)}" if said else "")
        if status in _OVERLOADED:
            wait = retry_after(response.headers.get("retry-after"))
            return AttemptError(msg, retry="anywhere", status=status, retry_after=wait)
        retry: Literal["elsewhere", "never"] = "elsewhere" if response.is_server_error else "never"
        return AttemptError(msg, retry=retry, status=status)

    def _redacted(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text

    def _waited(self, error: httpx.TimeoutException) -> str:
        if isinstance(error, httpx.ConnectTimeout):
            return f"could not be reached within connect_timeout={self.connect_timeout:g} s"
        return f"gave no answer within read_timeout={self.read_timeout:g} s"


def open_sender(
    headers: Mapping[str, str],
    secrets: Sequence[str],
    *,
    connect_timeout: float,
    read_timeout: float,
    max_reply_bytes: int,
) -> Sender:
    """Make a sender with a pool of connections of its own; see `Sender`."""
    client = httpx.AsyncClient(
        timeout=httpx.Timeout(read_timeout, connect=connect_timeout),
        limits=httpx.Limits(max_connections=None, keepalive_expiry=_KEEPALIVE),
    )
    return Sender(
        client=client,
        headers=headers,
        secrets=secrets,
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
        max_reply_bytes=max_reply_bytes,
    )


async def _up_to(response: httpx.Response, most: int) -> bytes:
    """Read a reply's body, and stop once it is over `most` bytes."""
    reply = bytearray()
    async for chunk in response.aiter_bytes():
        reply += chunk
        if len(reply) > most:
            break
    return bytes(reply)


def _shown_location(url: httpx.URL, location: str) -> str:
    try:
        return addresses.shown(url.join(location))
    except httpx.InvalidURL:
        return "an address that can't be read"


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
