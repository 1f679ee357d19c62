"""Where servers are, the way there that the environment describes, and what is never shown."""

from __future__ import annotations

import base64
import ipaddress
import os
import ssl
import urllib.request
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import httpcore  # noqa: F401  # see NOBODY
import httpx

from langchain_rerank.cross_encoders.dialects import DIALECTS

if TYPE_CHECKING:
    from langchain_rerank.cross_encoders.remote import RemoteCrossEncoder

CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
# Whom to trust where TLS is none. Made at once, and httpcore imported, which httpx puts off: a
# child forked while another thread did either would wait for it for ever.
NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
# Idle connections are kept for some seconds; one that the server closed meanwhile is noticed.
_LIMITS = httpx.Limits(max_connections=None, keepalive_expiry=30.0)
# A shorter value in a url's query, such as a version, is no secret, and would blot out messages.
_SHORTEST_SECRET = 6


class QuietURL(httpx.URL):
    """A URL that shows neither user, password nor query: httpx logs each request's as a str."""

    def __str__(self) -> str:
        return str(httpx.URL(self).copy_with(userinfo=b"", query=None, fragment=None))

    def __repr__(self) -> str:
        return f"URL({str(self)!r})"


def parse_url(url: str, path: str = "/rerank") -> QuietURL:
    """Read a server's address; one without a path gets `path`.

    Raises:
        ValueError: It is not an http or https address; the message does not show it.
    """
    msg = "url must be like 'http://localhost:8000/rerank' or 'https://host/v1/rerank'"
    try:
        given = httpx.URL(url)
    except httpx.InvalidURL:
        # Its message may show a part of a password.
        raise ValueError(msg) from None
    if given.scheme not in ("http", "https"):
        msg += f", got the scheme {given.scheme!r:.20}"
        raise ValueError(msg)
    if not given.host:
        msg += ", got one without a host"
        raise ValueError(msg)
    return QuietURL(given.copy_with(path=path) if given.path in ("", "/") else given)


def all_urls(url: str | tuple[str, ...]) -> tuple[str, ...]:
    """Give one url or several as several."""
    return (url,) if isinstance(url, str) else tuple(dict.fromkeys(url))


def headers(settings: RemoteCrossEncoder) -> dict[str, str]:
    """Make the headers of each request; those that the user gives go before our own."""
    dialect = DIALECTS[settings.dialect]
    made = {"accept": "application/json", "content-type": "application/json"}
    made |= {"user-agent": "langchain-rerank", **dialect.headers}
    if settings.api_key:
        key = settings.api_key.get_secret_value()
        made[dialect.key_header] = f"Bearer {key}" if dialect.key_header == "authorization" else key
    made |= {name.lower(): value.get_secret_value() for name, value in settings.headers.items()}
    return {**made, "accept-encoding": "identity"}


def redacted(text: str, settings: RemoteCrossEncoder) -> str:
    """Blot out whatever secret a server may have quoted."""
    values = [*settings.headers.values(), *([settings.api_key] if settings.api_key else [])]
    found = {value.get_secret_value() for value in values}
    # A server that quotes "Bearer KEY" may quote the key alone.
    found |= {value.rpartition(" ")[2] for value in found}
    for url in map(httpx.URL, all_urls(settings.url)):
        user, _, password = url.userinfo.decode("ascii").partition(":")
        basic = base64.b64encode(f"{url.username}:{url.password}".encode()).decode("ascii")
        found |= {password or user, url.password or url.username, basic}
        query = (value for _, value in parse_qsl(url.query.decode("ascii")))
        found |= {value for value in query if len(value) >= _SHORTEST_SECRET}
    for proxy in urllib.request.getproxies().values():
        found.add(proxy.rpartition("@")[0].rpartition("://")[2].partition(":")[2])
    # Longest first: one may hold another.
    for secret in sorted(filter(None, found), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def trusted() -> str:
    """Name whose certificates are trusted."""
    return " and ".join(name for name in CERTIFICATES if os.environ.get(name)) or "certifi's list"


def open_way(url: httpx.URL) -> tuple[httpx.AsyncHTTPTransport, str]:
    """Open the way to a server that the environment describes, and name its proxy's variable.

    httpx would read the environment for all servers at once: one entry of NO_PROXY that it can't
    read, or a proxy that it can't use, would keep it from every one of them.

    Raises:
        ValueError: A variable keeps from it; the message names that.
    """
    proxy, variable = environment_proxy(url)
    context = NOBODY
    if "https" in (url.scheme, proxy.partition(":")[0]):
        try:
            context = httpx.create_ssl_context()
        except OSError as error:
            msg = f"can't be asked: no certificates can be read from {trusted()}: {error}"
            raise ValueError(msg) from error
    try:
        of_proxy = context if proxy.startswith("https:") else None
        through = httpx.Proxy(proxy, ssl_context=of_proxy) if proxy else None
        return httpx.AsyncHTTPTransport(verify=context, limits=_LIMITS, proxy=through), variable
    except ImportError as error:
        msg = f'can\'t be asked: the SOCKS proxy of {variable} needs pip install "httpx[socks]"'
        raise ValueError(msg) from error
    except (ValueError, httpx.InvalidURL):
        msg = (
            f"can't be asked: {variable} must be like 'http://host:3128' or 'socks5://host:1080'; "
            "mend or unset it, or name the server in NO_PROXY"
        )
        # Not from the error, whose message may show the proxy's password.
        raise ValueError(msg) from None


def environment_proxy(url: httpx.URL) -> tuple[str, str]:
    """Give the proxy for a url and the variable that names it; both empty where there is none."""
    proxies = urllib.request.getproxies()
    key = url.scheme if proxies.get(url.scheme) else "all"
    proxy = proxies.get(key)
    if not proxy or _is_bypassed(url, proxies.get("no", "")):
        return "", ""
    names = (f"{key}_proxy", f"{key}_proxy".upper())
    variable = next((name for name in names if os.environ.get(name)), "the system's settings")
    return proxy if "://" in proxy else f"http://{proxy}", variable


def _is_bypassed(url: httpx.URL, no_proxy: str) -> bool:
    """Tell whether NO_PROXY names a host: itself, a domain of it, or a network."""
    if urllib.request.proxy_bypass(f"{url.host}:{url.port}" if url.port else url.host):
        return True
    for entry in no_proxy.split(","):
        name = entry.strip().lower().rpartition("://")[2].strip("[]")
        try:
            if ipaddress.ip_address(url.host) in ipaddress.ip_network(name, strict=False):
                return True
        except ValueError:
            if name == url.host or (name.startswith("*.") and url.host.endswith(name[1:])):
                return True
    return False
