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
from langchain_rerank.cross_encoders.http_client import RerankClient, _Tries

SETTINGS = RemoteCrossEncoder(url="http://host", api_key="")


class Clock:
    """A client that only chooses, at a time that the test sets."""

    def __init__(self, servers: int) -> None:
        self.now = 0.0
        self.loop = SimpleNamespace(time=lambda: self.now)
        self.endpoints = [
            Endpoint(addresses.parse_url(f"http://host{number}"), SETTINGS)
            for number in range(servers)
        ]

    def choose(self, *asked: Endpoint) -> Endpoint:
        return RerankClient._choose(self, _Tries(b"", 1, math.inf, list(asked)))


def test_equals_are_asked_in_turn():
    clock = Clock(3)
    asked = []
    for turn in range(1, 10):
        asked.append(clock.choose())
        asked[-1].turn = turn
    assert asked == clock.endpoints * 3


def test_the_one_with_the_fewest_requests_is_asked():
    clock = Clock(3)
    for endpoint, clock_in_flight in zip(clock.endpoints, (2, 1, 0), strict=True):
        endpoint.in_flight = clock_in_flight
    assert clock.choose() is clock.endpoints[2]
    clock.endpoints[2].in_flight = 2
    assert clock.choose() is clock.endpoints[1]


def test_one_that_failed_is_left_out_for_twice_as_long_each_time():
    clock = Clock(2)
    bad, good = clock.endpoints
    good.in_flight = 1
    for out in (1, 2, 4, 8, 16, 32, 60, 60):
        bad.failed(clock.now, clock.now)
        clock.now += out - 0.01
        assert clock.choose() is good
        clock.now += 0.01
        assert clock.choose() is bad
    bad.answered(started=clock.now)
    bad.failed(clock.now, clock.now)
    assert not bad.is_available(clock.now + 0.99)
    assert bad.is_available(clock.now + 1)


def test_one_that_comes_back_gets_one_request_at_first():
    clock = Clock(2)
    back, busy = clock.endpoints
    back.failed(0.0, 0.0)
    clock.now, busy.in_flight = 2.0, 2
    assert clock.choose() is back
    back.in_flight = 1
    assert clock.choose() is busy
    back.answered(started=2.0)
    assert clock.choose() is back


def test_requests_that_fail_together_count_once():
    (bad,) = Clock(1).endpoints
    for _ in range(8):
        bad.failed(started=0.0, now=5.0)
    assert bad.is_available(6.0)


def test_it_stays_out_as_long_as_it_asks():
    (bad,) = Clock(1).endpoints
    bad.failed(0.0, 0.0, retry_after=30.0)
    assert not bad.is_available(29.0)
    assert bad.is_available(30.0)
    bad.failed(30.0, 30.0, retry_after=math.inf)
    assert bad.is_available(30.0 + 3600)


def test_if_all_are_out_the_one_due_next_is_asked():
    clock = Clock(3)
    for endpoint, wait in zip(clock.endpoints, (9.0, 3.0, 6.0), strict=True):
        endpoint.failed(0.0, 0.0, retry_after=wait)
    assert clock.choose() is clock.endpoints[1]


def test_another_than_those_asked_goes_first_where_it_can():
    clock = Clock(2)
    one, another = clock.endpoints
    another.in_flight = 1
    assert clock.choose(one) is another
    another.failed(0.0, 0.0)
    assert clock.choose(one) is one


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
    assert addresses._environment_proxy(httpx.URL(url)) == proxy


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
    assert (addresses._environment_proxy(httpx.URL(url)) == ("", "")) is bypassed
