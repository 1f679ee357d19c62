"""Timing systems side by side, each in a process of its own: alternating rounds, paired ratios."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import statistics
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.systems import SYSTEMS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.systems import Pairs, Score, Weights

# What a system is warmed up on before it is timed.
_FIRST_PAIRS = 8
# In a system's process: what it has loaded.
_loaded: dict[str, Score] = {}


class SystemFailedError(Exception):
    """A system could not load or score; the message has its own error."""


@dataclass(slots=True)
class Timing:
    """What was measured of one system."""

    cold_start_s: float
    """From the start of the interpreter to the first scores, the model being on the disk."""
    seconds: list[float] = field(default_factory=list)
    """One a round and query, in the same order for every system; so are `scores`."""
    scores: list[list[float]] = field(default_factory=list)
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
    processes: dict[str, ProcessPoolExecutor] = {}
    # Shuffled each time, so that no system always runs after the same other one.
    order = random.Random(0)  # noqa: S311  # no secret
    with ExitStack() as stack:
        for key in keys:
            say(f"loading {SYSTEMS[key].name}")
            try:
                # The first start fills the caches that the second, which counts, starts from.
                start_process(key, weights, queries[0][:_FIRST_PAIRS])[0].shutdown()
                processes[key], seconds = start_process(key, weights, queries[0][:_FIRST_PAIRS])
                stack.enter_context(processes[key])
                # The first call of full size is the slowest: memory is taken, kernels are chosen.
                ask(processes[key], score, queries[0])
                timings[key] = Timing(seconds)
            except SystemFailedError as error:
                failed[key] = str(error)
        for pairs in queries * rounds:
            for key in order.sample(list(timings), len(timings)):
                say(f"timing {SYSTEMS[key].name}")
                try:
                    seconds, scores, peak = ask(processes[key], score, pairs)
                except SystemFailedError as error:
                    failed[key] = str(error)
                    del timings[key]
                    continue
                timings[key].seconds.append(seconds)
                timings[key].scores.append(scores)
                timings[key].peak_bytes = peak
    return timings, failed


def start_process(key: str, weights: Weights, pairs: Pairs) -> tuple[ProcessPoolExecutor, float]:
    """Load a system in a process, whose imports and memory are its own; and the seconds it took."""
    start = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    process = ProcessPoolExecutor(1, context, initializer=_be_quiet)
    try:
        ask(process, _load, key, weights)
        ask(process, score, pairs)
    except BaseException:
        process.shutdown()
        raise
    return process, time.perf_counter() - start


def ask(process: ProcessPoolExecutor, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a system's process, or raise SystemFailedError."""
    try:
        return process.submit(_called, function, *arguments).result()
    except BrokenProcessPool as error:
        msg = "its process came to a sudden end"
        raise SystemFailedError(msg) from error


def _called(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as error:  # noqa: BLE001  # another library's; as a text, it may not pickle
        msg = f"{type(error).__name__}: {error}"
        raise SystemFailedError(msg) from None


def _load(key: str, weights: Weights) -> None:
    _loaded["system"] = SYSTEMS[key].load(weights)


def score(pairs: Pairs) -> tuple[float, list[float], int | None]:
    """Score pairs in a system's process; gives seconds, scores and the process's peak in bytes."""
    start = time.perf_counter()
    scores = [float(one) for one in _loaded["system"](pairs)]
    seconds = time.perf_counter() - start
    if len(scores) != len(pairs):
        msg = f"it gave {len(scores)} scores for {len(pairs)} pairs"
        raise ValueError(msg)
    # getrusage would count what the parent held when it started this process.
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    peaks = (int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    return seconds, scores, next(peaks, None)


def _be_quiet() -> None:
    """Keep what libraries print, in Python or beneath it, out of the table."""
    os.environ["TQDM_DISABLE"] = "1"
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def paired_ratio(slow: Timing, fast: Timing) -> float:
    """How many times as fast `fast` is: the median over rounds and queries of their ratio."""
    pairs = zip(slow.seconds, fast.seconds, strict=True)
    return statistics.median(slower / faster for slower, faster in pairs)


def top_overlap(scores: list[list[float]], reference: list[list[float]], depth: int = 10) -> float:
    """Share of the reference's best `depth` candidates that are among the best of `scores`."""

    def best(values: list[float]) -> set[int]:
        order = sorted(range(len(values)), key=lambda position: -values[position])
        return set(order[:depth])

    pairs = [(best(mine), best(other)) for mine, other in zip(scores, reference, strict=True)]
    return statistics.fmean(len(mine & other) / len(other) for mine, other in pairs)
