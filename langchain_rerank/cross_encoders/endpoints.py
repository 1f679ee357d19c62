"""Servers: what one request to them gives, and how they have been doing."""

from __future__ import annotations

import asyncio
import email.utils
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import httpx

from langchain_rerank import telemetry
from langchain_rerank.cross_encoders import addresses, dialects

if TYPE_CHECKING:
    from langchain_rerank.cross_encoders.remote import RemoteCrossEncoder

# Seconds that a server is left out after its first failure, doubled each time, and the most of
# them; the last is for one that asks for it: a mistaken header must not leave it out for ever.
_FIRST_OUT, _LONGEST_OUT, _LONGEST_ASKED = 0.5, 60.0, 3600.0
# Enough to find what a server says about an error, and to show of it.
_MAX_ERROR_BYTES, _MAX_SHOWN = 64 * 1024, 300
_OVERLOADED = (429, 502, 503, 504)


@dataclass(eq=False)
class AttemptError(Exception):
    """A request that gave no scores."""

    problem: str
    """What its server did, without secrets."""
    retry: Literal["anywhere", "elsewhere", "never"] = "anywhere"
    """Also on the same server, on another only, or not at all."""
    status: int | None = None
    retry_after: float | None = None


@dataclass(slots=True, eq=False)
class Endpoint:
    """A server; times are those of the event loop's clock."""

    url: addresses.QuietURL
    settings: RemoteCrossEncoder
    via: str = ""
    """Names the proxy on the way there, for errors."""
    obstacle: str = ""
    """Why nothing can be sent there."""
    turn: int = 0
    """When it was last chosen, counted in choices."""
    failures: int = 0
    """How often it failed since it last answered."""
    out_until: float = 0.0

    def failed(self, now: float, retry_after: float | None = None) -> None:
        """Leave it out for a while; requests that fail together count as one failure."""
        if now >= self.out_until:
            self.failures += 1
        # 2**10 is over the longest already, and no power of 2 overflows a float then.
        out = min(_FIRST_OUT * 2 ** min(self.failures - 1, 10), _LONGEST_OUT)
        if retry_after is not None:
            out = min(retry_after, _LONGEST_ASKED)
        self.out_until = max(self.out_until, now + out)

    async def ask(
        self, http: httpx.AsyncClient, body: bytes, count: int, attempt: int
    ) -> list[float]:
        """Send a body of `count` passages and give their scores; `attempt` is for the trace.

        Raises:
            AttemptError: No reply, one of an error, one that is too large or compressed, or wrong.
        """
        if self.obstacle:
            raise AttemptError(self.obstacle, "elsewhere")
        connect, read = self.settings.connect_timeout, self.settings.read_timeout
        attributes: dict[str, str | int] = {
            "server.address": self.url.host,
            "url.path": self.url.path,
            "gen_ai.request.model": self.settings.model or "",
            "langchain_rerank.documents": count,
            "langchain_rerank.attempt": attempt,
        }
        with telemetry.span("rerank", kind="client", attributes=attributes) as span:
            try:
                # The read timeout alone would let a server dribble for ever.
                async with asyncio.timeout(connect + read):
                    reply = await self._post(http, body, span)
                return dialects.scores(dialects.DIALECTS[self.settings.dialect], reply, count)
            except dialects.WrongReplyError as error:
                msg = f"gave a wrong reply: {error}"
                raise AttemptError(msg, "elsewhere", 200) from error
            except httpx.ConnectTimeout as error:
                msg = f"could not be reached within connect_timeout={connect:g} s"
                raise AttemptError(msg) from error
            except (TimeoutError, httpx.TimeoutException) as error:
                msg = f"gave no whole answer within read_timeout={read:g} s"
                raise AttemptError(msg) from error
            except httpx.TransportError as error:
                raise self._unreachable(error) from error

    async def _post(self, http: httpx.AsyncClient, body: bytes, span: telemetry.Span) -> bytes:
        headers = addresses.headers(self.settings)
        telemetry.inject(headers)
        request = http.build_request("POST", self.url, content=body, headers=headers)
        # `build_request` makes a plain URL, which httpx would log with its query.
        request.url = self.url
        response = await http.send(request, stream=True)
        try:
            status, limit = response.status_code, self.settings.max_reply_bytes
            span.set_attribute("http.response.status_code", status)
            encoding = response.headers.get("content-encoding", "").strip().lower()
            # A few compressed bytes unpack to gigabytes before they can be counted.
            is_plain = encoding in {"", "identity"}
            if status != httpx.codes.OK:
                raise self._refusal(response, await _start(response) if is_plain else b"")
            if not is_plain:
                msg = f"gave a reply compressed by {encoding[:20]!r}, though none was asked for"
                raise AttemptError(msg, "elsewhere", status)
            reply = await _start(response, limit)
        finally:
            await response.aclose()
        if len(reply) > limit:
            msg = f"gave a reply over max_reply_bytes={limit}"
            raise AttemptError(msg, "elsewhere", status)
        return reply

    def _refusal(self, response: httpx.Response, reply: bytes) -> AttemptError:
        status = response.status_code
        said = dialects.error_message(reply[:_MAX_ERROR_BYTES])
        if response.next_request:
            to = addresses.QuietURL(response.next_request.url)
            said = f"a redirect to {to}, which is not followed as the key would go along"
        # Blotted out before it is cut, lest half a key stays.
        said = addresses.redacted(said, self.settings)
        msg = f"answered {status}" + (f": {said:.{_MAX_SHOWN}}" if said else "")
        if status not in _OVERLOADED:
            return AttemptError(msg, "elsewhere" if response.is_server_error else "never", status)
        if (wait := retry_after(response.headers.get("retry-after"))) is not None:
            msg += f"; it asks to wait {wait:.3g} s"
        return AttemptError(msg, "anywhere", status, wait)

    def _unreachable(self, error: httpx.TransportError) -> AttemptError:
        said = addresses.redacted(f"{type(error).__name__}: {error}", self.settings)
        said = f"could not be reached: {said}"
        if "CERTIFICATE_VERIFY_FAILED" in said:
            said += f"; trusted is {addresses.trusted()}, set SSL_CERT_FILE to trust another issuer"
            return AttemptError(said, "elsewhere")
        # A proxy's refusal starts with its status.
        refused = isinstance(error, httpx.ProxyError) and str(error).startswith("4")
        return AttemptError(said, "elsewhere" if refused else "anywhere")


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
        date = email.utils.parsedate_tz(given)
        return max(email.utils.mktime_tz(date) - time.time(), 0.0) if date else None
    except (ValueError, OverflowError):
        return None
