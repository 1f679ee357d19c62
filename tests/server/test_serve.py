"""`langchain-rerank serve` as a user runs it, in processes of its own."""

from __future__ import annotations

import re
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.server.serving import DEADLINE_S, child, serve
from tests.support import wait_until

pytestmark = pytest.mark.integration

SLOW_SERVER = """
import logging, sys, time
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_rerank.server.app import create_app
from langchain_rerank.server.run import run
logging.basicConfig(level=logging.INFO)

class Slow(BaseCrossEncoder):
    def score(self, text_pairs):
        print("scoring", flush=True)
        time.sleep(float(sys.argv[1]))
        return [1.0] * len(text_pairs)

run(create_app(Slow(), joint_scoring=False), host="127.0.0.1", port=0,
    grace_seconds=float(sys.argv[2]))
"""


def ask(url: str, **options) -> httpx.Response:
    body = {"query": "How many people?", "documents": ["Museums.", "3,520,031 people."]}
    return httpx.post(f"{url}/v2/rerank", json=body, timeout=DEADLINE_S, **options)


def test_main_job(in_process):
    environment = {"LANGCHAIN_RERANK_SERVER_API_KEYS": "one, two"}
    with serve("--model", "offline", "--served-name", "mini", **environment) as server:
        url = server.url("/ready")
        assert httpx.get(f"{url}/ready").json()["model"] == "mini"
        assert ask(url).status_code == 401
        results = ask(url, headers={"authorization": "Bearer two"}).json()["results"]
        pairs = [("How many people?", "Museums."), ("How many people?", "3,520,031 people.")]
        expected = dict(enumerate(in_process.score(pairs)))
        assert {result["index"]: result["relevance_score"] for result in results} == pytest.approx(
            expected, abs=1e-6
        )
        server.send_signal(signal.SIGINT)
        assert server.wait(DEADLINE_S) in (0, -signal.SIGINT, 130)
        assert "Traceback" not in server.output
        assert "one" not in re.split(r"\W+", server.output), "a key is in the log"


def test_requests_wait_while_the_model_loads_and_the_onnx_backend_answers():
    with serve("--model", "offline", "--backend", "onnx") as server:
        reply = ask(server.url())
        assert [result["index"] for result in reply.json()["results"]] == [1, 0]


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_what_was_taken_and_refuses_the_rest(signal_number):
    with child("-c", SLOW_SERVER, "0.5", "30") as server, ThreadPoolExecutor(8) as pool:
        url = server.url()
        taken = [pool.submit(ask, url) for _ in range(3)]
        wait_until(lambda: "scoring" in server.output, "the first to be scored")
        waiting = re.compile(r"^rerank_waiting_requests 2", re.MULTILINE)
        wait_until(lambda: waiting.search(httpx.get(f"{url}/metrics").text), "the others to wait")
        server.send_signal(signal_number)

        def refused() -> bool:
            try:
                return httpx.get(f"{url}/health").status_code == 503
            except httpx.TransportError:
                return True

        wait_until(refused, "the server to refuse")
        assert [one.result().status_code for one in taken] == [200] * 3
        assert server.wait(DEADLINE_S) in (0, -signal_number)
        assert "Traceback" not in server.output


def test_the_grace_period_bounds_the_end():
    with child("-c", SLOW_SERVER, "600", "1") as server, ThreadPoolExecutor(1) as pool:
        taken = pool.submit(ask, server.url())
        wait_until(lambda: "scoring" in server.output, "it to be scored")
        server.send_signal(signal.SIGTERM)
        assert server.wait(DEADLINE_S) in (0, -signal.SIGTERM), "within the deadline, not in 600 s"
        assert taken.exception() is not None or taken.result().status_code >= 500


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--model", "offline", "--port", "{port}"], "Address already in use"),
        (["--api-key-file", "{file}"], "expected an API key a line"),
    ],
)
def test_a_server_that_can_not_start_says_why_in_one_line(options, said, tmp_path):
    file = tmp_path / "keys"
    file.write_text("\n \n", encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with serve(*(option.format(port=port, file=file) for option in options)) as server:
            assert server.wait(DEADLINE_S) == 2, server.output
            assert "Traceback" not in server.output
            (line,) = re.findall(r"^error: .*", server.output, re.MULTILINE)
            assert server.output.strip().endswith(line)
            assert said in line
