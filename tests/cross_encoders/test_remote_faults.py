"""What goes wrong between a client and real servers on loopback, and what comes of it."""

from __future__ import annotations

import itertools
import json
import logging
import math
import re
import threading
import time
import traceback

import pytest
from langchain_core.documents import Document

from langchain_rerank import (
    RemoteCrossEncoder,
    RemoteError,
    Reranker,
    create_rerank_retriever,
)
from langchain_rerank.cross_encoders import endpoints
from tests.fakes import RecordingRetriever
from tests.stand_ins import PAIRS, SCORES, Reply, as_json, hang
from tests.support import free_port, wait_until

KEY = "key-that-nobody-may-see"
TEXT = "a document that nobody may see"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(endpoints, "_FIRST_OUT", 0.02)


def status(code: int, **headers: str):
    return lambda request: as_json({"message": "so it is"}, code, **headers)


def compressed(encoding: str):
    return lambda request: Reply(b"x" * 100, headers={"content-encoding": encoding})


NAN = {"results": [{"index": 0, "relevance_score": 0.5}, {"index": 1, "relevance_score": math.nan}]}
# What a server does, the status and what else the error tells.
FINAL = {
    "truncated JSON": (lambda _: Reply(b'{"results": [{"index": 0, "rel'), 200, "Invalid JSON"),
    "NaN": (lambda _: as_json(NAN), 200, "1.relevance_score: .* finite"),
    "50 MB": (lambda _: Reply(itertools.repeat(b" " * 2**20, 50)), 200, "over max_reply_bytes=16"),
    "50 MB announced": (lambda _: Reply(b" " * 50 * 2**20), 200, "over max_reply_bytes"),
    **{
        encoding: (compressed(encoding), 200, f"compressed by '{encoding.lower()}'")
        for encoding in ("gzip", "deflate", "zstd", "br", "identity, gzip", "X-Gzip")
    },
    **{code: (status(code), code, "so it is") for code in (400, 500)},
    **{code: (status(code), code, "check api_key") for code in (401, 403)},
    404: (status(404), 404, "check the path of url"),
    413: (status(413), 413, "a smaller max_documents"),
    422: (status(422), 422, "check dialect, model, extra_body and max_documents"),
    307: (
        status(307, location="http://ann:pass-word@127.0.0.1:9/new?token=tok-en"),
        307,
        "redirect to 127.0.0.1:9/new, which is not followed",
    ),
}


@pytest.mark.parametrize("name", FINAL, ids=str)
def test_what_would_come_out_the_same_is_not_tried_again_there(server, other, name):
    server.always, code, message = FINAL[name]
    with pytest.raises(RemoteError, match=message) as caught:
        RemoteCrossEncoder(url=server.url, api_key=KEY).score([("q", TEXT)] * 2)
    assert (caught.value.status, caught.value.attempts) == (code, 1)
    assert caught.value.url == f"{server.url}/rerank"
    assert not re.search(f"{KEY}|{TEXT}|pass-word|tok-en", shown(caught.value))
    if code in (200, 500):
        cross_encoder = RemoteCrossEncoder(url=(server.url, other.url))
        assert [cross_encoder.score(PAIRS) for _ in range(2)] == [SCORES] * 2
        assert len(server.requests) > 1


@pytest.mark.parametrize(
    "fault",
    [
        *map(status, (503, 502, 504, 429)),
        lambda _: Reply(b'{"results": [', length=500),  # fewer bytes than announced
        lambda _: Reply(b"x", 503, {"content-encoding": "zstd"}),
        status(503, retry_after="soon"),
        status(503, retry_after="Mon, 01 Jan 99999999999999999999 00:00:00 GMT"),
    ],
)
def test_a_server_that_is_busy_or_cuts_off_is_asked_again(server, fault):
    server.faults = [fault, fault]
    assert RemoteCrossEncoder(url=server.url).score(PAIRS) == SCORES
    assert len(server.requests) == 3


def test_no_more_often_than_max_retries(server):
    server.always = status(503)
    with pytest.raises(RemoteError, match="answered 503: so it is, after 3 attempts") as caught:
        RemoteCrossEncoder(url=server.url, max_retries=2).score(PAIRS)
    assert (caught.value.status, caught.value.attempts, len(server.requests)) == (503, 3, 3)


def test_retry_after_is_waited_for(server):
    times = []

    def busy_at_first(request):
        times.append(time.monotonic())
        return server.good(request) if times[1:] else as_json({}, 429, retry_after="1")

    server.always = busy_at_first
    assert RemoteCrossEncoder(url=server.url).score(PAIRS) == SCORES
    assert times[1] - times[0] >= 1.0


@pytest.mark.parametrize("after", ["30", "Fri, 01 Jan 2100 00:00:00 GMT", "9" * 400])
def test_a_retry_after_beyond_the_deadline_is_an_error_at_once(server, after):
    server.always = status(429, retry_after=after)
    with pytest.raises(RemoteError, match=r"429: so it is; it asks to wait \S+ s") as caught:
        RemoteCrossEncoder(url=server.url, timeout=10).score(PAIRS)
    assert (caught.value.status, len(server.requests)) == (429, 1), "the reason, not the deadline"


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
    server.faults = [status(503)]
    with pytest.raises(RemoteError, match=r"within timeout=1 s; before, a server answered 503"):
        RemoteCrossEncoder(url=server.url, timeout=1).score(PAIRS)
    assert all(server.hung_up.acquire(timeout=10) for _ in range(3))


@pytest.mark.parametrize(
    "limits", [{"timeout": 0.4}, {"read_timeout": 0.2, "connect_timeout": 0.2}]
)
def test_a_server_that_dribbles_does_not_hold_on_for_ever(server, limits):
    end = threading.Event()
    server.always = lambda request: Reply(iter(lambda: b"" if end.wait(0.02) else b" ", b""))
    try:
        with pytest.raises(RemoteError, match="within"):
            RemoteCrossEncoder(url=server.url, max_retries=0, **limits).score(PAIRS)
    finally:
        end.set()


def test_who_cannot_be_reached_is_named_unless_another_lives(server):
    dead, unknown = f"http://127.0.0.1:{free_port()}", "http://rerank.invalid"
    for url in (dead, unknown):
        with pytest.raises(RemoteError, match=r"be reached: ConnectError.*, after 2 attempts"):
            RemoteCrossEncoder(url=url, max_retries=1).score(PAIRS)
    assert RemoteCrossEncoder(url=(dead, unknown, server.url)).score(PAIRS) == SCORES


def test_a_server_left_out_is_tried_again_and_taken_back(server, other):
    server.faults = [status(503)]
    cross_encoder = RemoteCrossEncoder(url=(server.url, other.url))
    wait_until(
        lambda: cross_encoder.score(PAIRS) == SCORES and len(server.requests) > 3, "its return"
    )


def test_a_server_that_hangs_until_the_deadline_is_left_out(server, other, monkeypatch):
    monkeypatch.setattr(endpoints, "_FIRST_OUT", 60.0)
    server.always = hang
    cross_encoder = RemoteCrossEncoder(url=(server.url, other.url), timeout=1)
    with pytest.raises(RemoteError, match="within timeout=1 s"):
        cross_encoder.score(PAIRS)
    assert [cross_encoder.score(PAIRS) for _ in range(3)] == [SCORES] * 3
    assert (len(server.requests), len(other.requests)) == (1, 3)


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


@pytest.mark.parametrize("code", [401, 429, 500])
def test_no_key_and_no_text_gets_out(server, caplog, code):
    said = f"Bearer {KEY} in {'x' * 240} {KEY} pass-word YW5uOnBhc3Mtd29yZA== tok-en head-er"
    server.always = lambda request: as_json({"message": said}, code)
    url = server.url.replace("http://", "http://ann:pass-word@") + "?access=tok-en"
    headers = {"X-Key": f"Bearer {KEY}", "X-Other": "head-er"}
    cross_encoder = RemoteCrossEncoder(url=url, headers=headers, max_retries=1)
    with caplog.at_level(logging.DEBUG), pytest.raises(RemoteError) as caught:
        cross_encoder.score([("q", TEXT)])
    everything = [shown(caught.value), caplog.text, repr(cross_encoder), str(cross_encoder)]
    everything += [cross_encoder.model_dump_json(), repr(cross_encoder._connections.client)]
    assert "send_request_headers" in caplog.text, "httpcore logs each request"
    assert server.requests[0].target == "/rerank?access=tok-en"
    for secret in (KEY, KEY[:8], "pass-word", "YW5uOnBh", "tok-en", "head-er", TEXT):
        assert not [text for text in everything if secret in text]


@pytest.mark.parametrize("user", ["token-as-a-user", "ann:passw0rd"])
def test_a_server_that_quotes_a_credential_of_the_url_is_not_quoted(server, user):
    secret = user.removeprefix("ann:")
    server.always = lambda request: as_json({"message": f"wrong key {secret}"}, 401)
    with pytest.raises(RemoteError, match=r"wrong key \*\*\*") as raised:
        RemoteCrossEncoder(url=server.url.replace("://", f"://{user}@")).score(PAIRS)
    assert secret not in shown(raised.value)


async def test_a_retriever_still_finds_when_the_server_is_down():
    documents = [Document("Fish swim in the sea."), Document("The red fish is mine.")]
    down = RemoteCrossEncoder(url=f"http://127.0.0.1:{free_port()}", max_retries=0)
    reranker = Reranker(model=down, on_error="keep_order")
    first_stage = RecordingRetriever(documents=documents)
    retriever = create_rerank_retriever(first_stage, reranker=reranker, k=2, fetch_k=2)
    for found in (retriever.invoke("Whose?"), await retriever.ainvoke("Whose?")):
        assert [one.page_content for one in found] == [one.page_content for one in documents]
