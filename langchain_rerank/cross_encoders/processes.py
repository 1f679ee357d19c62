"""What a process must have for itself, though it was forked from one that had it already."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


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
