"""Timing systems side by side: alternating rounds, medians and paired ratios."""

from __future__ import annotations

import multiprocessing
import random
import statistics
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from langchain_rerank.bench.hardware import peak_flops
from langchain_rerank.bench.inputs import with_candidates, with_words
from langchain_rerank.bench.worker import Peak, SystemFailedError, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_rerank.bench.inputs import BenchQuery
    from langchain_rerank.bench.systems import System
    from langchain_rerank.bench.tasks import Task

# What a system is warmed up on before it is timed.
_FIRST_PAIRS = 8
CANDIDATES = (10, 30, 100, 300, 1000)
WORDS = (16, 32, 64, 128, 256)
# A point of the growth curves that would take longer than this, by the one before, is left out.
_GROWTH_LIMIT_S = 15.0
_GROWTH_ROUNDS = 3


@dataclass(slots=True)
class Timing:
    """What was measured of one system."""

    system: System
    cold_start_s: float
    """From the start of the interpreter to the first scores, the model being on the disk."""
    seconds: list[float] = field(default_factory=list)
    """One a round and query, in the same order for every system."""
    scores: list[list[float]] = field(default_factory=list)
    """Of each query, in the first round."""
    peak: Peak = field(default_factory=lambda: Peak(None, None))
    by_candidates: dict[int, float] = field(default_factory=dict)
    """Median seconds of three by number of candidates."""
    by_words: dict[int, float] = field(default_factory=dict)
    """Median seconds of three by words of a passage."""

    @property
    def median_s(self) -> float:
        """Median seconds a query."""
        return statistics.median(self.seconds)


@dataclass(frozen=True, slots=True)
class Timings:
    """All that could be measured, and why the rest could not."""

    measured: list[Timing]
    failed: dict[str, str]
    """Error by name of system."""
    peak_flops: dict[str, float]
    """Multiplications and additions a second that the device reached, by dtype: the median of one
    measurement a round."""


def measure(systems: Sequence[System], task: Task, progress: Callable[[str], None]) -> Timings:
    """Time systems on a task's queries, one after another within each round.

    Every system has a process of its own and waits in it while the others are timed, so what slows
    the machine down for a while slows all of them down. One that fails is left out from then on.
    All models are held in memory at once.

    Args:
        systems: What to time.
        task: What they score, each query in one call.
        progress: Is told what is being done.
    """
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        loaded: list[tuple[Worker, Timing]] = []
        for system in systems:
            progress(f"loading {system.name}")
            try:
                worker = stack.enter_context(_started(system, task))
            except SystemFailedError as error:
                failed[system.name] = str(error)
                continue
            loaded.append((worker, Timing(system, worker.cold_start_s)))
        rounds = _Rounds(loaded, failed, progress)
        peaks = _Peaks(stack, task.models.device, {system.dtype for system in systems})
        for number in range(task.size.rounds):
            progress(f"round {number + 1} of {task.size.rounds}: matrix multiplication")
            peaks.measure()
            for query in task.queries:
                rounds.run(query, number, task.size.rounds)
        if task.size.growth:
            rounds.grow(task.queries)
        measured = [timing for _, timing in rounds.loaded]
    return Timings(measured, failed, peaks.medians())


def _started(system: System, task: Task) -> Worker:
    """Start a system for the second time, the first having filled the caches it starts from."""
    first = task.queries[0].pairs[:_FIRST_PAIRS]
    Worker(system, task.models, first).close()
    worker = Worker(system, task.models, first)
    try:
        # The first call of full size is the slowest: memory is taken, kernels are chosen.
        worker.score(task.queries[0].pairs)
    except BaseException:
        worker.close()
        raise
    return worker


class _Peaks:
    """Measures matrix multiplication in a process of its own."""

    def __init__(self, stack: ExitStack, device: str, dtypes: set[str]) -> None:
        pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self._pool = stack.enter_context(pool)
        self._device = device
        self._flops: dict[str, list[float]] = {dtype: [] for dtype in sorted(dtypes)}

    def measure(self) -> None:
        for dtype, measured in self._flops.items():
            flops = self._pool.submit(peak_flops, self._device, dtype).result()
            if flops is not None:
                measured.append(flops)

    def medians(self) -> dict[str, float]:
        return {dtype: statistics.median(all_) for dtype, all_ in self._flops.items() if all_}


class _Rounds:
    """The systems that are still timed, and how they are."""

    def __init__(
        self,
        loaded: list[tuple[Worker, Timing]],
        failed: dict[str, str],
        progress: Callable[[str], None],
    ) -> None:
        self.loaded = loaded
        self._failed = failed
        self._progress = progress
        # Shuffled each time, so that no system always runs after the same other one.
        self._order = random.Random(0)  # noqa: S311  # no secret

    def run(self, query: BenchQuery, number: int, rounds: int) -> None:
        """Time each system once on a query; the scores of the first round are kept."""
        for worker, timing in self._order.sample(self.loaded, len(self.loaded)):
            self._progress(f"round {number + 1} of {rounds}: {timing.system.name}")
            try:
                seconds, scores = worker.score(query.pairs)
                timing.peak = worker.peak()
            except SystemFailedError as error:
                self._failed[timing.system.name] = str(error)
                self.loaded = [one for one in self.loaded if one[0] is not worker]
                worker.close()
                continue
            timing.seconds.append(seconds)
            if number == 0:
                timing.scores.append(scores)

    def grow(self, queries: list[BenchQuery]) -> None:
        """Time growing numbers of candidates and lengths of passages, while that is quick."""
        for count in CANDIDATES:
            self._point(with_candidates(queries, count), count, "by_candidates")
        for words in WORDS:
            self._point(with_words(queries, words), words, "by_words")

    def _point(self, query: BenchQuery, size: int, curve: str) -> None:
        """Add a point to a curve of every system; one that fails keeps what it has."""
        times: dict[str, list[float]] = {}
        for _ in range(_GROWTH_ROUNDS):
            for worker, timing in self._order.sample(self.loaded, len(self.loaded)):
                name = timing.system.name
                known: dict[int, float] = getattr(timing, curve)
                last = max(known, default=size)
                slow = known.get(last, 0) * size / last > _GROWTH_LIMIT_S
                if slow or f"{name}, growth" in self._failed:
                    continue
                self._progress(f"{size} {curve.removeprefix('by_')}: {name}")
                try:
                    times.setdefault(name, []).append(worker.score(query.pairs)[0])
                except SystemFailedError as error:
                    self._failed[f"{name}, growth"] = str(error)
        for _, timing in self.loaded:
            if len(seconds := times.get(timing.system.name, [])) == _GROWTH_ROUNDS:
                getattr(timing, curve)[size] = statistics.median(seconds)


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
