"""What a client without a key, or a hostile one, can and can't do to the service."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from langchain_rerank.server.app import OPEN_PATHS, create_app
from langchain_rerank.server.limits import Limits
from tests.server.serving import GOOD, JSON, GatedCrossEncoder, client_of
from tests.support import wait_until


def locked() -> FastAPI:
    return create_app(GatedCrossEncoder(is_open=True), api_keys=["secret"])


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
        wait_until(lambda: client.get(f"{prefix}/ready").status_code == 200, "the model")
        key = {"authorization": "Bearer secret"}
        for path in ("/v1/rerank", "/v2/rerank", "/rerank"):
            url = prefix + path
            assert client.post(url, json=GOOD).status_code == 401
            assert client.post(url, json=GOOD, headers=key).status_code == 200
            large = client.post(url, content=b" " * (17 * 2**20), headers={**key, **JSON})
            assert large.status_code == 413


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


def test_json_that_can_not_be_given_back_is_refused():
    depths = (1, 150, *range(196, 204), 500, *range(900, 1000, 5), 5000, 100_000)
    odd = ["[" * depth + "]" * depth for depth in depths]
    with TestClient(create_app(GatedCrossEncoder(is_open=True))) as client:
        statuses = []
        for more in [*odd, "NaN", "-Infinity", "1e999"]:
            documents = f'"documents":[{{"text":"a","more":{more}}}],"return_documents":true'
            for path in ("/v1/rerank", "/rerank"):
                body = f'{{"query":"q",{documents}}}'
                statuses.append(client.post(path, content=body, headers=JSON).status_code)
    assert set(statuses[:-6]) == {200, 422}
    assert set(statuses[-6:]) == {422}


DEAR = {
    "wrong entries": '{"query":"q","documents":[' + "7," * 2_000_000 + "7]}",
    "nested": '{"query":"q","documents":[{"text":"a","x":[' + "[]," * 450_000 + "[]]}]}",
    "many lists": '{"query":"q","documents":["a"],"x":[' + "[]," * 2_000_000 + "[]]}",
    "wrong query": '{"query":[' + "{}," * 450_000 + '{}],"documents":["a"]}',
    "escapes": '{"query":"\\ud800' + "\\n" * 2_000_000 + '","documents":["a"]}',
    "fields": '{"query":"q",' + '"a":7,' * 1_000_000 + '"documents":["a"]}',
}


@pytest.mark.parametrize("body", DEAR.values(), ids=DEAR)
def test_a_body_that_is_dear_to_parse_does_not_stop_the_others(body):
    done = threading.Event()
    with client_of(GatedCrossEncoder(is_open=True)) as client, ThreadPoolExecutor(1) as pool:

        def probe() -> None:
            with httpx.Client(base_url=client.base_url, timeout=5) as own:
                while not done.is_set():
                    assert own.get("/health").status_code == 200

        probing = pool.submit(probe)
        reply = client.post("/v1/rerank", content=body, headers=JSON)
        done.set()
        probing.result()
    assert reply.status_code in (200, 413, 422)


def test_all_bodies_together_are_bounded_and_freed(model):
    body = {"query": "q", "documents": ["x" * 1000]}
    limits = Limits(held_bytes=2500)
    with client_of(model, limits=limits) as client, ThreadPoolExecutor(2) as pool:
        held = [pool.submit(client.post, "/rerank", json=body) for _ in range(2)]
        batcher = client.app.state.batcher
        wait_until(lambda: sum(map(len, model.passes)) + len(batcher) == 2, "both to be held")
        refused = client.post("/rerank", json=body)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        model.open()
        assert [one.result().status_code for one in held] == [200, 200]
        assert client.post("/rerank", json=body).status_code == 200


@pytest.fixture(scope="module")
def impatient():
    model = GatedCrossEncoder(is_open=True)
    options = {"client_seconds": 0.3}
    with client_of(model, server_options=options, api_keys=["secret"]) as client:
        yield client


def is_closed(sock: socket.socket, drip: bytes) -> bool:
    """Send a little more, and tell whether the other side has ended the connection."""
    sock.settimeout(0.05)
    try:
        sock.sendall(drip)
        return sock.recv(65536) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


LENGTH = "HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n"


@pytest.mark.parametrize("drip", [b"1", b""])
@pytest.mark.parametrize(
    "sent",
    [
        "P",
        "GET /health HTTP/1.1\r\nhost: x\r\n\r\nP",
        "POST /rerank HTTP/1.1\r\nhost: x\r\nx-drip: ",
        f"POST /health {LENGTH}",
        f"GET /health HTTP/1.1\r\nhost: x\r\n\r\nPOST /nowhere {LENGTH}",
        f"GET /ready {LENGTH}",
        f"POST /rerank {LENGTH}",
        "POST /rerank HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\nfffff\r\n",
    ],
)
def test_a_client_that_is_due_and_drips_or_does_nothing_is_dropped(impatient, sent, drip):
    # Sooner than by uvicorn's own limit for idle connections.
    with socket.create_connection((impatient.base_url.host, impatient.base_url.port)) as sock:
        sock.sendall(sent.encode())
        wait_until(lambda: is_closed(sock, drip), "the connection to be closed", timeout=20)


def test_a_client_that_never_reads_its_answer_is_dropped(impatient):
    body = json.dumps({"query": "q", "documents": ["x" * 900_000] * 4}).encode()
    head = "POST /rerank HTTP/1.1\r\nhost: x\r\nauthorization: Bearer secret\r\n"
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((impatient.base_url.host, impatient.base_url.port))
        sock.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)

        def is_held() -> bool:
            open_ones = psutil.Process().net_connections("tcp")
            return ("ESTABLISHED", sock.getsockname()) in [(c.status, c.raddr) for c in open_ones]

        answered = 'path="/rerank",status="200"'
        wait_until(lambda: answered in impatient.get("/metrics").text, "the answer")
        wait_until(lambda: not is_held(), "the connection to be dropped")
