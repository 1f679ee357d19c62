"""Which of several servers is asked, by a clock that the test turns; which proxy is on the way."""

from __future__ import annotations

import itertools
import math
import shutil
import subprocess
from types import SimpleNamespace

import httpx
import pytest

from langchain_rerank import RemoteCrossEncoder, RemoteError
from langchain_rerank.cross_encoders.endpoints import (
    Endpoint,
    environment_proxy,
    retry_after,
)
from langchain_rerank.cross_encoders.http_client import RerankClient
from tests.stand_ins import PAIRS, SCORES, StandIn, as_json


@pytest.fixture
def client():
    """A client of three servers that only chooses, at a time that the test sets."""
    client = object.__new__(RerankClient)
    client.loop = SimpleNamespace(time=lambda: client.loop.now, now=0.0)
    urls = [f"http://host{number}" for number in range(3)]
    client.endpoints = [Endpoint(url, RemoteCrossEncoder(url=url, api_key="")) for url in urls]
    return client


def test_equals_are_asked_in_turn_and_one_that_failed_is_left_out_twice_as_long_each_time(client):
    asked = []
    for turn in range(1, 10):
        asked.append(client.due(client.endpoints))
        asked[-1].turn = turn
    assert asked == client.endpoints * 3
    bad, good = client.endpoints[:2]
    for out in (0.5, 1, 2, 4, 8, 16, 32, 60, 60):
        for _ in range(3):
            bad.failed(client.loop.now)  # those that fail together count once
        client.loop.now += out - 0.01
        assert client.due([bad, good]) is good
        client.loop.now += 0.01
        assert client.due([bad, good]) is bad


def test_one_that_asks_for_it_stays_out_and_if_all_do_the_one_due_next_is_asked(client):
    for endpoint, asked, out in zip(client.endpoints, (9, 3, math.inf), (9, 3, 3600), strict=True):
        endpoint.failed(0.0, retry_after=asked)
        assert endpoint.out_until == out
    assert client.due(client.endpoints) is client.endpoints[1]
    assert client.due(client.endpoints[::2]) is client.endpoints[0]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("9" * 400, math.inf),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        *zip(("-5", "1.5", "soon", "", "²"), itertools.repeat(None)),
    ],
)
def test_retry_after_is_read(header, seconds):
    assert retry_after(header) == seconds
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
    assert environment_proxy(httpx.URL(url)) == proxy


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
    assert (environment_proxy(httpx.URL(url)) == ("", "")) is bypassed


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"SSL_CERT_FILE": "/nonexistent/ca.pem"}, "read from SSL_CERT_FILE"),
        ({"SSL_CERT_FILE": __file__}, "read from SSL_CERT_FILE"),
        ({"ALL_PROXY": "socks://ann:pass-word@127.0.0.1:9"}, "ALL_PROXY must be like"),
        ({"HTTPS_PROXY": "http://ann:pass-word@[::1"}, "HTTPS_PROXY must be like"),
        ({"ALL_PROXY": "socks5://127.0.0.1:9"}, r"the (SOCKS )?proxy of ALL_PROXY"),
        ({"HTTPS_PROXY": "http://ann:pass-word@127.0.0.1:9"}, r"the proxy of HTTPS_PROXY\) could"),
        ({"https_proxy": "127.0.0.1:9"}, r"the proxy of https_proxy\) could not be reached"),
    ],
)
def test_a_variable_that_keeps_from_a_server_is_named(no_proxies, server, variables, said):
    for name, value in variables.items():
        no_proxies.setenv(name, value)
    far = RemoteCrossEncoder(url="https://rerank.invalid", max_retries=0)
    with pytest.raises(RemoteError, match=said) as raised:
        far.score(PAIRS)
    assert "pass-word" not in f"{raised.value!r} {vars(raised.value)}"
    no_proxies.setenv("NO_PROXY", "127.0.0.0/8,fd00::/8")
    both = RemoteCrossEncoder(url=(far.url, server.url))
    assert [both.score(PAIRS) for _ in range(2)] == [SCORES] * 2, "the near server is reached"


def test_a_proxy_is_used_and_its_refusal_named(no_proxies, server):
    no_proxies.setenv("HTTP_PROXY", server.url.replace("://", "://ann:pass-word@"))
    far = RemoteCrossEncoder(url="http://rerank.invalid/x")
    assert far.score(PAIRS) == SCORES
    assert server.requests[0].target == "http://rerank.invalid/x"
    assert server.requests[0].headers["proxy-authorization"].startswith("Basic ")
    server.always = lambda request: as_json({"message": "not pass-word"}, 407)
    with pytest.raises(RemoteError, match=r"proxy of HTTP_PROXY\) answered 407: not \*\*\*"):
        far.score(PAIRS)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A certificate that signs itself, and its key, in one file."""
    if not (openssl := shutil.which("openssl")):
        pytest.skip("needs the program openssl")
    file = tmp_path_factory.mktemp("tls") / "own.pem"
    make = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=own -addext"
    names = ["subjectAltName=IP:127.0.0.1", "-keyout", file, "-out", f"{file}.crt"]
    subprocess.run([openssl, *make.split(), *names], check=True, capture_output=True)
    file.write_text(file.read_text() + file.with_suffix(".pem.crt").read_text())
    return str(file)


def test_a_certificate_that_is_not_trusted_is_named_and_not_tried_again(no_proxies, certificate):
    with StandIn(certificate=certificate) as server:
        strict = RemoteCrossEncoder(url=server.url)
        with pytest.raises(RemoteError, match=r"certificate.*set SSL_CERT_FILE to trust") as caught:
            strict.score(PAIRS)
        assert caught.value.attempts == 1
        no_proxies.setenv("SSL_CERT_FILE", certificate)
        assert RemoteCrossEncoder(url=server.url).score(PAIRS) == SCORES
        wrong_name = RemoteCrossEncoder(url=server.url.replace("127.0.0.1", "localhost"))
        with pytest.raises(RemoteError, match="trusted is SSL_CERT_FILE") as caught:
            wrong_name.score(PAIRS)
        assert caught.value.attempts == 1
        with StandIn() as plain:
            assert RemoteCrossEncoder(url=(wrong_name.url, plain.url)).score(PAIRS) == SCORES
