"""A system in a process of its own, so that imports, threads and memory are its own as well."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Self

from tests.bench.systems import SYSTEMS, Pairs, Score, Weights

# A thousand long pairs on a slow machine take minutes; what takes this long hangs.
_TIMEOUT_S = 3600
# In the process: the system that it has loaded.
_loaded: dict[str, Score] = {}


class SystemFailedError(Exception):
    """A system could not load or score; the message has its own error."""


class Worker:
    """A system that has loaded its model and waits for pairs."""

    def __init__(self, key: str, weights: Weights, first: Pairs) -> None:
        """Start the process, load the model and score `first`, or raise SystemFailedError."""
        context = multiprocessing.get_context("spawn")
        start = time.perf_counter()
        self._pool = ProcessPoolExecutor(1, context, initializer=_be_quiet)
        try:
            self._ask(_load, key, weights)
            self.score(first)
        except BaseException:
            self.close()
            raise
        self.cold_start_s = time.perf_counter() - start
        """Seconds from the start of the interpreter to the first scores."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def score(self, pairs: Pairs) -> tuple[float, list[float]]:
        """Return the seconds that scoring took in the process, and a score for each pair."""
        seconds, scores = self._ask(_score, pairs)
        if len(scores) != len(pairs):
            msg = f"it gave {len(scores)} scores for {len(pairs)} pairs"
            raise SystemFailedError(msg)
        return seconds, scores

    def peak_bytes(self) -> int | None:
        """Return the most memory that the process has held so far, where Linux tells it."""
        return self._ask(_peak_bytes)

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()

    def _ask(self, function: Any, *arguments: Any) -> Any:
        try:
            answer = self._pool.submit(function, *arguments).result(_TIMEOUT_S)
        except BrokenProcessPool as error:
            msg = "its process came to a sudden end"
            raise SystemFailedError(msg) from error
        except TimeoutError as error:
            for process in self._pool._processes.values():
                process.kill()
            msg = f"it gave no answer in {_TIMEOUT_S} s"
            raise SystemFailedError(msg) from error
        if isinstance(answer, SystemFailedError):
            raise answer
        return answer


def _load(key: str, weights: Weights) -> SystemFailedError | None:
    try:
        _loaded["system"] = SYSTEMS[key].load(weights)
    except Exception as error:  # noqa: BLE001  # another library's; the bench goes on without it
        return _failed(error)
    return None


def _score(pairs: Pairs) -> tuple[float, list[float]] | SystemFailedError:
    try:
        start = time.perf_counter()
        scores = [float(one) for one in _loaded["system"](pairs)]
        return time.perf_counter() - start, scores
    except Exception as error:  # noqa: BLE001  # as above
        return _failed(error)


def _failed(error: Exception) -> SystemFailedError:
    # As a text: not every error of a library can be pickled.
    return SystemFailedError(f"{type(error).__name__}: {error}")


def _peak_bytes() -> int | None:
    # getrusage would count what the parent held when it started this process.
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def _be_quiet() -> None:
    """Keep what libraries print, in Python or beneath it, out of the table."""
    os.environ["TQDM_DISABLE"] = "1"
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
