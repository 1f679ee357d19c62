"""Which of several servers is asked, by a clock that the test turns; which proxy is on the way."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import httpx
import pytest

from langchain_rerank import RemoteCrossEncoder
from langchain_rerank.cross_encoders import addresses
from langchain_rerank.cross_encoders.endpoints import Endpoint, retry_after
from langchain_rerank.cross_encoders.http_client import RerankClient, Tries


def endpoints(count):
    """A client of some servers that only chooses, at a time that the test sets."""
    urls = [addresses.parse_url(f"http://host{number}") for number in range(count)]
    servers = [Endpoint(url, RemoteCrossEncoder(url="http://host", api_key="")) for url in urls]
    loop = SimpleNamespace(time=lambda: loop.now, now=0.0)
    client = SimpleNamespace(endpoints=servers, loop=loop)
    return client, lambda *given_up: RerankClient._due(client, Tries(b"", 1, 9, [], set(given_up)))


def test_equals_are_asked_in_turn():
    client, choose = endpoints(3)
    asked = []
    for turn in range(1, 10):
        asked.append(choose())
        asked[-1].turn = turn
    assert asked == client.endpoints * 3


def test_one_that_failed_is_left_out_for_twice_as_long_each_time():
    client, choose = endpoints(2)
    bad, good = client.endpoints
    good.turn = 1
    for out in (0.5, 1, 2, 4, 8, 16, 32, 60, 60):
        for _ in range(3):
            bad.failed(client.loop.now)  # those that fail together count once
        client.loop.now += out - 0.01
        assert choose() is good
        client.loop.now += 0.01
        assert choose() is bad


@pytest.mark.parametrize(("asked", "out"), [(30.0, 30.0), (math.inf, 3600.0)])
def test_it_stays_out_as_long_as_it_asks(asked, out):
    (bad,) = endpoints(1)[0].endpoints
    bad.failed(0.0, retry_after=asked)
    assert bad.out_until == out


def test_if_all_are_out_the_one_due_next_is_asked_unless_given_up():
    client, choose = endpoints(3)
    for endpoint, wait in zip(client.endpoints, (9.0, 3.0, 6.0), strict=True):
        endpoint.failed(0.0, retry_after=wait)
    assert choose() is client.endpoints[1]
    assert choose(client.endpoints[1]) is client.endpoints[2]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("9" * 400, math.inf),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 2015 07:28:00", 0.0),
        *zip(("-5", "1.5", "soon", "", None, "²"), itertools.repeat(None)),
    ],
)
def test_retry_after_is_read(header, seconds):
    assert retry_after(header) == seconds


def test_retry_after_of_a_coming_date_is_the_time_until_then():
    assert retry_after("Fri, 01 Jan 2100 00:00:00 GMT") > 3600


@pytest.mark.parametrize(
    ("variables", "url", "proxy"),
    [
        ({}, "http://a.b", ("", "")),
        ({"HTTP_PROXY": "http://p:1"}, "http://a.b", ("http://p:1", "HTTP_PROXY")),
        ({"http_proxy": "p:1", "HTTP_PROXY": "q"}, "http://a.b", ("http://p:1", "http_proxy")),
        ({"HTTP_PROXY": "http://p:1"}, "https://a.b", ("", "")),
        ({"ALL_PROXY": "socks5://p"}, "https://a.b", ("socks5://p", "ALL_PROXY")),
        ({"ALL_PROXY": "q", "HTTPS_PROXY": "p"}, "https://a.b", ("http://p", "HTTPS_PROXY")),
    ],
)
def test_the_proxy_of_a_url_and_its_variable(no_proxies, variables, url, proxy):
    for name, value in variables.items():
        no_proxies.setenv(name, value)
    assert addresses.environment_proxy(httpx.URL(url)) == proxy


@pytest.mark.parametrize(
    ("entries", "url", "bypassed"),
    [
        ("*", "http://a.b", True),
        ("a.b", "http://a.b:80/x", True),
        ("b", "http://a.b", True),
        (".b", "http://a.b", True),
        ("*.b", "http://a.b", True),
        ("*.b", "http://ab", False),
        ("a.b:81", "http://a.b:82", False),
        ("a.b:81", "http://a.b:81", True),
        ("http://a.b", "http://a.b", True),
        ("10.0.0.0/8", "http://10.1.2.3", True),
        ("10.0.0.0/8", "http://11.1.2.3", False),
        ("fd00::/8", "http://[fd12::1]:80", True),
        ("fd00::/8", "http://127.0.0.1", False),
        ("fd00::/8,127.0.0.1", "http://127.0.0.1:8000", True),
        ("::1", "http://[::1]:8000", True),
        ("[::1]", "http://[::1]", True),
        ("localhost, nonsense//[", "http://localhost:1", True),
        ("", "http://a.b", False),
    ],
)
def test_hosts_of_no_proxy_need_none(no_proxies, entries, url, bypassed):
    no_proxies.setenv("ALL_PROXY", "http://p:1")
    no_proxies.setenv("NO_PROXY", entries)
    assert (addresses.environment_proxy(httpx.URL(url)) == ("", "")) is bypassed
