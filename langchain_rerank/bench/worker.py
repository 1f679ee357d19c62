"""A system in a process of its own, so that imports, threads and memory are its own as well."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from langchain_rerank.bench.systems import Models, Pairs, System

# A thousand long pairs on a slow machine take minutes; what takes this long hangs.
_TIMEOUT_S = 3600


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
        context = multiprocessing.get_context("spawn")
        self.name = system.name
        # What the system and its libraries print, to be quoted should its process end.
        with tempfile.NamedTemporaryFile(suffix=".log", delete=False) as file:
            self._said = Path(file.name)
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, system.name, models, self._said), daemon=True
        )
        start = time.perf_counter()
        self._process.start()
        theirs.close()
        try:
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

    @property
    def pid(self) -> int | None:
        """Number of the process."""
        return self._process.pid

    def score(self, pairs: Pairs) -> tuple[float, list[float]]:
        """Score pairs.

        Returns:
            Seconds that it took in the process, and a score each.

        Raises:
            SystemFailedError: It could not.
        """
        seconds, scores = self._ask(list(pairs))
        if len(scores) != len(pairs):
            msg = f"it gave {len(scores)} scores for {len(pairs)} pairs"
            raise SystemFailedError(msg)
        return seconds, scores

    def peak(self) -> Peak:
        """Tell the most memory that the process has held so far."""
        peak: Peak = self._ask(None)
        return peak

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._connection.close()
        self._process.kill()
        self._process.join()
        self._said.unlink(missing_ok=True)

    def _ask(self, request: Any) -> Any:
        try:
            self._connection.send(request)
            ready = wait([self._connection, self._process.sentinel], _TIMEOUT_S)
            if not ready:
                msg = f"it gave no answer in {_TIMEOUT_S} s"
                raise SystemFailedError(msg)
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            said = self._said.read_text(encoding="utf-8", errors="replace").strip()
            last = said.rpartition("\n")[2] or "nothing"
            msg = f"its process ended with status {self._process.exitcode}; it last said: {last}"
            raise SystemFailedError(msg) from error
        if isinstance(answer, str):
            raise SystemFailedError(answer)
        return answer


def _serve(connection: Connection, name: str, models: Models, said: Path) -> None:
    """Answer pairs with seconds and scores, None with the peak of memory; errors are a str."""
    _be_quiet(said)
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


def _be_quiet(said: Path) -> None:
    """Keep what libraries print, in Python or beneath it, out of the table."""
    os.environ["TQDM_DISABLE"] = "1"
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    file = os.open(said, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)


def _peak(device: str) -> Peak:
    on_device = None
    if device.startswith("cuda"):
        import torch

        on_device = torch.cuda.max_memory_allocated(device)
    return Peak(_peak_rss(), on_device)


def _peak_rss() -> int | None:
    """Most resident memory of this process, in bytes."""
    if sys.platform == "win32":
        return None
    if sys.platform == "linux":
        # getrusage would count what the parent held when it started this process.
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
