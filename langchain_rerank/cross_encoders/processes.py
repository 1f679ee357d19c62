"""Threads and processes: what a fork must make anew, cores, cancelled calls, the event loop."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from concurrent.futures import Future
from contextvars import ContextVar
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_EXIT_TIMEOUT_S = 5.0

cancelled: ContextVar[threading.Event | None] = ContextVar("cancelled", default=None)
"""Set by whoever runs a call in a thread; the call looks at it between batches."""


class CancelledCallError(BaseException):
    """Ends a cancelled call; nobody waits for it, so no `except Exception` may keep it going."""


def check_cancelled(event: threading.Event | None = None) -> None:
    """Raise if the call that this runs for was given up; its other threads hand in the event."""
    event = event or cancelled.get()
    if event is not None and event.is_set():
        raise CancelledCallError


class PerProcess(Generic[T]):
    """A value that a forked child makes anew: a lock, whose holder it lacks, or threads.

    A lock that is held while the process forks is never released in the child, and threads don't
    come along; a child that went on with them would hang for ever.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        """Keep how to make it; it is made when first asked for."""
        self._make = make
        self._made: dict[int, T] = {}

    def get(self) -> T:
        """Return this process's own value; of two threads that make one, both get the first's."""
        process = os.getpid()
        if process not in self._made:
            self._made.setdefault(process, self._make())
        return self._made[process]


def available_cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_loops_lock = PerProcess(threading.Lock)
_loops: dict[int, asyncio.AbstractEventLoop] = {}


def background_loop() -> asyncio.AbstractEventLoop:
    """Return this process's event loop in a thread of its own, as fsspec does it.

    At exit its tasks are cancelled, and waited for.
    """
    process = os.getpid()
    with _loops_lock.get():
        if process not in _loops:
            started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
            thread = threading.Thread(
                target=lambda: asyncio.run(_until_exit(started)),
                name="langchain-rerank",
                daemon=True,
            )
            thread.start()
            _loops[process], exiting = started.result()
            atexit.register(_stop, process, thread, exiting)
        return _loops[process]


def is_background_loop(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether a loop is that of this process, and not over; takes no lock."""
    return _loops.get(os.getpid()) is loop


async def _until_exit(started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
    started.set_result((asyncio.get_running_loop(), exiting := asyncio.Event()))
    await exiting.wait()


def _stop(process: int, thread: threading.Thread, exiting: asyncio.Event) -> None:
    # A forked child inherits this hook.
    if process == os.getpid():
        _loops.pop(process).call_soon_threadsafe(exiting.set)
        thread.join(_EXIT_TIMEOUT_S)
