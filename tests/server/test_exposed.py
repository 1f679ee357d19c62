"""What a client without a key, or a hostile one, can and can't do to the service."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from langchain_rerank.server.app import OPEN_PATHS, create_app
from langchain_rerank.server.limits import Limits
from tests.server.serving import DEADLINE_S, GatedCrossEncoder, client_of
from tests.support import wait_until

GOOD = {"query": "q", "documents": ["a", "bb"]}
JSON = {"content-type": "application/json"}
KEY = {"authorization": "Bearer secret"}


def mounted(app: FastAPI) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(_):
        async with app.router.lifespan_context(app):
            yield

    outer = FastAPI(lifespan=lifespan)
    outer.mount("/search", app)
    return outer


@pytest.mark.parametrize("place", ["alone", "mounted", "root_path", "root_path in the path"])
@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_keys_and_limits_hold_wherever_the_app_is(place, path):
    app = create_app(GatedCrossEncoder(is_open=True), api_keys=["secret"])
    served = mounted(app) if place == "mounted" else app
    root = "/api" if place.startswith("root_path") else ""
    prefix = {"mounted": "/search", "root_path in the path": "/api"}.get(place, "")
    with TestClient(served, root_path=root) as client:
        wait_until(lambda: client.get(f"{prefix}/ready").status_code == 200, "the model")
        url = prefix + path
        assert client.post(url, json=GOOD).status_code == 401
        assert client.post(url, json=GOOD, headers=KEY).status_code == 200
        large = client.post(url, content=b" " * (17 * 2**20), headers={**KEY, **JSON})
        assert large.status_code == 413


def test_every_route_is_guarded_unless_it_is_known_to_be_open():
    app = create_app(GatedCrossEncoder(is_open=True), api_keys=["secret"])

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


def test_deep_json_is_refused_or_given_back():
    with TestClient(create_app(GatedCrossEncoder(is_open=True))) as client:
        statuses = set()
        for depth in (1, 100, 150, 195, *range(196, 204), 500, 950, 5000, 100_000):
            nest = "[" * depth + "]" * depth
            documents = f'"documents":[{{"text":"a","more":{nest}}}],"return_documents":true'
            body = f'{{"query":"q",{documents}}}'
            for path in ("/v1/rerank", "/rerank"):
                statuses.add(client.post(path, content=body, headers=JSON).status_code)
        assert statuses == {200, 422}


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_numbers_that_json_can_not_hold_are_not_given_back(number):
    with TestClient(create_app(GatedCrossEncoder(is_open=True))) as client:
        body = f'{{"query":"q","documents":[{{"text":"a","n":{number}}}],"return_documents":true}}'
        reply = client.post("/v1/rerank", content=body, headers=JSON)
        assert reply.status_code == 422
        assert "finite" in reply.json()["message"]


@pytest.mark.parametrize(
    "body",
    [
        '{"query":"q","documents":[' + "7," * 2_000_000 + "7]}",
        '{"query":"q","documents":[{"text":"a","x":[' + "[]," * 450_000 + "[]]}]}",
        '{"query":"q","documents":["a"],"x":[' + "[]," * 2_000_000 + "[]]}",
        '{"query":[' + "{}," * 450_000 + '{}],"documents":["a"]}',
        '{"query":"\\ud800' + "\\n" * 2_000_000 + '","documents":["a"]}',
        '{"query":"q",' + '"a":7,' * 1_000_000 + '"documents":["a"]}',
    ],
    ids=["wrong entries", "nested", "many lists", "wrong query", "escapes", "fields"],
)
def test_a_body_that_is_dear_to_parse_does_not_stop_the_others(body):
    done = threading.Event()
    with client_of(GatedCrossEncoder(is_open=True)) as client, ThreadPoolExecutor(1) as pool:

        def probe() -> None:
            with httpx.Client(base_url=client.base_url, timeout=5) as own:
                while not done.is_set():
                    assert own.get("/health").status_code == 200

        probing = pool.submit(probe)
        reply = client.post("/v1/rerank", content=body, headers=JSON, timeout=DEADLINE_S)
        done.set()
        probing.result()
    assert reply.status_code in (200, 413, 422)


def test_all_bodies_together_are_bounded_and_freed():
    model = GatedCrossEncoder()
    body = json.dumps({"query": "q", "documents": ["x" * 1000]})
    limits = Limits(held_bytes=2500)
    with client_of(model, limits=limits) as client, ThreadPoolExecutor(2) as pool:
        ask = lambda: client.post("/rerank", content=body, headers=JSON, timeout=DEADLINE_S)  # noqa: E731
        held = [pool.submit(ask) for _ in range(2)]
        wait_until(lambda: model.passes and len(client.app.state.batcher) == 1, "both to wait")
        refused = ask()
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        model.open()
        assert [one.result().status_code for one in held] == [200, 200]
        assert ask().status_code == 200


@pytest.fixture(scope="module")
def impatient():
    model = GatedCrossEncoder(is_open=True)
    options = {"client_seconds": 0.3}
    with client_of(model, server_options=options, api_keys=["secret"]) as client:
        yield client


def is_closed(sock: socket.socket) -> bool:
    """Tell whether the other side has ended the connection, and go on sending a little."""
    sock.settimeout(0.05)
    try:
        sock.sendall(b"1")
        return sock.recv(65536) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


@pytest.mark.parametrize(
    "sent",
    [
        "P",
        "POST /rerank HTTP/1.1\r\nhost: x\r\nx-drip: ",
        "POST /health HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n",
        "POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n",
        "GET /ready HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n",
        "POST /rerank HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n",
        "POST /rerank HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\nfffff\r\n",
    ],
)
@pytest.mark.parametrize("before", ["", "GET /health HTTP/1.1\r\nhost: x\r\n\r\n"])
def test_a_client_that_drips_what_nobody_waits_for_is_dropped(impatient, sent, before):
    address = impatient.base_url.host, impatient.base_url.port
    with socket.create_connection(address) as sock:
        sock.sendall((before + sent).encode())
        wait_until(lambda: is_closed(sock), "the connection to be closed", timeout=20)


def test_a_client_that_sends_nothing_at_all_is_dropped(impatient):
    with socket.create_connection((impatient.base_url.host, impatient.base_url.port)) as sock:
        sock.settimeout(20)  # less than uvicorn's own limit for idle connections
        assert sock.recv(1) == b""


def test_a_client_that_never_reads_its_answer_is_dropped(impatient):
    body = json.dumps({"query": "q", "documents": ["x" * 900_000] * 4}).encode()
    head = "POST /rerank HTTP/1.1\r\nhost: x\r\nauthorization: Bearer secret\r\n"
    head += f"content-length: {len(body)}\r\n\r\n"
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((impatient.base_url.host, impatient.base_url.port))
        sock.sendall(head.encode() + body)
        server_side = sock.getsockname()
        state = impatient.app.state

        def answered() -> bool:
            return 'path="/rerank",status="200"' in impatient.get("/metrics").text

        assert state.batcher.ready
        wait_until(answered, "the answer")
        wait_until(lambda: not connected_to(server_side), "the connection to be dropped")


def connected_to(address: tuple[str, int]) -> bool:
    import psutil

    found = psutil.Process().net_connections("tcp")
    return any(one.raddr == address and one.status == "ESTABLISHED" for one in found)
