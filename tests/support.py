"""Small things that tests of servers and processes share."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_until(condition: Callable[[], T], what: str, timeout: float = 60) -> T:
    """Ask until something true comes, which is returned; `what` names it where it doesn't."""
    give_up = time.monotonic() + timeout
    while not (found := condition()):
        if time.monotonic() > give_up:
            msg = f"waited {timeout} s for {what}"
            raise AssertionError(msg)
        time.sleep(0.02)
    return found
