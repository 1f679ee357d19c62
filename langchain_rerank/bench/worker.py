"""A system in a process of its own, so that imports, threads and memory are its own as well."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from langchain_rerank.bench.systems import Models, Pairs, System

_STOP_TIMEOUT_S = 20


class SystemFailedError(Exception):
    """A system could not load or score; the message has its own error."""


@dataclass(frozen=True, slots=True)
class Peak:
    """Most memory that a process held, in bytes; None where it can't be told."""

    host: int | None
    device: int | None


class Worker:
    """A system that has loaded its model and waits for pairs."""

    def __init__(self, system: System, models: Models, first: Pairs) -> None:
        """Start the process, load the model and score `first`.

        Raises:
            SystemFailedError: It could not.
        """
        self.system = system
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, system.name, models), name=system.key, daemon=True
        )
        start = time.perf_counter()
        self._process.start()
        theirs.close()
        self.score(first)
        self.cold_start_s = time.perf_counter() - start
        """Seconds from the start of the interpreter to the first scores."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def score(self, pairs: Pairs) -> tuple[float, list[float]]:
        """Score pairs.

        Returns:
            Seconds that it took in the process, and a score each.

        Raises:
            SystemFailedError: It could not.
        """
        seconds, scores = self._ask(list(pairs))
        if len(scores) != len(pairs):
            msg = f"{len(scores)} scores for {len(pairs)} pairs"
            raise SystemFailedError(msg)
        return seconds, scores

    def peak(self) -> Peak:
        """Tell the most memory that the process has held so far."""
        peak: Peak = self._ask(None)
        return peak

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(_STOP_TIMEOUT_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _ask(self, request: Any) -> Any:
        try:
            self._connection.send(request)
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(_STOP_TIMEOUT_S)
            msg = f"its process ended with status {self._process.exitcode}"
            raise SystemFailedError(msg) from error
        if isinstance(answer, str):
            self.close()
            raise SystemFailedError(answer)
        return answer


def _serve(connection: Connection, name: str, models: Models) -> None:
    """Answer pairs with seconds and scores, None with the peak of memory; errors are a str."""
    _be_quiet()
    from langchain_rerank.bench.systems import CPU_SYSTEMS, GPU_SYSTEMS

    systems = (*CPU_SYSTEMS, *GPU_SYSTEMS)
    build = next(system.build for system in systems if system.name == name)
    score = None
    while True:
        try:
            pairs = connection.recv()
        except EOFError:
            return
        try:
            if pairs is None:
                connection.send(_peak(models.device))
                continue
            score = score or build(models)
            start = time.perf_counter()
            scores = [float(one) for one in score(pairs)]
            connection.send((time.perf_counter() - start, scores))
        except Exception as error:  # noqa: BLE001  # another library's; the bench goes on without it
            connection.send(f"{type(error).__name__}: {error}")


def _be_quiet() -> None:
    """Silence progress bars and warnings of other libraries, which would tear the table."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    os.environ["TQDM_DISABLE"] = "1"
    sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  # for the life of the process


def _peak(device: str) -> Peak:
    on_device = None
    if device.startswith("cuda"):
        import torch

        on_device = torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return Peak(None, on_device)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return Peak(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, on_device)
