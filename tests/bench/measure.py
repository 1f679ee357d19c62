"""Timing systems side by side: alternating rounds, medians and paired ratios."""

from __future__ import annotations

import random
import statistics
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.bench.systems import SYSTEMS
from tests.bench.worker import SystemFailedError, Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.systems import Pairs, Weights

# What a system is warmed up on before it is timed.
_FIRST_PAIRS = 8


@dataclass(slots=True)
class Timing:
    """What was measured of one system."""

    cold_start_s: float
    """From the start of the interpreter to the first scores, the model being on the disk."""
    seconds: list[float] = field(default_factory=list)
    """One a round and query, in the same order for every system."""
    scores: list[list[float]] = field(default_factory=list)
    """Of each query, in the first round."""
    peak_bytes: int | None = None


def measure(
    keys: list[str], weights: Weights, queries: list[Pairs], rounds: int, say: Callable[[str], None]
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Time systems on queries, each scored in one call; gives figures and errors by key of system.

    Every system waits in its process while the others are timed, so what slows the machine down
    for a while slows all of them down. All models are held in memory at once.
    """
    timings: dict[str, Timing] = {}
    failed: dict[str, str] = {}
    # Shuffled each time, so that no system always runs after the same other one.
    order = random.Random(0)  # noqa: S311  # no secret
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for key in keys:
            say(f"loading {SYSTEMS[key].name}")
            try:
                workers[key] = stack.enter_context(_started(key, weights, queries[0]))
            except SystemFailedError as error:
                failed[key] = str(error)
                continue
            timings[key] = Timing(workers[key].cold_start_s)
        for number in range(rounds):
            for pairs in queries:
                for key in order.sample(list(timings), len(timings)):
                    say(f"round {number + 1} of {rounds}: {SYSTEMS[key].name}")
                    try:
                        seconds, scores = workers[key].score(pairs)
                        timings[key].peak_bytes = workers[key].peak_bytes()
                    except SystemFailedError as error:
                        failed[key] = str(error)
                        del timings[key]
                        continue
                    timings[key].seconds.append(seconds)
                    if number == 0:
                        timings[key].scores.append(scores)
    return timings, failed


def _started(key: str, weights: Weights, pairs: Pairs) -> Worker:
    """Start a system for the second time, the first having filled the caches it starts from."""
    Worker(key, weights, pairs[:_FIRST_PAIRS]).close()
    worker = Worker(key, weights, pairs[:_FIRST_PAIRS])
    try:
        # The first call of full size is the slowest: memory is taken, kernels are chosen.
        worker.score(pairs)
    except BaseException:
        worker.close()
        raise
    return worker


def paired_ratio(slow: Timing, fast: Timing) -> float:
    """How many times as fast `fast` is: the median over rounds and queries of their ratio."""
    pairs = zip(slow.seconds, fast.seconds, strict=True)
    return statistics.median(slower / faster for slower, faster in pairs)


def top_overlap(scores: list[list[float]], reference: list[list[float]], depth: int = 10) -> float:
    """Share of the reference's best `depth` candidates that are among the best of `scores`."""
    shares = []
    for mine, other in zip(scores, reference, strict=True):
        best, expected = _best(mine, depth), _best(other, depth)
        shares.append(len(best & expected) / len(expected))
    return statistics.fmean(shares)


def _best(scores: list[float], depth: int) -> set[int]:
    return set(sorted(range(len(scores)), key=lambda position: -scores[position])[:depth])
