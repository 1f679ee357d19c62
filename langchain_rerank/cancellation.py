"""How a call that nobody waits for any more is ended between two batches."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading

cancelled: ContextVar[threading.Event | None] = ContextVar("cancelled", default=None)
"""Set by whoever runs a call in a thread; the call looks at it between batches."""


class CancelledCallError(BaseException):
    """Ends a cancelled call; nobody waits for it, so no `except Exception` may keep it going."""


def check_cancelled(event: threading.Event | None = None) -> None:
    """Raise if the call that this runs for was given up; its other threads hand in the event."""
    event = event or cancelled.get()
    if event is not None and event.is_set():
        raise CancelledCallError
