"""Load on the service: many clients at once, every score checked, times and memory noted.

By hand, with the offline model in a server process of its own:

    python -m tests.server.load --backend onnx
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pydoc_data.topics import topics
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import psutil

from langchain_rerank.cli.common import build_cross_encoder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langchain_core.cross_encoders import BaseCrossEncoder

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Question:
    """A request as it is sent, and the scores that must come back."""

    http: bytes
    expected: list[float]


@dataclass(frozen=True)
class LoadReport:
    """What a load came to."""

    errors: list[str]
    largest_difference: float
    seconds: float
    latencies: list[float]
    """Seconds of each request."""

    @property
    def throughput(self) -> float:
        """Requests a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, percent: int) -> float:
        """Latency that so many percent of the requests stay under, in milliseconds."""
        return 1000 * statistics.quantiles(self.latencies, n=100)[percent - 1]

    def __str__(self) -> str:
        latencies = ", ".join(f"p{p} {self.percentile(p):,.0f} ms" for p in (50, 95, 99))
        return (
            f"{len(self.latencies):,} requests in {self.seconds:.1f} s, {len(self.errors)} errors, "
            f"largest difference of a score {self.largest_difference:.1e}; "
            f"{self.throughput:.1f} requests/s; {latencies}"
        )


def make_questions(
    cross_encoder: BaseCrossEncoder, count: int, *, passages: int, words: int, seed: int = 0
) -> list[Question]:
    """Make requests from the Python reference, and score them in process, each alone.

    Args:
        cross_encoder: What the server's scores must equal.
        count: How many different ones.
        passages: Of each request.
        words: Of a passage, on average; each has from half to one and a half times as many.
        seed: Of the choice.
    """
    chosen = random.Random(seed)  # noqa: S311  # no secret
    text = " ".join(topics.values()).split()
    questions = []
    for _ in range(count):
        query = " ".join(_some(text, 6, chosen))
        documents = [
            " ".join(_some(text, chosen.randint(words // 2, words * 3 // 2), chosen))
            for _ in range(passages)
        ]
        expected = cross_encoder.score([(query, document) for document in documents])
        body = json.dumps({"model": "any", "query": query, "documents": documents}).encode()
        head = (
            "POST /v2/rerank HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        questions.append(Question(head.encode() + body, expected))
    return questions


def _some(text: Sequence[str], words: int, chosen: random.Random) -> Sequence[str]:
    start = chosen.randrange(len(text) - words)
    return text[start : start + words]


def run_load(url: str, questions: Sequence[Question], *, clients: int, total: int) -> LoadReport:
    """Send `total` requests by `clients` connections, each one after another."""
    return asyncio.run(_run_load(url, questions, clients, total))


async def _run_load(
    url: str, questions: Sequence[Question], clients: int, total: int
) -> LoadReport:
    waiting = iter(range(total))
    errors: list[str] = []
    latencies: list[float] = []
    differences = [0.0]

    async def client() -> None:
        # Raw HTTP: a full client would take more of the two cores than the server.
        reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
        for number in waiting:
            question = questions[number % len(questions)]
            sent = time.perf_counter()
            writer.write(question.http)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            latencies.append(time.perf_counter() - sent)
            if not head.startswith(b"HTTP/1.1 200 "):
                errors.append(body.decode())
                continue
            differences.append(_difference(body, question.expected))
        writer.close()
        await writer.wait_closed()

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return LoadReport(errors, max(differences), time.perf_counter() - start, latencies)


def _difference(body: bytes, expected: list[float]) -> float:
    """Largest difference of a score; infinite if a document is missing or out of order."""
    results = json.loads(body)["results"]
    scores = [result["relevance_score"] for result in results]
    if sorted(result["index"] for result in results) != list(range(len(expected))):
        return float("inf")
    if scores != sorted(scores, reverse=True):
        return float("inf")
    return max(abs(result["relevance_score"] - expected[result["index"]]) for result in results)


def starvation(url: str, small: Question, large: Question, *, count: int) -> tuple[float, float]:
    """Milliseconds that 99 % of small requests stay under: alone, and behind four large ones."""
    alone = run_load(url, [small], clients=1, total=count).percentile(99)
    ended = threading.Event()

    def ask_large() -> None:
        while not ended.is_set():
            run_load(url, [large], clients=1, total=1)

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(ask_large)
        time.sleep(1)  # so that all four are there; a measurement, no test
        behind = run_load(url, [small], clients=1, total=count).percentile(99)
        ended.set()
    return alone, behind


@contextmanager
def server_process(*options: str) -> Iterator[tuple[str, psutil.Process]]:
    """Run `langchain-rerank serve` and give its URL and process, once its model is loaded."""
    command = [sys.executable, "-m", "langchain_rerank.cli", "serve", "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            url = next(line.split(" on ")[1].strip() for line in process.stderr if " on " in line)
            while httpx.get(f"{url}/ready").status_code != 200:
                time.sleep(0.1)
            yield url, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.stderr.read()


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def main() -> None:
    """Measure what the README says of the service."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="offline")
    parser.add_argument("--backend", default="torch", choices=["torch", "onnx"])
    parser.add_argument("--only", choices=["load", "starvation", "memory"], action="append")
    parser.add_argument("--words", type=int, default=60, help="of a passage of the load")
    parser.add_argument("--requests", type=int, default=2000)
    arguments = parser.parse_args()
    wanted = arguments.only or ["load", "starvation", "memory"]
    options = ["--model", arguments.model, "--backend", arguments.backend]
    cross_encoder = build_cross_encoder(arguments.model, arguments.backend)
    small = make_questions(cross_encoder, 100, passages=5, words=15)
    with server_process(*options) as (url, process):
        if "load" in wanted:
            large = make_questions(cross_encoder, 50, passages=20, words=arguments.words)
            report = run_load(url, large, clients=64, total=arguments.requests)
            _say(f"64 clients, 20 passages of {arguments.words} words: {report}")
        if "starvation" in wanted:
            (large,) = make_questions(cross_encoder, 1, passages=200, words=arguments.words)
            alone, behind = starvation(url, small[0], large, count=60)
            _say(f"p99 of 5 passages: alone {alone:.0f} ms, behind four of 200 {behind:.0f} ms")
            _say(f"ratio {behind / alone:.1f}")
        if "memory" in wanted:
            for total in (1000, 10_000):
                run_load(url, small, clients=64, total=total if total == 1000 else 9000)
                rss = process.memory_info().rss
                _say(f"memory after {total:,} requests: {rss / 2**20:,.0f} MiB")


if __name__ == "__main__":
    main()
