"""`langchain-rerank serve` as a user runs it, in processes of its own."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.server.serving import DEADLINE_S
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SLOW_SERVER = """
import sys, time
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_rerank.server.app import create_app
from langchain_rerank.server.run import run
import logging
logging.basicConfig(level=logging.INFO)

class Slow(BaseCrossEncoder):
    def score(self, text_pairs):
        print("scoring", flush=True)
        time.sleep(float(sys.argv[1]))
        return [1.0] * len(text_pairs)

run(create_app(Slow(), joint_scoring=False), host="127.0.0.1", port=0,
    grace_seconds=float(sys.argv[2]))
"""


class Child:
    """A server in a process of its own, with what it wrote."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "COLUMNS": "200", **environment},
        )
        self.lines: list[str] = []
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def url(self) -> str:
        found = wait_until(
            lambda: re.search(r"on (http://\S+)", self.output) or self.process.poll() is not None,
            "the server to say where it listens",
        )
        assert found is not True, self.output
        return found[1]

    def wait(self) -> int:
        status = self.process.wait(DEADLINE_S)
        self.reader.join(DEADLINE_S)
        return status


@contextmanager
def child(*command: str, **environment: str) -> Iterator[Child]:
    running = Child([sys.executable, *command], environment)
    try:
        yield running
    finally:
        running.process.kill()
        running.wait()
        running.process.stdout.close()


def serve(*options: str, **environment: str):
    return child("-m", "langchain_rerank.cli", "serve", "--port", "0", *options, **environment)


def ask(url: str, **options) -> httpx.Response:
    body = {"query": "How many people?", "documents": ["Museums.", "3,520,031 people."]}
    return httpx.post(f"{url}/v2/rerank", json=body, timeout=DEADLINE_S, **options)


@pytest.mark.integration
def test_main_job(in_process):
    environment = {"LANGCHAIN_RERANK_SERVER_API_KEYS": "one, two"}
    with serve("--model", "offline", "--served-name", "mini", **environment) as server:
        url = server.url()
        assert httpx.get(f"{url}/health").status_code == 200, "alive while the model loads"
        wait_until(lambda: httpx.get(f"{url}/ready").status_code == 200, "the model to load")
        assert httpx.get(f"{url}/ready").json()["model"] == "mini"
        assert ask(url).status_code == 401
        results = ask(url, headers={"authorization": "Bearer two"}).json()["results"]
        pairs = [("How many people?", "Museums."), ("How many people?", "3,520,031 people.")]
        expected = in_process.score(pairs)
        assert {result["index"]: result["relevance_score"] for result in results} == pytest.approx(
            dict(enumerate(expected)), abs=1e-6
        )
        server.process.send_signal(signal.SIGINT)
        assert server.wait() in (0, -signal.SIGINT, 130)
        assert "Traceback" not in server.output
        assert "one" not in re.split(r"\W+", server.output), "a key is in the log"


@pytest.mark.integration
def test_requests_wait_while_the_model_loads_and_the_onnx_backend_answers():
    with serve("--model", "offline", "--backend", "onnx") as server:
        reply = ask(server.url())
        assert [result["index"] for result in reply.json()["results"]] == [1, 0]


@pytest.mark.integration
@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_what_was_taken_and_refuses_the_rest(signal_number):
    with child("-c", SLOW_SERVER, "0.5", "30") as server, ThreadPoolExecutor(8) as pool:
        url = server.url()
        taken = [pool.submit(ask, url) for _ in range(3)]
        wait_until(lambda: "scoring" in server.output, "the first to be scored")
        waiting = re.compile(r"^rerank_waiting_requests 2", re.MULTILINE)
        wait_until(lambda: waiting.search(httpx.get(f"{url}/metrics").text), "the others to wait")
        server.process.send_signal(signal_number)

        def refused():
            try:
                return httpx.get(f"{url}/health").status_code == 503
            except httpx.TransportError:
                return True

        wait_until(refused, "the server to refuse")
        assert [one.result().status_code for one in taken] == [200] * 3
        assert server.wait() in (0, -signal_number)
        assert "Traceback" not in server.output


@pytest.mark.integration
def test_the_grace_period_bounds_the_end():
    with child("-c", SLOW_SERVER, "600", "1") as server, ThreadPoolExecutor(1) as pool:
        url = server.url()
        taken = pool.submit(ask, url)
        wait_until(lambda: "scoring" in server.output, "it to be scored")
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() in (0, -signal.SIGTERM), "within the deadline, not in 600 s"
        assert taken.exception() is not None or taken.result().status_code >= 500


def said_at_the_end(*options: str, **environment: str) -> str:
    """What a server that can't start says in its only error line."""
    with serve(*options, **environment) as server:
        assert server.wait() == 2, server.output
        assert "Traceback" not in server.output
        (line,) = re.findall(r"^error: .*", server.output, re.MULTILINE)
        assert server.output.strip().endswith(line)
        return line


@pytest.mark.integration
def test_a_model_that_can_not_be_loaded_ends_in_one_line():
    assert "/nowhere/at/all" in said_at_the_end("--model", "/nowhere/at/all")


@pytest.mark.integration
def test_a_port_that_is_taken_ends_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = said_at_the_end("--model", "offline", "--port", str(port))
    assert f"could not listen on 127.0.0.1, port {port}" in said


@pytest.mark.integration
def test_a_key_file_without_a_key_ends_in_one_line(tmp_path: Path):
    file = tmp_path / "keys"
    file.write_text("\n \n", encoding="utf-8")
    assert "expected an API key a line" in said_at_the_end("--api-key-file", str(file))
