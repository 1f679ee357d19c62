"""Bad requests get the right status and one sentence, and the service goes on."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import TYPE_CHECKING

import pytest

from langchain_rerank.server.app import create_app
from langchain_rerank.server.limits import Limits
from tests.server.serving import GOOD, JSON, GatedCrossEncoder, client_of

if TYPE_CHECKING:
    import httpx

PATHS = ("/v1/rerank", "/v2/rerank", "/rerank")
JUST_Q = b'{"query": "q", "documents": ["a"], "top_n": %s}'


@pytest.fixture(scope="module")
def served():
    """A server of small limits."""
    limits = Limits(text_characters=100, body_bytes=2**20)
    with client_of(GatedCrossEncoder(is_open=True), limits=limits) as client:
        yield client


@pytest.fixture
def small(served):
    """Whatever a test sends, the next request is answered."""
    yield served
    reply = served.post("/v2/rerank", json=GOOD)
    assert [result["index"] for result in reply.json()["results"]] == [1, 0]


def check(reply: httpx.Response, status: int, *said: str) -> None:
    assert reply.status_code == status, reply.text[:200]
    assert reply.headers["content-type"] == "application/json"
    assert set(reply.json()) == {"message"}
    message = reply.json()["message"]
    assert len(message) < 300
    assert "\n" not in message
    assert [part for part in said if part not in message] == [], message


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"query": ""}, 422, ["query", "must hold text", "''"]),
        ({"query": " \n\t"}, 422, ["query", "must hold text"]),
        ({"query": None}, 422, ["query", "string", "None"]),
        ({"query": 3}, 422, ["query", "string", "3"]),
        ({"query": ["q"]}, 422, ["query", "string", "['q']"]),
        ({"query": {"text": "x" * 10_000}}, 422, ["query", "{'text'", "..."]),
        ({"query": "q" * 101}, 413, ["query", "100 characters", "101"]),
        ({"documents": []}, 422, ["documents", "at least 1"]),
        ({"documents": "a"}, 422, ["documents", "list", "'a'"]),
        ({"documents": {"a": "b"}}, 422, ["documents", "list", "{'a': 'b'}"]),
        ({"documents": ["a", 7]}, 422, ["documents.1", "string", "7"]),
        ({"documents": ["a", None]}, 422, ["documents.1", "string", "None"]),
        ({"documents": ["a", ["b"]]}, 422, ["documents.1", "['b']"]),
        ({"documents": [{}]}, 422, ["documents.0", "'text'"]),
        ({"documents": ["a", {"title": "b"}]}, 422, ["documents.1", "'text'"]),
        ({"documents": [{"text": 3}]}, 422, ["documents.0", "'text'"]),
        ({"documents": [{"text": None}]}, 422, ["documents.0", "'text'"]),
        ({"documents": [{"text": "a"}], "rank_fields": ["title"]}, 422, ["0", "'title'"]),
        ({"documents": ["a"] * 1001}, 413, ["documents", "at most 1,000", "1,001"]),
        ({"documents": ["a", "b" * 101]}, 413, ["documents.1", "100 characters", "101"]),
        ({"instruction": "newest first"}, 422, ["instruction", "'newest first'"]),
        ({"top_n": 0}, 422, ["top_n", "1", "0"]),
        ({"top_n": "3"}, 422, ["top_n", "integer", "'3'"]),
        ({"top_n": True}, 422, ["top_n", "integer", "True"]),
        ({"top_n": 1.5}, 422, ["top_n", "integer", "1.5"]),
        ({"texts": ["a"]}, 422, ["either", "documents", "texts"]),
        ({"documents": None, "texts": []}, 422, ["documents"]),
        ({"texts": [3]}, 422, ["texts.0", "string"]),
        ({"raw_scores": 1}, 422, ["raw_scores", "boolean"]),
        ({"truncation_direction": "Left"}, 422, ["Right"]),
    ],
)
def test_wrong_fields(small, path, change, status, said):
    check(small.post(path, json={**GOOD, **change}), status, *said)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b'{"documents": ["a"]}', 422, "query"),
        (b'{"query": "q"}', 422, "documents"),
        (b"", 422, "JSON"),
        (b"{", 422, "JSON"),
        (b"null", 422, "None"),
        (b'"text"', 422, "'text'"),
        (b"[" * 100_000, 422, "recursion"),
        (b'{"a":' * 100_000, 422, "recursion"),
        (b"[" * 500_001, 413, "brackets"),
        (b'{"query": "q", "documents": ["\xff"]}', 422, "utf-8"),
        ('{"query": "q", "documents": ["a"]}'.encode("utf-16"), 422, "utf-8"),
        (JUST_Q % b"NaN", 422, "NaN"),
        (JUST_Q % b"-Infinity", 422, "-Infinity"),
        (JUST_Q % b"1e999", 422, "inf"),
        (JUST_Q % (b"9" * 5000), 422, "digits"),
        (JUST_Q % b"1} {", 422, "JSON"),
        (json.dumps({"query": "q", "documents": ["a"] * 10**6}).encode(), 413, "1,048,576 bytes"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bodies_that_are_none(small, body, status, said):
    check(small.post("/v1/rerank", content=body, headers=JSON), status, said)


def test_oddities_that_json_allows(small):
    deep = '{"a":' * 100 + "1" + "}" * 100
    twice = '{"query": 3, "query": "q", "documents": ["a"], "\\ud800": "\\udfff", "x": '
    for kind in ({"content-type": "application/vnd.x+json; x=y"}, {}):
        assert small.post("/v2/rerank", content=twice + deep + "}", headers=kind).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "é"])
def test_another_content_type(small, kind):
    reply = small.post("/v2/rerank", content=b"{}", headers={"content-type": kind.encode()})
    check(reply, 415, "application/json")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/rerank", 405),
        ("OPTIONS", "/v1/rerank", 405),
        ("BREW", "/rerank", 405),
        ("POST", "/health", 405),
        ("GET", "/", 404),
        ("POST", "/v1/rerank/", 404),
        ("GET", "/%ff%00/../x", 404),
    ],
)
def test_unknown_paths_and_methods(small, method, path, status):
    check(small.request(method, path, content=b"x" * 1000 if method == "POST" else None), status)


def test_a_hundred_megabytes_with_their_length_or_in_chunks(small):
    chunk = b"x" * 2**20
    # A generator is sent in chunks, without a length.
    for content in (chunk * 100, (chunk for _ in range(100))):
        check(small.post("/rerank", content=content, headers=JSON), 413, "1,048,576 bytes")


def connected(client: httpx.Client) -> socket.socket:
    return socket.create_connection((client.base_url.host, client.base_url.port), timeout=30)


def head(length: int) -> bytes:
    return f"POST /rerank HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n".encode()


@pytest.mark.parametrize("sent", [0, 50 * 2**20])
def test_a_large_body_is_refused_before_it_is_sent_and_after(small, sent):
    """Closed on at once, it would be reset while it sends, and never see the reason."""
    with connected(small) as sock:
        sock.sendall(head(50 * 2**20) + b"x" * sent)
        assert sock.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_drips_is_given_up():
    limits = Limits(body_seconds=0.5)
    model = GatedCrossEncoder(is_open=True)
    with client_of(model, limits=limits) as client, connected(client) as sock:
        sock.sendall(head(1000))
        sock.settimeout(0.05)
        answer = b""
        for _ in range(600):
            with contextlib.suppress(TimeoutError):
                answer += sock.recv(1000)
            if answer:
                break
            sock.sendall(b" ")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in answer
        assert b'{"message":"the body must come within 0.5 s' in answer


def test_headers_without_end_are_refused(small):
    with connected(small) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nx-long: " + b"x" * 20_000)
        assert sock.recv(1000).startswith(b"HTTP/1.1 400 ")


def test_a_client_that_leaves_within_its_body(small):
    for _ in range(20):
        with connected(small) as sock:
            sock.sendall(head(1000) + b"{")


@pytest.fixture(scope="module")
def locked():
    with client_of(GatedCrossEncoder(is_open=True), api_keys=["first key", "zwölf"]) as client:
        yield client


@pytest.mark.parametrize("header", ["Bearer first key", "bearer zwölf"])
def test_any_of_the_keys_opens(locked, header):
    headers = {"authorization": header.encode()}
    assert locked.post("/v2/rerank", json=GOOD, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer wrong", "Bearer first", "Basic first key", "first key"]
)
def test_a_wrong_key_is_refused_and_not_repeated(locked, header):
    headers = {"authorization": header}
    reply = locked.post("/rerank", json=GOOD, headers=headers)
    check(reply, 401, "Authorization: Bearer KEY")
    assert reply.headers["www-authenticate"] == "Bearer"
    assert "wrong" not in reply.text
    assert "first" not in reply.text
    # Without a key nothing of a request is read or checked.
    check(locked.post("/v1/rerank", content=b"x" * 20 * 2**20, headers=headers), 401)


def test_settings_that_can_not_be():
    with pytest.raises(ValueError, match="API key must hold text"):
        create_app("model", api_keys=["key", " "])
    for value in (0, -1):
        with pytest.raises(ValueError, match=f"documents must be > 0, got {value}"):
            Limits(documents=value)
