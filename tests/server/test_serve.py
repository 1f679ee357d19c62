"""Servers as a user runs them, in processes of their own: ended, killed, and under load."""

from __future__ import annotations

import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from langchain_rerank import RemoteCrossEncoder, RemoteError
from tests.fakes import WordOverlapCrossEncoder
from tests.server.serving import DEADLINE_S, child, serve
from tests.support import wait_until

pytestmark = pytest.mark.integration


def fake_server(*, gate: Path = Path("/"), grace: float = 30, port: int = 0):
    """Run a server whose passes wait until there is a file."""
    program = f"""
import logging, time
from pathlib import Path
from langchain_rerank.server.app import create_app
from langchain_rerank.server.run import run
from tests.fakes import WordOverlapCrossEncoder
logging.basicConfig(level=logging.INFO)

class Slow(WordOverlapCrossEncoder):
    def score(self, text_pairs):
        print("scoring", flush=True)
        while not Path({str(gate)!r}).exists():
            time.sleep(0.02)
        return super().score(text_pairs)

run(create_app(Slow()), host="127.0.0.1", port={port}, grace_seconds={grace})
"""
    return child("-c", program)


def ask(url: str, **options) -> httpx.Response:
    body = {"query": "How many people?", "documents": ["Museums.", "3,520,031 people."]}
    return httpx.post(f"{url}/v2/rerank", json=body, timeout=DEADLINE_S, **options)


def test_the_command():
    environment = {"LANGCHAIN_RERANK_SERVER_API_KEYS": "one, two"}
    options = ("--model", "offline", "--backend", "onnx", "--served-name", "mini")
    with serve(*options, **environment) as server:
        url = server.url()
        assert httpx.get(f"{url}/ready").json()["model"] == "mini"
        assert ask(url).status_code == 401
        reply = ask(url, headers={"authorization": "Bearer two"}).json()
        assert [result["index"] for result in reply["results"]] == [1, 0]
        server.send_signal(signal.SIGINT)
        assert server.wait(DEADLINE_S) in (0, -signal.SIGINT, 130)
        assert "Traceback" not in server.output
        assert "one" not in re.split(r"\W+", server.output), "a key is in the log"


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_what_was_taken_and_refuses_the_rest(signal_number, tmp_path):
    with fake_server(gate=tmp_path / "gate") as server, ThreadPoolExecutor(8) as pool:
        url = server.url()
        taken = [pool.submit(ask, url)]
        wait_until(lambda: "scoring" in server.output, "the first to be scored")
        taken += [pool.submit(ask, url) for _ in range(2)]
        waiting = re.compile(r"^rerank_waiting_requests 2", re.MULTILINE)
        wait_until(lambda: waiting.search(httpx.get(f"{url}/metrics").text), "the others to wait")
        server.send_signal(signal_number)

        def refused() -> bool:
            try:
                return httpx.get(f"{url}/health").status_code == 503
            except httpx.TransportError:
                return True

        wait_until(refused, "the server to refuse")
        (tmp_path / "gate").touch()
        assert [one.result().status_code for one in taken] == [200] * 3
        assert server.wait(DEADLINE_S) in (0, -signal_number)
        assert "Traceback" not in server.output


def test_the_grace_period_bounds_the_end(tmp_path):
    with fake_server(gate=tmp_path / "never", grace=1) as server, ThreadPoolExecutor(1) as pool:
        taken = pool.submit(ask, server.url())
        wait_until(lambda: "scoring" in server.output, "it to be scored")
        server.send_signal(signal.SIGTERM)
        assert server.wait(DEADLINE_S) in (0, -signal.SIGTERM), "within the deadline, not never"
        assert taken.exception() is not None or taken.result().status_code >= 500


def test_no_answer_is_lost_with_one_of_two_servers_and_one_that_comes_back_is_asked_again():
    pairs = [
        [(f"question {i} on fish", f"passage {i * n} on fish and people {n}") for n in range(5)]
        for i in range(20)
    ]
    expected = list(map(WordOverlapCrossEncoder().score, pairs))
    with fake_server() as process, fake_server() as other:
        remote = RemoteCrossEncoder(url=[process.url(), url := other.url()])

        def call(number: int) -> list[float]:
            if number == 60:
                process.kill()
            return remote.score(pairs[number % 20])

        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(call, range(200))) == expected * 10
        other.kill()
        other.wait()
        alone = RemoteCrossEncoder(url=url, max_retries=0)
        with pytest.raises(RemoteError, match=r"127\.0\.0\.1"):
            alone.score(pairs[0])
    with fake_server(port=int(url.rpartition(":")[2])) as again:
        assert again.url() == url
        assert alone.score(pairs[0]) == remote.score(pairs[0]) == expected[0]
    alone.close()
    remote.close()
