"""Bad requests get the right status and one sentence, and the service goes on."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import TYPE_CHECKING

import pytest

from langchain_rerank.server.app import create_app
from langchain_rerank.server.limits import Limits
from tests.server.serving import DEADLINE_S, GatedCrossEncoder, client_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

PATHS = ("/v1/rerank", "/v2/rerank", "/rerank")
GOOD = {"query": "q", "documents": ["a", "bb"]}
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def small() -> Iterator[httpx.Client]:
    """A server of small limits."""
    limits = Limits(text_characters=100, request_characters=250, body_bytes=2**20)
    with client_of(GatedCrossEncoder(is_open=True), limits=limits) as client:
        yield client


@pytest.fixture(autouse=True)
def goes_on(request):
    """Whatever a test sends, the next request is answered."""
    yield
    if "small" in request.fixturenames:
        reply = request.getfixturevalue("small").post("/v2/rerank", json=GOOD)
        assert [result["index"] for result in reply.json()["results"]] == [1, 0]


def check(reply: httpx.Response, status: int, *said: str) -> None:
    assert reply.status_code == status, reply.text[:200]
    assert reply.headers["content-type"] == "application/json"
    assert set(reply.json()) == {"message"}
    message = reply.json()["message"]
    assert len(message) < 300
    assert "\n" not in message
    for part in said:
        assert part in message


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"query": ""}, 422, ["query", "must hold text", "empty string"]),
        ({"query": " \n\t"}, 422, ["query", "must hold text"]),
        ({"query": None}, 422, ["query", "string", "null"]),
        ({"query": 3}, 422, ["query", "string", "3"]),
        ({"query": ["q"]}, 422, ["query", "string", "a list of 1"]),
        ({"query": {"text": "x" * 10_000}}, 422, ["query", "an object of 1"]),
        ({"documents": []}, 422, ["documents", "must not be empty"]),
        ({"documents": "a"}, 422, ["documents", "array", "the string 'a'"]),
        ({"documents": {"a": "b"}}, 422, ["documents", "array", "an object of 1"]),
        ({"documents": ["a", 7]}, 422, ["documents[1]", "string", "7"]),
        ({"documents": ["a", None]}, 422, ["documents[1]", "string", "null"]),
        ({"documents": ["a", ["b"]]}, 422, ["documents[1]", "a list of 1"]),
        ({"documents": ["a"] * 1001}, 413, ["documents", "at most 1,000", "1,001"]),
        ({"documents": ["a", "b" * 101]}, 413, ["documents[1]", "100 characters", "101"]),
        ({"documents": ["a" * 100] * 3}, 413, ["250 characters", "301"]),
        ({"query": "q" * 101}, 413, ["query", "100 characters", "101"]),
        ({"instruction": "newest first"}, 422, ["instruction", "the string 'newest first'"]),
        ({"top_n": 0}, 422, ["top_n", "1", "0"]),
        ({"top_n": "3"}, 422, ["top_n", "integer", "'3'"]),
        ({"top_n": True}, 422, ["top_n", "integer", "true"]),
        ({"top_n": 1.5}, 422, ["top_n", "integer", "1.5"]),
    ],
)
def test_wrong_fields(small, path, change, status, said):
    check(small.post(path, json={**GOOD, **change}), status, *said)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("field", ["query", "documents"])
def test_a_missing_field_is_named(small, path, field):
    body = {name: value for name, value in GOOD.items() if name != field}
    check(small.post(path, json=body), 422, field)


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        ([{}], ["documents[0]", "'text'"]),
        (["a", {"title": "b"}], ["documents[1]", "'text'"]),
        ([{"text": 3}], ["documents[0].text", "string", "3"]),
        ([{"text": None}], ["documents[0]", "'text'"]),
    ],
)
def test_objects_without_a_text(small, documents, said):
    check(small.post("/v1/rerank", json={"query": "q", "documents": documents}), 422, *said)


def test_rank_fields_that_no_object_has(small):
    body = {"query": "q", "documents": [{"text": "a"}], "rank_fields": ["title", "body"]}
    check(small.post("/v1/rerank", json=body), 422, "documents[0]", "'title', 'body'")


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"query": "q", "texts": []}, 422, ["texts", "must not be empty"]),
        ({"query": "q", "texts": [3]}, 422, ["texts[0]", "string"]),
        ({"query": "q", "texts": ["a"] * 1001}, 413, ["texts", "1,001"]),
        ({"query": "q", "texts": ["a" * 101]}, 413, ["texts[0]", "101"]),
        ({"query": "q", "texts": ["a"], "raw_scores": 1}, 422, ["raw_scores", "boolean"]),
        ({"query": "q", "texts": ["a"], "truncation_direction": "Left"}, 422, ["Right"]),
        ({"query": "q", "texts": ["a"], "documents": ["a"]}, 422, ["either"]),
    ],
)
def test_teis_wrong_fields(small, body, status, said):
    check(small.post("/rerank", json=body), status, *said)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"null", "object"),
        (b'"text"', "object"),
        (b"[" * 100_000, "recursion"),
        (b'{"a":' * 100_000, "recursion"),
        (b'{"query": "q", "documents": ["\xff"]}', "UTF-8"),
        ('{"query": "q", "documents": ["a"]}'.encode("utf-16"), "UTF-8"),
        (b'{"query": "q", "documents": ["a"], "top_n": NaN}', "NaN"),
        (b'{"query": "q", "documents": ["a"], "top_n": -Infinity}', "-Infinity"),
        (b'{"query": "q", "documents": ["a"], "top_n": 1e999}', "Infinity"),
        (b'{"query": "q", "documents": ["a"], "top_n": %s}' % (b"9" * 5000), "out of range"),
        (b'{"query": "q", "documents": ["a"]} {}', "JSON"),
    ],
)
def test_bodies_that_are_no_json_object(small, path, content, said):
    check(small.post(path, content=content, headers=JSON), 422, said)


@pytest.mark.parametrize("path", PATHS)
def test_oddities_that_json_allows(small, path):
    deep = '{"a":' * 100 + "1" + "}" * 100
    twice = '{"query": 3, "query": "q", "documents": ["a"], "\\ud800": "\\udfff", "x": '
    content = twice + deep + "}"
    reply = small.post(path, content=content, headers={"content-type": "application/json; x=y"})
    assert reply.status_code == 200
    without_type = small.build_request("POST", path, content=json.dumps(GOOD))
    without_type.headers.pop("content-type", None)
    assert small.send(without_type).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "é"])
def test_another_content_type(small, kind):
    reply = small.post("/v2/rerank", content=b"{}", headers={"content-type": kind.encode()})
    check(reply, 415, "application/json")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/rerank", 405),
        ("HEAD", "/v1/rerank", 405),
        ("OPTIONS", "/v1/rerank", 405),
        ("PUT", "/rerank", 405),
        ("POST", "/health", 405),
        ("GET", "/", 404),
        ("POST", "/v3/rerank", 404),
        ("POST", "/v1/rerank/", 404),
        ("GET", "/%ff%00/../x", 404),
        ("BREW", "/rerank", 405),
    ],
)
def test_unknown_paths_and_methods(small, method, path, status):
    reply = small.request(method, path, content=b"x" * 1000 if method == "POST" else None)
    assert reply.status_code == status
    if method != "HEAD":
        check(reply, status)


def test_a_million_documents(small):
    documents = json.dumps({"query": "q", "documents": ["a"] * 10**6}).encode()
    check(small.post("/v2/rerank", content=documents, headers=JSON), 413, "bytes")
    with client_of(GatedCrossEncoder(is_open=True)) as client:
        reply = client.post("/v2/rerank", content=documents, headers=JSON)
        check(reply, 413, "documents must be at most 1,000, got 1,000,000")


@pytest.mark.parametrize("path", PATHS)
def test_a_hundred_megabytes_with_their_length_or_in_chunks(small, path):
    chunk = b"x" * 2**20
    reply = small.post(path, content=chunk * 100, headers=JSON, timeout=DEADLINE_S)
    check(reply, 413, "1,048,576 bytes", "104,857,600")
    # A generator is sent in chunks, without a length.
    chunks = (chunk for _ in range(100))
    reply = small.post(path, content=chunks, headers=JSON, timeout=DEADLINE_S)
    check(reply, 413, "1,048,576 bytes")


def test_a_large_body_is_refused_before_it_is_sent(small):
    """The answer comes at once, not after the body."""
    with raw_connection(small) as sock:
        sock.sendall(b"POST /rerank HTTP/1.1\r\nhost: x\r\ncontent-length: 104857600\r\n\r\n")
        assert sock.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_sends_all_before_it_reads_gets_its_answer(small):
    """Closed on at once, it would be reset while it sends, and never see the reason."""
    length = 50 * 2**20
    with raw_connection(small) as sock:
        head = f"POST /rerank HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n"
        sock.sendall(head.encode() + b"x" * length)
        assert sock.recv(1000).startswith(b"HTTP/1.1 413 ")


def raw_connection(client: httpx.Client) -> socket.socket:
    sock = socket.create_connection((client.base_url.host, client.base_url.port))
    sock.settimeout(DEADLINE_S)
    return sock


def read_all(sock: socket.socket) -> bytes:
    read = b""
    while data := sock.recv(65536):
        read += data
    return read


def test_a_body_that_drips_is_given_up():
    model = GatedCrossEncoder(is_open=True)
    with (
        client_of(model, limits=Limits(body_seconds=0.5)) as client,
        raw_connection(client) as sock,
    ):
        sock.sendall(b"POST /rerank HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
        sock.settimeout(0.05)
        answer = b""
        start = time.monotonic()
        while not answer and time.monotonic() - start < DEADLINE_S:
            sock.sendall(b" ")
            with contextlib.suppress(TimeoutError):
                answer = sock.recv(1000)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in answer
        assert b'{"message":"the body must come within 0.5 s' in answer
        assert client.post("/v2/rerank", json=GOOD).status_code == 200


def test_headers_without_end_are_refused(small):
    with raw_connection(small) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nx-long: " + b"x" * 20_000)
        assert read_all(sock).startswith(b"HTTP/1.1 400 ")


def test_a_client_that_leaves_within_its_body(small):
    for _ in range(20):
        with raw_connection(small) as sock:
            sock.sendall(b"POST /rerank HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{")


@pytest.fixture(scope="module")
def locked() -> Iterator[httpx.Client]:
    with client_of(GatedCrossEncoder(is_open=True), api_keys=["first key", "zwölf"]) as client:
        yield client


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", ["first key", "zwölf"])
def test_any_of_the_keys_opens(locked, path, key):
    for scheme in ("Bearer", "bearer"):
        headers = {"authorization": f"{scheme} {key}".encode()}
        assert locked.post(path, json=GOOD, headers=headers).status_code == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer wrong", "Bearer first", "Basic first key", "first key"],
)
def test_a_wrong_key_is_refused_and_not_repeated(locked, path, header):
    reply = locked.post(path, json=GOOD, headers={"authorization": header})
    check(reply, 401)
    assert reply.headers["www-authenticate"] == "Bearer"
    assert "wrong key" not in reply.text
    assert "first" not in reply.text
    # Without a key nothing of a request is read or checked.
    check(locked.post(path, content=b"x" * 20 * 2**20, headers={"authorization": header}), 401)


def test_a_missing_key_is_named(locked):
    check(locked.post("/rerank", json=GOOD), 401, "Authorization: Bearer KEY")
    for path in ("/health", "/ready", "/metrics"):
        assert locked.get(path).status_code == 200


def test_a_blank_key_is_an_error():
    with pytest.raises(ValueError, match="API key must hold text"):
        create_app("model", api_keys=["key", " "])


@pytest.mark.parametrize("value", [0, -1])
def test_a_limit_that_lets_nothing_through_is_an_error(value):
    with pytest.raises(ValueError, match=f"documents must be > 0, got {value}"):
        Limits(documents=value)
