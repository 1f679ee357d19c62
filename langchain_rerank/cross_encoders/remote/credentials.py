"""Keys and headers: where they come from, whether they can be sent, what must never be shown."""

from __future__ import annotations

import base64
import os
import string
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

import httpx
from pydantic import SecretStr

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# RFC 9110, section 5.6.2: what the name of a header is made of.
_TOKEN = frozenset(string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~")
_VISIBLE = frozenset(map(chr, range(0x21, 0x7F)))
_SHORTEST_SECRET = 6


def from_environment(*names: str) -> SecretStr | None:
    """Give the key of the first environment variable that has one."""
    return next((SecretStr(key) for name in names if (key := os.environ.get(name))), None)


def hosted_key(given: SecretStr | str | None, *names: str) -> SecretStr:
    """Give the key of a hosted service: the one given, else the environment's.

    Raises:
        ValueError: There is none.
    """
    key = SecretStr(given) if isinstance(given, str) else given
    if not key:
        key = from_environment(*names)
    if key is None:
        msg = f"api_key is needed: give it, or set the environment variable {' or '.join(names)}"
        raise ValueError(msg)
    return key


def check_key(key: SecretStr) -> None:
    """Raise a `ValueError`, which doesn't show the key, if it can't stand in a header."""
    if not _VISIBLE.issuperset(key.get_secret_value()):
        msg = (
            "api_key must be printable ASCII without spaces, as it goes into a header; got one "
            "with a space, a line break or another such character"
        )
        raise ValueError(msg)


def check_headers(headers: Mapping[str, SecretStr]) -> None:
    """Raise a `ValueError`, which shows no value, if a header can't be sent."""
    for name, value in headers.items():
        if not name or not _TOKEN.issuperset(name):
            msg = "headers must have names of letters, digits and hyphens"
            raise ValueError(msg)
        if not (_VISIBLE | {" ", "\t"}).issuperset(value.get_secret_value()):
            msg = f"the header {name} must be printable ASCII, got another character in its value"
            raise ValueError(msg)


def in_urls_or_headers(urls: Iterable[str], headers: Iterable[str]) -> bool:
    """Tell whether a url has a user or the headers have an Authorization."""
    named = "authorization" in map(str.lower, headers)
    return named or any(httpx.URL(url).userinfo for url in urls)


def request_headers(headers: Mapping[str, SecretStr], key: SecretStr | None) -> dict[str, str]:
    """Make the headers of each request; those that the user gives go before our own."""
    made = {
        "accept": "application/json",
        # Scores are short, and a small reply can't unpack to a large one.
        "accept-encoding": "identity",
        "content-type": "application/json",
        "user-agent": "langchain-rerank",
    }
    if key:
        made["authorization"] = f"Bearer {key.get_secret_value()}"
    return made | {name.lower(): value.get_secret_value() for name, value in headers.items()}


def secrets(
    urls: Iterable[str], headers: Mapping[str, SecretStr], key: SecretStr | None
) -> list[str]:
    """Give all that must be blotted out of what servers say, longest first."""
    found = {value.get_secret_value() for value in (*headers.values(), *([key] if key else []))}
    # A server that quotes "Bearer KEY" may quote the key alone.
    found |= {value.rpartition(" ")[2] for value in found}
    for url in map(httpx.URL, urls):
        user, _, password = url.userinfo.decode("ascii").partition(":")
        secret = password or user
        found |= {secret, unquote(secret)}
        if user:
            basic = f"{unquote(user)}:{unquote(password)}".encode()
            found.add(base64.b64encode(basic).decode("ascii"))
        # A short value, such as a version, is no secret, and would blot out half of a message.
        values = (value for _, value in parse_qsl(url.query.decode("ascii")))
        found |= {value for value in values if len(value) >= _SHORTEST_SECRET}
    return sorted(filter(None, found), key=len, reverse=True)
