"""Threads and coroutines on one model score what one after another would."""

from __future__ import annotations

import asyncio
import itertools
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import psutil
import pytest

from langchain_rerank import TorchCrossEncoder
from langchain_rerank.cross_encoders import heads

# Threads that each start torch's own threads only wait for one another on a small machine.
pytestmark = pytest.mark.usefixtures("one_torch_thread")

THREADS = 16
COROUTINES = 64
CALLS = 40

SENTENCE = "berlin has a population of many people and museums that nobody counts on sundays"
WORDS = SENTENCE.split()


def some_batches(count: int) -> list[list[tuple[str, str]]]:
    """Batches of one to four short pairs of assorted lengths."""
    generator = random.Random(7)  # noqa: S311  # the texts are no secret

    def text(most: int) -> str:
        return " ".join(generator.choices(WORDS, k=generator.randint(0, most)))

    return [[(text(8), text(24)) for _ in range(generator.randint(1, 4))] for _ in range(count)]


BATCHES = some_batches(24)


def work_of(worker: int) -> list[int]:
    """The batches that a worker scores, in an order of its own."""
    return random.Random(worker).choices(range(len(BATCHES)), k=CALLS)  # noqa: S311  # no secret


def test_threads_score_as_one_after_another(tiny):
    expected = [tiny.score(batch) for batch in BATCHES]
    assert len({score for scores in expected for score in scores}) > 40, "all alike prove nothing"
    start = Barrier(THREADS)

    def work(worker: int) -> None:
        start.wait()
        for number in work_of(worker):
            scores = tiny.score(BATCHES[number])
            assert scores == pytest.approx(expected[number], abs=1e-5)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))


@pytest.mark.parametrize("long_documents", ["first", "max"])
async def test_coroutines_score_as_one_after_another(tiny_checkpoint, long_documents):
    model = TorchCrossEncoder(
        model=tiny_checkpoint, normalize=False, max_length=24, long_documents=long_documents
    )
    expected = [model.score(batch) for batch in BATCHES]

    async def work(worker: int) -> None:
        for number in work_of(worker):
            scores = await asyncio.to_thread(model.score, BATCHES[number])
            assert scores == pytest.approx(expected[number], abs=1e-5)

    await asyncio.gather(*(work(worker) for worker in range(COROUTINES)))


def test_threads_that_race_to_the_first_score_load_once(tiny_checkpoint, tmp_path, monkeypatch):
    # A copy, as the weights of the original may be held by another test's model.
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    loads = []
    load = heads.build

    def counting(*args, **kwargs):
        loads.append(args)
        return load(*args, **kwargs)

    monkeypatch.setattr(heads, "build", counting)
    model = TorchCrossEncoder(model=folder)
    start = Barrier(THREADS)

    def work(worker: int) -> list[float]:
        start.wait()
        if worker % 2:
            model.load()
        return model.score(BATCHES[0])

    with ThreadPoolExecutor(THREADS) as pool:
        scores = list(pool.map(work, range(THREADS)))
    assert len(loads) == 1
    assert all(score == pytest.approx(scores[0], abs=1e-6) for score in scores)


def test_closing_while_others_score_disturbs_nobody(tiny):
    expected = [tiny.score(batch) for batch in BATCHES]

    def work(worker: int) -> None:
        for number in work_of(worker)[:10]:
            if number % 6 == 0:
                tiny.close()
            assert tiny.score(BATCHES[number]) == pytest.approx(expected[number], abs=1e-5)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


@pytest.mark.integration
def test_memory_stays_flat_over_many_calls(tiny):
    pairs = [
        (query, passage * 2) for query, passage in list(itertools.chain(*some_batches(20)))[:20]
    ]
    process = psutil.Process()
    for _ in range(100):
        tiny.score(pairs)
    before = process.memory_info().rss
    for _ in range(1900):
        tiny.score(pairs)
    assert process.memory_info().rss - before < 20 * 2**20
