"""Servers: the way to each, what one request to it gives, and how it has been doing."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import email.utils
import ipaddress
import os
import ssl
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qsl

import httpcore  # noqa: F401  # see _NOBODY
import httpx
from opentelemetry import propagate, trace

from langchain_rerank import telemetry
from langchain_rerank.cross_encoders import dialects
from langchain_rerank.errors import RemoteError

if TYPE_CHECKING:
    from langchain_rerank.cross_encoders.remote import RemoteCrossEncoder

CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
# Whom to trust where TLS is none. Made at once, and httpcore imported, which httpx puts off: a
# child forked while another thread did either would wait for it for ever.
_NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
# Idle connections are kept for some seconds; one that the server closed meanwhile is noticed.
_LIMITS = httpx.Limits(max_connections=None, keepalive_expiry=30.0)
# Seconds that a server is left out after its first failure, doubled each time, and the most of
# them; the last is for one that asks for it: a mistaken header must not leave it out for ever.
_FIRST_OUT, _LONGEST_OUT, _LONGEST_ASKED = 0.5, 60.0, 3600.0
_HEADERS = {
    "accept": "application/json",
    "accept-encoding": "identity",
    "content-type": "application/json",
    "user-agent": "langchain-rerank",
}
_OVERLOADED = (429, 502, 503, 504)
# Of what a server says about an error: enough to find it, and to show.
_MAX_ERROR_BYTES, _MAX_SHOWN = 64 * 1024, 300
# A shorter value in a url's query, such as a version, is no secret, and would blot out messages.
_SHORTEST_SECRET = 6

_HINTS: dict[int | None, str] = {
    **dict.fromkeys((401, 403), " (check api_key)"),
    404: " (check the path of url)",
    413: " (a smaller max_documents makes smaller requests)",
    422: " (check dialect, model, extra_body and max_documents)",
}


@dataclass(eq=False)
class AttemptError(Exception):
    """No scores: what a server did, without secrets, and who may be asked for them again."""

    problem: str
    retry: Literal["anywhere", "elsewhere", "never"] = "anywhere"
    status: int | None = None
    retry_after: float | None = None


def parse_url(url: str, path: str = "/rerank") -> httpx.URL:
    """Read a server's address; one without a path gets `path`.

    Raises:
        ValueError: It is not an http or https address; the message does not show it.
    """
    try:
        given = httpx.URL(url)
    except httpx.InvalidURL:
        given = httpx.URL()
    if given.scheme not in ("http", "https") or not given.host:
        msg = "url must be like 'http://localhost:8000/rerank' or 'https://host/v1/rerank'"
        # Not from httpx's error, which may show a part of a password.
        raise ValueError(msg) from None
    return given.copy_with(path=path) if given.path in ("", "/") else given


def shown(url: httpx.URL) -> str:
    """Give a url without user, password and query."""
    return str(url.copy_with(userinfo=b"", query=None, fragment=None))


class Endpoint:
    """A server; times are those of the event loop's clock."""

    def __init__(self, url: str, settings: RemoteCrossEncoder) -> None:
        """Find the way there that the environment describes; nothing is sent yet."""
        self.settings, self.dialect = settings, dialects.DIALECTS[settings.dialect]
        self.url = parse_url(url, self.dialect.path)
        self.turn = self.failures = 0
        self.out_until = 0.0
        self.transport: httpx.AsyncHTTPTransport | None = None
        self.proxy, self.variable = environment_proxy(self.url)
        credentials = self._credentials()
        self._headers = {**_HEADERS, **self.dialect.headers, **credentials}
        user, _, password = self.url.userinfo.decode().partition(":")
        secrets = [password or user, self.url.password or self.url.username]
        secrets.append(self.proxy.rpartition("@")[0].rpartition(":")[2])
        for value in credentials.values():
            # A server that quotes "Bearer KEY" may quote the key alone.
            secrets += [value, value.rpartition(" ")[2]]
        query = [value for _, value in parse_qsl(self.url.query.decode())]
        secrets += [value for value in query if len(value) >= _SHORTEST_SECRET]
        # Longest first: one may hold another.
        self._secrets = sorted(filter(None, secrets), key=len, reverse=True)

    def _credentials(self) -> dict[str, str]:
        """Make the headers whose values nobody else may see."""
        made = {}
        if self.settings.api_key:
            key, name = self.settings.api_key.get_secret_value(), self.dialect.key_header
            made[name] = f"Bearer {key}" if name == "authorization" else key
        for name, value in self.settings.headers.items():
            made[name.lower()] = value.get_secret_value()
        if self.url.userinfo:
            user = f"{self.url.username}:{self.url.password}".encode()
            made["authorization"] = f"Basic {base64.b64encode(user).decode()}"
        return made

    def failed(self, now: float, retry_after: float | None = None) -> None:
        """Leave it out for a while; requests that fail together count as one failure."""
        if now >= self.out_until:
            self.failures += 1
        # No power of 2 overflows a float then.
        out = min(_FIRST_OUT * 2 ** min(self.failures - 1, 10), _LONGEST_OUT)
        if retry_after is not None:
            out = min(retry_after, _LONGEST_ASKED)
        self.out_until = max(self.out_until, now + out)

    def error(self, problem: str, status: int | None, attempts: int) -> RemoteError:
        """Make the error that the caller sees; `problem` is what the server did."""
        way = f" (through the proxy of {self.variable})" if self.transport and self.proxy else ""
        message = f"{shown(self.url)}{way} {problem}{_HINTS.get(status, '')}"
        if attempts > 1:
            message += f", after {attempts} attempts"
        return RemoteError(message, url=shown(self.url), status=status, attempts=attempts)

    async def ask(self, body: bytes, count: int, attempt: int) -> list[float]:
        """Send a body of `count` passages and give their scores; `attempt` is for the trace.

        Raises:
            AttemptError: No reply, one of an error, one that is too large or compressed, or wrong.
        """
        attributes: dict[str, str | int] = {
            "server.address": self.url.host,
            "url.path": self.url.path,
            "gen_ai.request.model": self.settings.model or "",
            "langchain_rerank.documents": count,
            "langchain_rerank.attempt": attempt,
        }
        connect, read = self.settings.connect_timeout, self.settings.read_timeout
        with telemetry.span("rerank", trace.SpanKind.CLIENT, attributes) as span:
            try:
                # The read timeout alone would let a server dribble for ever.
                async with asyncio.timeout(connect + read):
                    reply = await self._post(body, span)
            except httpx.ConnectTimeout as error:
                msg = f"could not be reached within connect_timeout={connect:g} s"
                raise AttemptError(msg) from error
            except (TimeoutError, httpx.TimeoutException) as error:
                msg = f"gave no whole answer within read_timeout={read:g} s"
                raise AttemptError(msg) from error
            except httpx.TransportError as error:
                msg = f"could not be reached: {type(error).__name__}: {self._redacted(str(error))}"
                # A proxy's refusal starts with its status.
                is_final = isinstance(error, httpx.ProxyError) and str(error).startswith("4")
                if "CERTIFICATE_VERIFY_FAILED" in msg:
                    is_final = True
                    msg += f"; trusted is {_trusted()}, set SSL_CERT_FILE to trust another issuer"
                raise AttemptError(msg, "elsewhere" if is_final else "anywhere") from error
            try:
                scores = dialects.scores(self.dialect, reply, count)
            except ValueError as error:
                msg = f"gave a wrong reply: {error}"
                raise AttemptError(msg, "elsewhere", httpx.codes.OK) from error
        self.failures, self.out_until = 0, 0.0
        return scores

    def _opened(self) -> httpx.AsyncHTTPTransport:
        # httpx's own reading of the environment is for all servers at once: one entry of NO_PROXY
        # that it can't read, or a proxy that it can't use, would keep it from every one of them.
        try:
            through, context = None, _NOBODY
            if "https" in (self.url.scheme, self.proxy.partition(":")[0]):
                context = httpx.create_ssl_context()
            if self.proxy:
                of_proxy = context if self.proxy.startswith("https:") else None
                through = httpx.Proxy(self.proxy, ssl_context=of_proxy)
            return httpx.AsyncHTTPTransport(verify=context, limits=_LIMITS, proxy=through)
        except OSError as error:
            why = f"no certificates can be read from {_trusted()}: {error}"
        except ImportError:
            why = f'the SOCKS proxy of {self.variable} needs pip install "httpx[socks]"'
        except (ValueError, httpx.InvalidURL):
            # Its message may show the proxy's password.
            why = f"{self.variable} must be like 'http://host:3128' or 'socks5://host:1080'; "
            why += "mend or unset it, or name the server in NO_PROXY"
        msg = f"can't be asked: {why}"
        raise AttemptError(msg, "elsewhere")

    async def _post(self, body: bytes, span: trace.Span) -> bytes:
        self.transport = self.transport or self._opened()
        headers = dict(self._headers)
        propagate.inject(headers)
        # By the transport itself: a client would log the url with its query.
        request = httpx.Request("POST", self.url, headers=headers, content=body)
        timeout = httpx.Timeout(self.settings.read_timeout, connect=self.settings.connect_timeout)
        request.extensions["timeout"] = timeout.as_dict()
        response = await self.transport.handle_async_request(request)
        status, reply = response.status_code, bytearray()
        span.set_attribute("http.response.status_code", status)
        is_good = status == httpx.codes.OK
        limit = self.settings.max_reply_bytes if is_good else _MAX_ERROR_BYTES
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        try:
            # A few compressed bytes unpack to gigabytes before they can be counted.
            if encoding == "identity":
                async for chunk in response.aiter_raw():
                    reply += chunk
                    if len(reply) > limit:
                        break
        finally:
            await response.aclose()
        if not is_good:
            raise self._refusal(response, bytes(reply[:limit]))
        if encoding != "identity":
            msg = f"gave a reply compressed by {encoding[:20]!r}, though none was asked for"
            raise AttemptError(msg, "elsewhere", status)
        if len(reply) > limit:
            msg = f"gave a reply over max_reply_bytes={limit}"
            raise AttemptError(msg, "elsewhere", status)
        return bytes(reply)

    def _refusal(self, response: httpx.Response, reply: bytes) -> AttemptError:
        status = response.status_code
        said = dialects.error_message(reply)
        if response.has_redirect_location:
            to = response.headers["location"].partition("?")[0].rpartition("@")[2]
            said = f"a redirect to {to}, which is not followed as the key would go along"
        # Blotted out before it is cut, lest half a key stays.
        said = self._redacted(said)[:_MAX_SHOWN]
        msg = f"answered {status}" + (f": {said}" if said else "")
        if status not in _OVERLOADED:
            return AttemptError(msg, "elsewhere" if response.is_server_error else "never", status)
        if (wait := retry_after(response.headers.get("retry-after", ""))) is not None:
            msg += f"; it asks to wait {wait:.3g} s"
        return AttemptError(msg, "anywhere", status, wait)

    def _redacted(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def retry_after(header: str) -> float | None:
    """Read a Retry-After header, of seconds or a date, as seconds from now; None if it is neither.

    Source: RFC 9110, section 10.2.3.
    """
    try:
        if header.strip().isdigit():
            # More digits than any wait has are infinite, not an error.
            return float(header)
        until = email.utils.parsedate_to_datetime(header) - datetime.now(UTC)
        return max(until.total_seconds(), 0.0)
    except (TypeError, ValueError, OverflowError):
        return None


def _trusted() -> str:
    return " and ".join(name for name in CERTIFICATES if os.environ.get(name)) or "certifi's list"


def environment_proxy(url: httpx.URL) -> tuple[str, str]:
    """Give the proxy for a url and the variable that names it; both empty where there is none."""
    proxies = urllib.request.getproxies()
    key = url.scheme if proxies.get(url.scheme) else "all"
    proxy = proxies.get(key)
    if not proxy or _is_bypassed(url, proxies.get("no", "")):
        return "", ""
    name = f"{key}_proxy" if os.environ.get(f"{key}_proxy") else f"{key}_proxy".upper()
    return proxy if "://" in proxy else f"http://{proxy}", name


def _is_bypassed(url: httpx.URL, no_proxy: str) -> bool:
    """Tell whether NO_PROXY names a host: itself, a domain of it, or a network."""
    if urllib.request.proxy_bypass(f"{url.host}:{url.port}" if url.port else url.host):
        return True
    # Python's own reading knows no networks, no schemes, and no addresses of IPv6.
    for entry in no_proxy.split(","):
        name = entry.strip().lower().rpartition("://")[2].strip("[]")
        if name == url.host or (name.startswith("*.") and url.host.endswith(name[1:])):
            return True
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(url.host) in ipaddress.ip_network(name, strict=False):
                return True
    return False
