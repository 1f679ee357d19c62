"""Timing systems side by side: alternating rounds, medians and paired ratios."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

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
    """Seconds by number of candidates."""
    by_words: dict[int, float] = field(default_factory=dict)
    """Seconds by words of a passage."""

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


def measure(systems: Sequence[System], task: Task, progress: Callable[[str], None]) -> Timings:
    """Time systems on a task's queries, one after another within each round.

    Every system has a process of its own and waits in it while the others are timed, so what slows
    the machine down for a while slows all of them down. One that fails is left out from then on.

    Args:
        systems: Whom to time.
        task: What they score, each query in one call.
        progress: Is told what is being done.
    """
    models, queries = task.models, task.queries
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        entrants: list[tuple[Worker, Timing]] = []
        for system in systems:
            progress(f"loading {system.name}")
            first = queries[0].pairs[:_FIRST_PAIRS]
            try:
                if system.prepares:
                    Worker(system, models, first).close()
                worker = stack.enter_context(Worker(system, models, first))
            except SystemFailedError as error:
                failed[system.name] = str(error)
                continue
            entrants.append((worker, Timing(system, worker.cold_start_s)))
        race = _Race(entrants, failed, progress)
        for number in range(task.size.rounds):
            for position, query in enumerate(queries):
                # Rotated, so that nobody always runs after the same neighbour.
                race.run(query, rotation=number * len(queries) + position, first=number == 0)
        race.note_peaks()
        if task.size.growth:
            race.grow(queries)
    return Timings([timing for _, timing in race.entrants], failed)


class _Race:
    """The systems that are still timed."""

    def __init__(
        self,
        entrants: list[tuple[Worker, Timing]],
        failed: dict[str, str],
        progress: Callable[[str], None],
    ) -> None:
        self.entrants = entrants
        self._failed = failed
        self._progress = progress

    def run(self, query: BenchQuery, *, rotation: int, first: bool) -> None:
        """Time each system once on a query; in the first round its scores are kept."""
        turn = rotation % max(1, len(self.entrants))
        for worker, timing in [*self.entrants[turn:], *self.entrants[:turn]]:
            self._progress(f"round {rotation}: {timing.system.name}")
            try:
                seconds, scores = worker.score(query.pairs)
            except SystemFailedError as error:
                self._drop(worker, timing, error)
                continue
            timing.seconds.append(seconds)
            if first:
                timing.scores.append(scores)

    def note_peaks(self) -> None:
        """Ask every process for its peak of memory."""
        for worker, timing in list(self.entrants):
            try:
                timing.peak = worker.peak()
            except SystemFailedError as error:
                self._drop(worker, timing, error)

    def grow(self, queries: list[BenchQuery]) -> None:
        """Time growing numbers of candidates and lengths of passages, while that is quick."""
        for count in CANDIDATES:
            self._point(with_candidates(queries, count), count, "by_candidates")
        for words in WORDS:
            self._point(with_words(queries, words), words, "by_words")

    def _point(self, query: BenchQuery, size: int, curve: str) -> None:
        for worker, timing in list(self.entrants):
            seconds: dict[int, float] = getattr(timing, curve)
            last = max(seconds, default=None)
            if last is not None and seconds[last] * size / last > _GROWTH_LIMIT_S:
                continue
            self._progress(f"{size} {curve.removeprefix('by_')}: {timing.system.name}")
            try:
                seconds[size] = min(worker.score(query.pairs)[0] for _ in range(2))
            except SystemFailedError as error:
                self._drop(worker, timing, error)

    def _drop(self, worker: Worker, timing: Timing, error: SystemFailedError) -> None:
        self._failed[timing.system.name] = str(error)
        self.entrants = [entrant for entrant in self.entrants if entrant[0] is not worker]


def paired_ratio(slow: Timing, fast: Timing) -> float:
    """How many times as fast `fast` is: the median over rounds and queries of their ratio."""
    pairs = zip(slow.seconds, fast.seconds, strict=True)
    return statistics.median(mine / other for mine, other in pairs)


def top_overlap(scores: list[list[float]], reference: list[list[float]], depth: int = 10) -> float:
    """Share of the reference's best `depth` candidates that are among the best of `scores`."""
    shares = []
    for mine, other in zip(scores, reference, strict=True):
        best, expected = _best(mine, depth), _best(other, depth)
        shares.append(len(best & expected) / len(expected))
    return statistics.fmean(shares)


def _best(scores: list[float], depth: int) -> set[int]:
    return set(sorted(range(len(scores)), key=lambda position: -scores[position])[:depth])
