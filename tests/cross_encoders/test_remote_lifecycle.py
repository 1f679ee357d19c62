"""Connections and the background loop: opened, shared, cancelled, forked, collected, closed."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from opentelemetry import trace

from langchain_rerank import RemoteCrossEncoder
from langchain_rerank.cross_encoders import processes
from tests.stand_ins import PAIRS, SCORES, as_json, hang
from tests.support import wait_until


async def test_cancelling_frees_the_connection(server):
    server.faults = [hang] * 2
    cross_encoder = RemoteCrossEncoder(url=server.url)
    task = asyncio.create_task(cross_encoder.ascore(PAIRS))
    await asyncio.to_thread(wait_until, lambda: server.requests, "a request")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await cross_encoder.ascore(PAIRS)
    for _ in range(2):
        assert await asyncio.to_thread(server.hung_up.acquire, timeout=10)
    client = cross_encoder._connections.client
    await asyncio.to_thread(wait_until, lambda: client.users == 1, "their end")
    assert client.endpoints[0].failures == 0, "the server did nothing wrong"
    assert await cross_encoder.ascore(PAIRS) == SCORES


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="POSIX only")
def test_ctrl_c_ends_a_score_and_its_requests(server):
    def interrupt(*_):
        raise KeyboardInterrupt

    def hang_and_interrupt(request):
        main = threading.main_thread().ident
        wait_until(lambda: sys._current_frames()[main].f_code.co_name == "wait", "it to wait")
        signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    server.faults = [hang_and_interrupt]
    try:
        with pytest.raises(KeyboardInterrupt):
            RemoteCrossEncoder(url=server.url).score(PAIRS)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert server.hung_up.acquire(timeout=10)


def test_a_connection_is_kept_for_the_next_call_until_closed(server):
    cross_encoder = RemoteCrossEncoder(url=server.url)
    for _ in range(3):
        cross_encoder.score(PAIRS)
        assert len(server.sockets) == 1
    assert [thread.name for thread in threading.enumerate()].count("langchain-rerank") == 1
    closed = threading.Event()

    def answer_late(request):
        assert closed.wait(10)
        return server.good(request)

    server.faults = [answer_late]
    with ThreadPoolExecutor() as pool:
        job = pool.submit(cross_encoder.score, PAIRS)
        wait_until(lambda: len(server.requests) > 3, "a request")
        cross_encoder.close()
        closed.set()
        assert job.result() == SCORES, "closing waits for what is running"
    wait_until(lambda: not server.sockets, "the end of the connections")
    assert cross_encoder.score(PAIRS) == SCORES
    # The collector may close it in a thread that holds the lock.
    with processes._loops_lock.get(), ThreadPoolExecutor() as pool:
        pool.submit(cross_encoder.close).result(10)


def test_an_object_that_is_collected_gives_its_connections_back(server):
    cross_encoder = RemoteCrossEncoder(url=server.url)
    cross_encoder.score(PAIRS)
    client = weakref.ref(cross_encoder._connections.client)
    assert len(server.sockets) == 1
    copy = cross_encoder.with_instruction("x")
    del cross_encoder
    gc.collect()
    assert copy.score(PAIRS) == SCORES
    assert len(server.sockets) == 1, "the copy keeps them"
    del copy
    gc.collect()
    wait_until(lambda: not server.sockets, "the end of the connections")
    wait_until(lambda: gc.collect() >= 0 and client() is None, "the client's end")


EXIT = """
import atexit, sys, threading

@atexit.register  # the first of all, so that it runs last
def check():
    print([thread.name for thread in threading.enumerate() if "rerank" in thread.name])

from langchain_rerank import RemoteCrossEncoder
kept = RemoteCrossEncoder(url=sys.argv[1])
print(kept.score([("red fish", "red")]))
dropped = RemoteCrossEncoder(url=sys.argv[1])
dropped.score([("red fish", "red")])
del dropped
hanging = RemoteCrossEncoder(url=sys.argv[1] + "/hang")
def score():
    try:
        hanging.score([("red fish", "red")])
    except BaseException:
        pass
threading.Thread(target=score, daemon=True).start()
while not (hanging._connections.client and hanging._connections.client.endpoints[0].turn):
    pass
"""


def test_leaving_python_closes_everything_without_a_warning(server):
    server.always = lambda request: None if request.target == "/hang" else server.good(request)
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", EXIT, server.url],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "[0.5]\n[]\n"
    assert done.stderr == ""
    wait_until(lambda: not server.sockets, "the end of the connections")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX only")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_children_forked_while_others_score_score_as_well(server):
    cross_encoder = RemoteCrossEncoder(url=server.url)
    assert cross_encoder.score(PAIRS) == SCORES
    end = threading.Event()

    def work(_: int) -> None:
        while not end.is_set():
            assert cross_encoder.score(PAIRS) == SCORES
            cross_encoder.close()

    with ThreadPoolExecutor(2) as pool:
        busy = pool.map(work, range(2))
        try:
            for _ in range(5):
                child = os.fork()
                if not child:
                    # Killed by the alarm where it hangs.
                    signal.alarm(30)
                    try:
                        good = cross_encoder.score(PAIRS) == SCORES
                        cross_encoder.close()
                    except BaseException:  # noqa: BLE001  # it must not run the rest of the tests
                        good = False
                    os._exit(0 if good else 1)
                _, status = os.waitpid(child, 0)
                assert os.waitstatus_to_exitcode(status) == 0
        finally:
            end.set()
        list(busy)
    assert cross_encoder.score(PAIRS) == SCORES
    assert processes.background_loop().is_running()


async def test_each_request_is_a_span_under_the_callers(server, spans, monkeypatch):
    server.faults = [lambda request: as_json({"message": "later"}, 503)]
    cross_encoder = RemoteCrossEncoder(url=f"{server.url}?token=secret", model="m", api_key="key")
    with trace.get_tracer("test").start_as_current_span("caller") as caller:
        assert await cross_encoder.ascore(PAIRS) == SCORES
    with trace.get_tracer("test").start_as_current_span("caller"):
        assert cross_encoder.score(PAIRS) == SCORES
    first, second, _, third, _ = spans.get_finished_spans()
    assert [span.kind for span in (first, second, third)] == [trace.SpanKind.CLIENT] * 3
    assert first.attributes == {
        "server.address": "127.0.0.1",
        "url.path": "/rerank",
        "gen_ai.request.model": "m",
        "langchain_rerank.documents": 2,
        "langchain_rerank.attempt": 1,
        "http.response.status_code": 503,
        "error.type": "AttemptError",
    }
    # What a server says, and what httpx quotes of a request, stays out.
    assert (first.status.status_code, first.status.description, first.events) == (
        trace.StatusCode.ERROR,
        "AttemptError",
        (),
    )
    assert second.attributes["langchain_rerank.attempt"] == 2
    assert second.attributes["http.response.status_code"] == 200
    assert second.parent.span_id == caller.get_span_context().span_id
    assert third.parent.span_id != second.parent.span_id
    sent = server.requests[1].headers["traceparent"].split("-")
    assert sent[1:3] == [f"{second.context.trace_id:032x}", f"{second.context.span_id:016x}"]
    everything = "".join(span.to_json() for span in spans.get_finished_spans())
    assert all(text not in everything for text in ("secret", "Bearer", "red fish"))
