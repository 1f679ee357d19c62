"""Where requests go, and what of it may be shown."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from urllib.parse import unquote

import httpx

# Jina's, vLLM's, infinity's, TEI's and our own server all have it.
_DEFAULT_PATH = "/rerank"


@dataclass(frozen=True, slots=True)
class Address:
    """A server's endpoint.

    Attributes:
        url: Where to send; without credentials, but with the query.
        shown: The same for errors, logs and traces: without the query, which may hold a key.
        authorization: A header made from the url's user and password; None without them.
    """

    url: httpx.URL
    shown: str
    authorization: str | None


class QuietURL(httpx.URL):
    """A URL that shows no query: httpx logs each request's as a str."""

    def __str__(self) -> str:
        return shown(self)

    def __repr__(self) -> str:
        return f"URL({shown(self)!r})"


def shown(url: httpx.URL) -> str:
    """Give a URL without user, password, query and fragment."""
    return str(httpx.URL(url).copy_with(userinfo=b"", query=None, fragment=None))


def parse(url: str) -> Address:
    """Read an endpoint's address; one without a path gets `/rerank`.

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
    if given.path in ("", "/"):
        given = given.copy_with(path=_DEFAULT_PATH)
    url_sent = given.copy_with(userinfo=b"", fragment=None)
    return Address(QuietURL(url_sent), shown(given), _basic(given))


def _basic(url: httpx.URL) -> str | None:
    """Make the header of HTTP basic authentication out of a url's user and password."""
    if not url.userinfo:
        return None
    user, _, password = url.userinfo.decode("ascii").partition(":")
    credentials = f"{unquote(user)}:{unquote(password)}".encode()
    return "Basic " + base64.b64encode(credentials).decode("ascii")
