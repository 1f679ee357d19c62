"""Real HTTP servers on loopback that stand for rerank servers, well-behaved or not."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from tests.fakes import WordOverlapCrossEncoder

if TYPE_CHECKING:
    from langchain_core.cross_encoders import BaseCrossEncoder


@dataclass(frozen=True)
class Request:
    """What came; names of headers in small letters."""

    method: str
    target: str
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Reply:
    """What goes back; `body` is sent piece by piece, then the connection goes on or is cut."""

    body: bytes | Iterable[bytes] = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None


# Answers a request in place of a good reply; None hangs until the client goes away.
Fault = Callable[[Request], Reply | None]
# Two pairs, and what a `StandIn` scores them.
PAIRS = [("red fish", "red"), ("red fish", "fish red")]
SCORES = [0.5, 1.0]


class StandIn(ThreadingHTTPServer):
    """A rerank server that scores by a cross encoder and does what a test tells it."""

    request_queue_size = 128
    daemon_threads = False

    def __init__(
        self,
        dialect: str = "cohere",
        scorer: BaseCrossEncoder | None = None,
        certificate: str | None = None,
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.dialect = dialect
        self.scorer = scorer or WordOverlapCrossEncoder()
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        """Each is for one request, the first first."""
        self.always: Fault | None = None
        self.hung_up = threading.Semaphore(0)
        """Released each time that a client leaves a request that hangs."""
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self.sockets: set[socket.socket] = set()
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self.server_address[1]}"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, args=(0.01,)).start()

    def __exit__(self, *_: object) -> None:
        """Die: running requests lose their connections, new ones are refused."""
        self.shutdown()
        for one in list(self.sockets):
            # The client may have been faster.
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that go away are what tests are about."""

    def answer(self, request: Request) -> Reply | None:
        with self._lock:
            self.requests.append(request)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            fault = self.faults.pop(0) if self.faults else self.always
        try:
            return fault(request) if fault else self.good(request)
        finally:
            with self._lock:
                self._at_once -= 1

    def good(self, request: Request) -> Reply:
        """Score, and answer sorted by score as servers do."""
        texts = request.body["documents" if self.dialect == "cohere" else "texts"]
        scores = self.scorer.score([(request.body["query"], text) for text in texts])
        results = sorted(enumerate(scores), key=lambda result: -result[1])
        if self.dialect == "tei":
            return as_json([{"index": index, "score": score} for index, score in results])
        found = [{"index": index, "relevance_score": score} for index, score in results]
        return as_json({"results": found})


def as_json(given: Any, status: int = 200, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(json.dumps(given).encode(), status, named)


def hang(request: Request) -> None:
    """Leave a request without an answer."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # The head and the body of a reply go out together, else Nagle's algorithm delays the second.
    wbufsize = -1

    def setup(self) -> None:
        super().setup()
        self.server.sockets.add(self.connection)

    def finish(self) -> None:
        self.server.sockets.discard(self.connection)
        super().finish()

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, json.loads(raw))
        reply = self.server.answer(request)
        if reply is None:
            self.connection.recv(1)
            self.server.hung_up.release()
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if isinstance(reply.body, bytes):
            length = len(reply.body) if reply.length is None else reply.length
            self.send_header("content-length", str(length))
            self.end_headers()
            self.wfile.write(reply.body)
            self.close_connection = length != len(reply.body)
        else:
            self.send_header("connection", "close")
            self.end_headers()
            for piece in reply.body:
                self.wfile.write(piece)
                self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Say nothing."""
