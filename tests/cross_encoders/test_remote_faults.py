"""What goes wrong between a client and real servers on loopback, and what comes of it."""

from __future__ import annotations

import itertools
import json
import logging
import socket
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.retrievers import BaseRetriever

from langchain_rerank import (
    RemoteCrossEncoder,
    RemoteError,
    Reranker,
    create_rag_chain,
    create_rerank_retriever,
)
from langchain_rerank.cross_encoders.remote import endpoints, exchange
from tests.stand_ins import Reply, StandIn, as_json, hang, wait_for

PAIRS = [("red fish", "red"), ("red fish", "fish red")]
SCORES = [0.5, 1.0]
KEY = "key-that-nobody-may-see"
TEXT = "a document that nobody may see"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(exchange, "_FIRST_BACKOFF", 0.01)
    monkeypatch.setattr(endpoints, "_FIRST_OUT", 0.05)


@pytest.fixture
def server():
    with StandIn() as server:
        yield server


@pytest.fixture
def other():
    with StandIn() as server:
        yield server


def results(*pairs: tuple[object, object]) -> Reply:
    found = [{"index": index, "relevance_score": score} for index, score in pairs]
    return as_json({"results": found})


def status(code: int, **headers: str):
    return lambda request: as_json({"message": "so it is"}, code, **headers)


def cut_off(request):
    """Fewer bytes than announced."""
    return Reply(b'{"results": [', length=500)


def truncated(request):
    return Reply(b'{"results": [{"index": 0, "relevance_sc')


WRONG = {
    "truncated JSON": (truncated, "not JSON"),
    "a page": (lambda request: Reply(b"<html>welcome</html>"), "not JSON"),
    "another shape": (lambda request: as_json([{"index": 0, "score": 1}]), "got list"),
    "a wrong count": (lambda request: results((0, 0.5)), "expected 2 results.* got 1"),
    "a duplicate": (lambda request: results((0, 0.5), (0, 0.5)), "0 twice"),
    "out of range": (lambda request: results((0, 0.5), (2, 0.5)), "from 0 to 1, got 2"),
    "NaN": (lambda request: results((0, 0.5), (1, float("nan"))), "finite .* got nan"),
    "50 MB": (
        lambda request: Reply(itertools.repeat(b" " * 2**20, 50)),
        "over max_reply_bytes=16777216",
    ),
    "50 MB announced": (lambda request: Reply(b" " * 50 * 2**20), "over max_reply_bytes"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_reply_is_an_error_where_there_is_one_server(server, name):
    server.always, message = WRONG[name]
    with pytest.raises(RemoteError, match=message) as caught:
        RemoteCrossEncoder(url=server.url).score(PAIRS)
    assert (caught.value.status, caught.value.attempts) == (200, 1)
    assert caught.value.url == f"{server.url}/rerank"


@pytest.mark.parametrize("name", [*WRONG, "500"])
def test_a_wrong_reply_sends_the_request_to_another_server(server, other, name):
    server.always = status(500) if name == "500" else WRONG[name][0]
    cross_encoder = RemoteCrossEncoder(url=(server.url, other.url))
    assert [cross_encoder.score(PAIRS) for _ in range(3)] == [SCORES] * 3
    assert server.requests


@pytest.mark.parametrize("fault", [status(503), status(502), status(504), status(429), cut_off])
def test_a_server_that_is_busy_or_cuts_off_is_asked_again(server, fault):
    server.faults = [fault, fault]
    assert RemoteCrossEncoder(url=server.url).score(PAIRS) == SCORES
    assert len(server.requests) == 3


def test_no_more_often_than_max_retries(server):
    server.always = status(503)
    with pytest.raises(RemoteError, match="answered 503: so it is, after 3 attempts") as caught:
        RemoteCrossEncoder(url=server.url, max_retries=2).score(PAIRS)
    assert (caught.value.status, caught.value.attempts) == (503, 3)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (400, "so it is"),
        (401, "check api_key"),
        (403, "check api_key"),
        (404, "check the path of url"),
        (413, r"max_documents \(it is 1000\)"),
        (422, "max_documents is 1000"),
        (500, "so it is"),
        (204, "answered 204"),
    ],
)
def test_what_would_come_out_the_same_is_not_tried_again(server, code, hint):
    server.always = status(code) if code != 204 else lambda request: Reply(status=204)
    with pytest.raises(RemoteError, match=hint) as caught:
        RemoteCrossEncoder(url=server.url).score(PAIRS)
    assert (caught.value.status, caught.value.attempts) == (code, 1)
    assert len(server.requests) == 1


def test_retry_after_is_waited_for(server):
    times = []

    def busy(request):
        times.append(time.monotonic())
        return as_json({}, 429, retry_after="1")

    def fine(request):
        times.append(time.monotonic())
        return server.good(request)

    server.faults = [busy, fine]
    assert RemoteCrossEncoder(url=server.url).score(PAIRS) == SCORES
    assert times[1] - times[0] >= 1.0


def test_a_server_that_asked_to_wait_is_not_asked_by_another_call_before(server):
    server.faults = [status(429, retry_after="600")]
    cross_encoder = RemoteCrossEncoder(url=server.url, timeout=10)
    with pytest.raises(RemoteError, match="it asks to wait"):
        cross_encoder.score(PAIRS)
    with pytest.raises(RemoteError, match="asked to be left alone for another 6"):
        cross_encoder.score(PAIRS)
    assert len(server.requests) == 1


@pytest.mark.parametrize("after", ["Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "soon"])
def test_a_retry_after_that_means_nothing_is_as_none(server, after):
    server.faults = [status(503, retry_after=after)]
    assert RemoteCrossEncoder(url=server.url).score(PAIRS) == SCORES


@pytest.mark.parametrize("after", ["30", "Fri, 01 Jan 2100 00:00:00 GMT", "9" * 400])
def test_a_retry_after_beyond_the_deadline_is_an_error_at_once(server, after):
    server.always = status(429, retry_after=after)
    with pytest.raises(RemoteError, match=r"it asks to wait .* of timeout=10 s are left"):
        RemoteCrossEncoder(url=server.url, timeout=10).score(PAIRS)
    assert len(server.requests) == 1


def test_a_server_that_asks_to_wait_is_left_alone_while_another_answers(server, other):
    server.always = status(429, retry_after="3000")
    cross_encoder = RemoteCrossEncoder(url=(server.url, other.url), timeout=10)
    assert [cross_encoder.score(PAIRS) for _ in range(4)] == [SCORES] * 4
    assert (len(server.requests), len(other.requests)) == (1, 4)


def test_a_server_that_hangs_ends_in_a_timeout(server):
    server.always = hang
    with pytest.raises(RemoteError, match=r"read_timeout=0.1 s, after 2 attempts") as caught:
        RemoteCrossEncoder(url=server.url, read_timeout=0.1, max_retries=1).score(PAIRS)
    assert caught.value.status is None
    assert all(server.hung_up.acquire(timeout=10) for _ in range(2))


def test_one_deadline_ends_all(server):
    server.always = hang
    with pytest.raises(RemoteError, match=r"no scores within timeout=0.3 s; before, .*=0.1 s"):
        RemoteCrossEncoder(url=server.url, timeout=0.3, read_timeout=0.1).score(PAIRS)


@pytest.mark.parametrize(
    "limits", [{"timeout": 0.4}, {"read_timeout": 0.2, "connect_timeout": 0.2}]
)
def test_a_server_that_dribbles_does_not_hold_on_for_ever(server, limits):
    end = threading.Event()

    def dribble(request):
        def pieces():
            while not end.wait(0.02):
                yield b" "

        return Reply(pieces())

    server.always = dribble
    try:
        with pytest.raises(RemoteError, match="within"):
            RemoteCrossEncoder(url=server.url, max_retries=0, **limits).score(PAIRS)
    finally:
        end.set()


def test_a_name_that_cannot_be_resolved():
    cross_encoder = RemoteCrossEncoder(url="http://rerank.invalid", max_retries=1)
    with pytest.raises(RemoteError, match="could not be reached: ConnectError") as caught:
        cross_encoder.score(PAIRS)
    assert caught.value.attempts == 2


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_a_refused_connection_and_a_server_that_comes_back(server):
    dead = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(RemoteError, match=r"could not be reached: .*, after 5 attempts"):
        RemoteCrossEncoder(url=dead).score(PAIRS)
    assert RemoteCrossEncoder(url=(dead, server.url)).score(PAIRS) == SCORES


def test_a_redirect_is_not_followed(server, other):
    server.always = status(307, location=f"http://ann:pw@127.0.0.1:{other.port}/new?token=t")
    with pytest.raises(RemoteError, match=r"redirect to .*/new, which is not followed") as caught:
        RemoteCrossEncoder(url=server.url, api_key=KEY).score(PAIRS)
    assert "pw" not in str(caught.value)
    assert "token" not in str(caught.value)
    assert other.requests == []


def test_one_of_two_servers_dies_under_load_and_no_answer_is_lost(server):
    dying = StandIn()
    cross_encoder = RemoteCrossEncoder(url=(dying.url, server.url), max_documents=1)
    enough = threading.Semaphore(0)

    def work(_: int) -> None:
        for _ in range(25):
            assert cross_encoder.score(PAIRS) == SCORES
            enough.release()

    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(work, worker) for worker in range(8)]
        for _ in range(40):
            assert enough.acquire(timeout=30)
        dying.close()
        for job in jobs:
            job.result()
    assert dying.requests


def test_a_server_left_out_is_tried_again_and_taken_back(server, other):
    server.faults = [status(503)]
    cross_encoder = RemoteCrossEncoder(url=(server.url, other.url))
    deadline = time.monotonic() + 20
    while len(server.requests) < 4:
        assert cross_encoder.score(PAIRS) == SCORES
        assert time.monotonic() < deadline
    assert server.faults == []


def test_a_server_that_hangs_until_the_deadline_is_left_out(server, other, monkeypatch):
    monkeypatch.setattr(endpoints, "_FIRST_OUT", 60.0)
    server.always = hang
    cross_encoder = RemoteCrossEncoder(url=(server.url, other.url), timeout=1)
    with pytest.raises(RemoteError, match="within timeout=1 s"):
        cross_encoder.score(PAIRS)
    assert [cross_encoder.score(PAIRS) for _ in range(3)] == [SCORES] * 3
    assert (len(server.requests), len(other.requests)) == (1, 3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"headers": {"Authorization": "Bearer sk-12345678"}}, "sk-12345678"),
        ({"user": "user:passw0rd"}, "dXNlcjpwYXNzdzByZA=="),
        ({"user": "token-as-a-user"}, "token-as-a-user"),
    ],
)
def test_a_server_that_quotes_a_credential_is_not_quoted(server, settings, said):
    server.always = lambda request: as_json({"message": f"wrong key {said}"}, 401)
    user = settings.pop("user", None)
    url = server.url.replace("://", f"://{user}@") if user else server.url
    with pytest.raises(RemoteError, match="wrong key") as raised:
        RemoteCrossEncoder(url=url, **settings).score(PAIRS)
    assert said not in "".join(traceback.format_exception(raised.value))


def test_a_failure_for_good_cancels_the_requests_beside_it(server):
    refused = threading.Event()

    def by_query(request):
        if request.body["query"] == "hang":
            refused.set()
            return None
        assert refused.wait(10)
        return as_json({"message": "no"}, 400)

    server.always = by_query
    with pytest.raises(RemoteError, match="answered 400: no"):
        RemoteCrossEncoder(url=server.url).score([("hang", "a"), ("fail", "b")])
    assert server.hung_up.acquire(timeout=10)


def shown(error: BaseException) -> str:
    """All that a traceback, a log or a tracer would show of an error and its causes."""
    return "".join(traceback.format_exception(error)) + repr(error) + json.dumps(vars(error))


@pytest.mark.parametrize("code", [400, 401, 429, 500])
def test_no_key_and_no_text_gets_out(server, caplog, code):
    said = f"Bearer {KEY} in {'x' * 255} {KEY} pass-word tok-en head-er"
    server.always = lambda request: as_json({"message": said}, code)
    url = server.url.replace("http://", "http://ann:pass-word@") + "?access=tok-en"
    cross_encoder = RemoteCrossEncoder(
        url=url, api_key=KEY, headers={"X-Key": "head-er"}, max_retries=1
    )
    with caplog.at_level(logging.DEBUG), pytest.raises(RemoteError) as caught:
        cross_encoder.score([("q", TEXT)])
    everything = [
        shown(caught.value),
        caplog.text,
        repr(cross_encoder),
        str(cross_encoder),
        cross_encoder.model_dump_json(),
        str(cross_encoder._exchange),
    ]
    assert "HTTP Request: POST" in caplog.text, "httpx logs each request"
    assert server.requests[0].target == "/rerank?access=tok-en"
    for secret in (KEY, KEY[:8], "pass-word", "tok-en", "head-er", TEXT):
        assert all(secret not in text for text in everything)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_replys_error_shows_no_document(server, name):
    server.always, _ = WRONG[name]
    with pytest.raises(RemoteError) as caught:
        RemoteCrossEncoder(url=server.url, api_key=KEY).score([("q", TEXT), ("q", TEXT)])
    assert KEY not in shown(caught.value)
    assert TEXT not in shown(caught.value)


DOCUMENTS = [Document("Fish swim in the sea.", id="a"), Document("The red fish is mine.", id="b")]


async def test_with_keep_order_the_first_stages_order_is_kept(server):
    server.always = status(503)
    cross_encoder = RemoteCrossEncoder(url=server.url, max_retries=0)
    reranker = Reranker(model=cross_encoder, on_error="keep_order")
    assert [one.id for one in reranker.compress_documents(DOCUMENTS, "red fish")] == ["a", "b"]
    kept = await reranker.acompress_documents(DOCUMENTS, "red fish")
    assert [one.id for one in kept] == ["a", "b"]
    server.always = None
    kept = await reranker.acompress_documents(DOCUMENTS, "red fish")
    assert [one.id for one in kept] == ["b", "a"]


async def test_with_raise_the_error_is_a_remote_error(server):
    server.always = status(503)
    reranker = Reranker(model=RemoteCrossEncoder(url=server.url, max_retries=0))
    with pytest.raises(RemoteError):
        reranker.compress_documents(DOCUMENTS, "red fish")
    with pytest.raises(RemoteError):
        await reranker.acompress_documents(DOCUMENTS, "red fish")


class Fixed(BaseRetriever):
    def _get_relevant_documents(self, query, *, run_manager):
        return DOCUMENTS


async def test_a_chain_still_answers_when_the_server_is_down():
    down = RemoteCrossEncoder(url=f"http://127.0.0.1:{free_port()}", max_retries=1)

    retriever = create_rerank_retriever(
        Fixed(), reranker=Reranker(model=down, on_error="keep_order"), k=2, fetch_k=2
    )
    llm = FakeListChatModel(responses=["It is yours. [1]"])
    chain = create_rag_chain(llm, retriever)
    answer = chain.invoke("Whose is the red fish?")
    assert answer["answer"] == "It is yours. [1]"
    assert [one.id for one in answer["context"]] == ["a", "b"]
    assert (await chain.ainvoke("Whose is the red fish?"))["answer"] == "It is yours. [1]"


def test_reading_a_reply_stops_at_its_limit(server):
    sent = []

    def endless(request):
        def pieces():
            for _ in range(10_000):
                sent.append(1)
                yield b" " * 2**16

        return Reply(pieces())

    server.always = endless
    with pytest.raises(RemoteError, match="max_reply_bytes=1000"):
        RemoteCrossEncoder(url=server.url, max_reply_bytes=1000).score(PAIRS)
    assert len(sent) < 10_000
    wait_for(lambda: not server.sockets)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SSL_CERT_FILE", "/nonexistent/ca.pem"),
        ("ALL_PROXY", "socks://127.0.0.1:9"),
        ("ALL_PROXY", "socks5://127.0.0.1:9"),
        ("NO_PROXY", "127.0.0.1,fd00::/8"),
    ],
)
def test_a_variable_that_httpx_cannot_use_is_named(monkeypatch, variable, value):
    for name in ("ALL_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv(variable, value)
    remote = RemoteCrossEncoder(url="http://127.0.0.1:9/rerank", max_retries=0)
    with pytest.raises(RemoteError) as raised:
        remote.score([("question", "passage")])
    remote.close()
    # Where a package for SOCKS is installed, it is the proxy that can't be reached.
    assert variable in str(raised.value) or raised.value.attempts == 1


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd", "br"])
def test_a_compressed_reply_is_refused_before_it_is_unpacked(encoding):
    with StandIn("cohere") as server:
        server.always = lambda _: Reply(b"x" * 100, headers={"content-encoding": encoding})
        remote = RemoteCrossEncoder(url=server.url, max_retries=0)
        with pytest.raises(RemoteError, match=f"compressed by '{encoding}'"):
            remote.score([("question", "passage")])
        remote.close()
    assert server.requests[0].headers["accept-encoding"] == "identity"
