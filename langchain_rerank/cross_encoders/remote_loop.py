"""One event loop in a background thread, shared by every remote cross encoder of the process.

`score` and `ascore` run the same coroutine there, so that one client works from any number of
threads and event loops; fsspec and Dask do it the same way.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

# Seconds that closing may take when the interpreter exits.
_EXIT_TIMEOUT = 5.0


class Closable(Protocol):
    """What has connections on the loop."""

    loop: AbstractEventLoop

    async def retire(self) -> None:
        """Close once nobody uses it any more."""

    async def aclose(self) -> None:
        """Free its connections now."""


class _Background:
    """The loop, its thread, and what is open on it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.loop: AbstractEventLoop | None = None
        self.thread: threading.Thread | None = None
        self.open: set[Closable] = set()
        self.retiring: set[asyncio.Task[None]] = set()

    def start(self) -> AbstractEventLoop:
        with self.lock:
            if self.loop is None:
                self.loop = asyncio.new_event_loop()
                self.thread = threading.Thread(
                    target=self.loop.run_forever, name="langchain-rerank", daemon=True
                )
                self.thread.start()
            return self.loop

    def retire(self, what: Closable) -> None:
        task = what.loop.create_task(what.retire())
        # The loop itself would forget a task that nobody holds.
        self.retiring.add(task)
        task.add_done_callback(self.retiring.discard)

    def stop(self) -> None:
        with self.lock:
            loop, thread = self.loop, self.thread
            self.loop = self.thread = None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._close_all(), loop).result(_EXIT_TIMEOUT)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_EXIT_TIMEOUT)
        loop.close()

    async def _close_all(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.gather(*(one.aclose() for one in self.open), return_exceptions=True)


_background = _Background()
# A forked child has none of the threads, but copies of the sockets: they are neither used nor
# closed there, as closing would say goodbye on the parent's connections.
_of_parents: list[_Background] = []


def background_loop() -> AbstractEventLoop:
    """Give this process's loop, started if need be."""
    return _background.start()


def close_at_exit(what: Closable) -> None:
    """Close something when the interpreter exits; called on the loop."""
    _background.open.add(what)


def forget(what: Closable) -> None:
    """Take back `close_at_exit`; called on the loop."""
    _background.open.discard(what)


def retire_soon(what: Closable) -> None:
    """Have something close once nobody uses it; called in any thread, also by the collector."""
    background = _background
    if what.loop is background.loop:
        what.loop.call_soon_threadsafe(background.retire, what)


def _stop() -> None:
    _background.stop()


def _after_fork() -> None:
    global _background  # noqa: PLW0603  # one a process
    _of_parents.append(_background)
    _background = _Background()


atexit.register(_stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
