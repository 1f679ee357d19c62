"""Load on the service: many clients at once, every score checked, times and memory noted.

By hand, with the offline model in a server process of its own:

    python -m tests.server.load --backend onnx
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import typer

from langchain_rerank.cli.common import build_cross_encoder
from tests.server.serving import serve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.cross_encoders import BaseCrossEncoder


class Question(NamedTuple):
    """A request as it is sent, and the scores that must come back."""

    http: bytes
    expected: list[float]


class LoadReport(NamedTuple):
    """What a load came to; latencies in seconds."""

    errors: list[str]
    largest_difference: float
    seconds: float
    latencies: list[float]

    def percentile(self, percent: int) -> float:
        """Latency that so many percent of the requests stay under, in milliseconds."""
        return 1000 * statistics.quantiles(self.latencies, n=100)[percent - 1]

    def __str__(self) -> str:
        count = len(self.latencies)
        latencies = ", ".join(f"p{p} {self.percentile(p):,.0f} ms" for p in (50, 95, 99))
        return (
            f"{count:,} requests, {len(self.errors)} errors, largest difference of a score "
            f"{self.largest_difference:.1e}; {count / self.seconds:.1f} requests/s; {latencies}"
        )


def make_questions(
    cross_encoder: BaseCrossEncoder, count: int, *, passages: int, words: int
) -> list[Question]:
    """Make requests from the Python reference, and score them in process, each alone.

    Passages have from half to one and a half times as many words.
    """
    chosen = random.Random(0)  # noqa: S311  # no secret
    text = " ".join(topics.values()).split()

    def some(length: int) -> str:
        start = chosen.randrange(len(text) - length)
        return " ".join(text[start : start + length])

    questions = []
    for _ in range(count):
        query = some(6)
        documents = [some(chosen.randint(words // 2, words * 3 // 2)) for _ in range(passages)]
        expected = cross_encoder.score([(query, document) for document in documents])
        body = json.dumps({"model": "any", "query": query, "documents": documents}).encode()
        head = (
            "POST /v2/rerank HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        questions.append(Question(head.encode() + body, expected))
    return questions


def run_load(url: str, questions: Sequence[Question], *, clients: int, total: int) -> LoadReport:
    """Send `total` requests by `clients` connections, each one after another."""
    numbers = iter(range(total))
    errors: list[str] = []
    latencies: list[float] = []
    differences = [0.0]

    async def client() -> None:
        # Raw HTTP: a full client would take more of the two cores than the server.
        reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
        for number in numbers:
            question = questions[number % len(questions)]
            sent = time.perf_counter()
            writer.write(question.http)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            latencies.append(time.perf_counter() - sent)
            if head.startswith(b"HTTP/1.1 200 "):
                differences.append(_difference(body, question.expected))
            else:
                errors.append(body.decode())
        writer.close()
        await writer.wait_closed()

    async def every() -> None:
        await asyncio.gather(*(client() for _ in range(clients)))

    start = time.perf_counter()
    asyncio.run(every())
    return LoadReport(errors, max(differences), time.perf_counter() - start, latencies)


def _difference(body: bytes, expected: list[float]) -> float:
    """Largest difference of a score; infinite if a document is missing or out of order."""
    results = json.loads(body)["results"]
    scores = [result["relevance_score"] for result in results]
    complete = sorted(result["index"] for result in results) == list(range(len(expected)))
    if not complete or scores != sorted(scores, reverse=True):
        return float("inf")
    return max(abs(result["relevance_score"] - expected[result["index"]]) for result in results)


def main(model: str = "offline", backend: str = "torch", requests: int = 2000) -> None:
    """Measure what the README says of the service, in a server process of its own."""
    cross_encoder = build_cross_encoder(model, backend)
    small = make_questions(cross_encoder, 100, passages=5, words=15)
    medium = make_questions(cross_encoder, 50, passages=20, words=60)
    (large,) = make_questions(cross_encoder, 1, passages=200, words=60)
    ended = threading.Event()

    def ask_large(url: str) -> None:
        while not ended.is_set():
            run_load(url, [large], clients=1, total=1)

    with serve("--model", model, "--backend", backend) as process, ThreadPoolExecutor(4) as pool:
        url = process.url()
        print("64 clients, 20 passages of 60 words:")  # noqa: T201
        print(run_load(url, medium, clients=64, total=requests))  # noqa: T201
        alone = run_load(url, small[:1], clients=1, total=60)
        asked = [pool.submit(ask_large, url) for _ in range(4)]
        time.sleep(1)  # so that all four are there; a measurement, no test
        behind = run_load(url, small[:1], clients=1, total=60)
        ended.set()
        wait(asked)
        print(f"5 passages alone: {alone}\nbehind four of 200: {behind}")  # noqa: T201
        for more in (1000, 9000):
            run_load(url, small, clients=64, total=more)
            rss = process.memory_info().rss / 2**20
            print(f"memory after {more:,} more requests: {rss:,.0f} MiB")  # noqa: T201


if __name__ == "__main__":
    typer.run(main)
