"""Who gets in with which key, and what a slow or hostile connection can't do."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket

import psutil
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from langchain_rerank.server.app import OPEN_PATHS, create_app
from langchain_rerank.server.schemas import Limits
from tests.server.serving import GOOD, JSON, PATHS, GatedCrossEncoder, client_of, connected
from tests.support import wait_until


def locked() -> FastAPI:
    return create_app(GatedCrossEncoder(is_open=True), api_keys=["secret", "zwölf"])


def mounted(app: FastAPI) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(_):
        async with app.router.lifespan_context(app):
            yield

    outer = FastAPI(lifespan=lifespan)
    outer.mount("/search", app)
    return outer


@pytest.mark.parametrize(
    ("app", "root", "prefix"),
    [(locked(), "", ""), (mounted(locked()), "", "/search"), (locked(), "/api", "/api")],
    ids=["alone", "mounted", "root_path"],
)
def test_keys_and_limits_hold_wherever_the_app_is(app, root, prefix):
    with TestClient(app, root_path=root) as client:
        for url in (prefix + path for path in PATHS):
            key = {"authorization": "Bearer secret"}
            assert client.post(url, json=GOOD, headers=key).status_code == 200
            large = client.post(url, content=b" " * (17 * 2**20), headers={**key, **JSON})
            assert large.status_code == 413
            # Without a key nothing of a request is read or checked.
            refused = client.post(url, content=b"x" * 17 * 2**20)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")


def test_every_route_is_guarded_unless_it_is_known_to_be_open():
    app = locked()

    @app.post("/added/later")
    @app.post("/sub/health")
    async def added() -> str:
        return "reached"

    with TestClient(app) as client:
        for route in app.routes:
            if route.path == "/openapi.json":  # the schema says nothing of the data
                continue
            for method in route.methods:
                status = client.request(method, route.path, json=GOOD).status_code
                assert (status != 401) == (route.path in OPEN_PATHS), route.path


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer secre", "Basic secret", "secret"])
def test_a_wrong_key_is_refused_and_not_repeated(header):
    with TestClient(locked()) as client:
        reply = client.post("/rerank", json=GOOD, headers={"authorization": header})
        latin = {"authorization": "bearer zwölf".encode()}
        assert client.post("/rerank", json=GOOD, headers=latin).status_code == 200
    assert (reply.status_code, "secre" in reply.text) == (401, False)


def head(length: int) -> bytes:
    return f"POST /rerank HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n".encode()


@pytest.mark.parametrize("sent", [0, 50 * 2**20])
def test_a_large_body_is_refused_before_it_is_sent_and_after(lengths, sent):
    """Closed on at once, it would be reset while it sends, and never see the reason."""
    with connected(lengths) as sock:
        sock.sendall(head(50 * 2**20) + b"x" * sent)
        assert sock.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_headers_without_end_are_refused_and_a_client_may_leave_within_its_body(lengths):
    with connected(lengths) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nx-long: " + b"x" * 20_000)
        assert sock.recv(1000).startswith(b"HTTP/1.1 400 ")
    for _ in range(20):
        with connected(lengths) as sock:
            sock.sendall(head(1000) + b"{")
    assert lengths.post("/rerank", json=GOOD).status_code == 200


@pytest.fixture(scope="module")
def impatient():
    options, limits = {"client_seconds": 0.3}, Limits(body_seconds=0.5)
    with client_of(GatedCrossEncoder(is_open=True), options, limits=limits) as client:
        yield client


def received(sock: socket.socket, drip: bytes) -> bytes | None:
    """Send a little more, and give what has come: None for nothing, b"" for an ended connection."""
    sock.settimeout(0.02)
    try:
        sock.sendall(drip)
        return sock.recv(65536)
    except TimeoutError:
        return None
    except OSError:
        return b""


def test_a_body_that_drips_is_given_up(impatient):
    with connected(impatient) as sock:
        sock.sendall(head(1000))
        answer = wait_until(lambda: received(sock, b" "), "an answer")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer
    assert b'{"message":"the body must come within 0.5 s' in answer


LENGTH = "HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n"


DUE = [
    "P",
    "GET /health HTTP/1.1\r\nhost: x\r\n\r\nP",
    "POST /rerank HTTP/1.1\r\nhost: x\r\nx-drip: ",
    f"POST /health {LENGTH}",
    f"GET /health HTTP/1.1\r\nhost: x\r\n\r\nPOST /nowhere {LENGTH}",
    f"GET /ready {LENGTH}",
    f"POST /rerank {LENGTH}",
    "POST /rerank HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\nfffff\r\n",
]


def test_a_client_that_is_due_and_drips_or_does_nothing_is_dropped(impatient):
    with contextlib.ExitStack() as stack:
        held = {}
        for sent, drip in itertools.product(DUE, (b"", b"1")):
            sock = stack.enter_context(connected(impatient))
            sock.sendall(sent.encode())
            held[sent, drip] = sock

        def all_are_closed() -> bool:
            for (sent, drip), sock in list(held.items()):
                if received(sock, drip) == b"":
                    del held[sent, drip]
            return not held

        # Sooner than by uvicorn's own limit for idle connections.
        wait_until(all_are_closed, f"the end of {held}", timeout=20)


def test_a_client_that_never_reads_its_answer_is_dropped(impatient):
    body = json.dumps({"query": "q", "documents": ["x" * 900_000] * 4}).encode()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((impatient.base_url.host, impatient.base_url.port))
        sock.sendall(head(len(body)) + body)

        def is_held() -> bool:
            open_ones = psutil.Process().net_connections("tcp")
            return ("ESTABLISHED", sock.getsockname()) in [(c.status, c.raddr) for c in open_ones]

        answered = 'path="/rerank",status="200"'
        wait_until(lambda: answered in impatient.get("/metrics").text, "the answer")
        wait_until(lambda: not is_held(), "the connection to be dropped")
