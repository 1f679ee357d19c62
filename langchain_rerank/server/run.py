"""The service on one machine: uvicorn, its limits, and how it ends."""

from __future__ import annotations

import contextlib
import logging
import math
import socket
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from fastapi import FastAPI

logger = logging.getLogger(__name__)

# Over it uvicorn answers 503 by itself; idle connections count, so it is far above `waiting`.
_MAX_CONNECTIONS = 1000
_MAX_HEADER_BYTES = 16 * 1024
_CLIENT_SECONDS = 10
_KEEP_ALIVE_SECONDS = 30


def run(app: FastAPI, *, host: str, port: int, grace_seconds: float = 30) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what was taken and refuse the rest.

    Args:
        app: Made by `create_app`. Requests wait while its model loads.
        host: Address to listen on.
        port: 0 takes a free one, which the log names.
        grace_seconds: How long requests that were taken may still run after a signal.

    Raises:
        OSError: The address can't be listened on.
        ModelLoadError: The model could not be loaded.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    shown = f"[{host}]" if ":" in host else host
    with socket.create_server((host, port), family=family, backlog=2048) as listening:
        port = listening.getsockname()[1]
        logger.info("serving '%s' on http://%s:%d", app.state.name, shown, port)
        app.state.batcher.load()
        with contextlib.suppress(KeyboardInterrupt):  # raised by uvicorn once all is finished
            make_server(app, grace_seconds=grace_seconds).run(sockets=[listening])


def make_server(
    app: FastAPI, *, grace_seconds: float = 30, client_seconds: float = _CLIENT_SECONDS
) -> uvicorn.Server:
    """Set uvicorn up for an app.

    Args:
        app: Made by `create_app`.
        grace_seconds: See `run`.
        client_seconds: How long a client may take to send a request's headers, to go on reading
            its answer, and to end a body that nobody waits for.
    """
    config = uvicorn.Config(
        app,
        # h11 bounds a request's headers, httptools does not; a model takes far longer.
        http=type("Protocol", (_WatchedProtocol,), {"seconds": client_seconds}),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=_MAX_CONNECTIONS,
        h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(grace_seconds),
    )
    return uvicorn.Server(config)


class _WatchedProtocol(H11Protocol):
    """Drops a connection whose client is due and does nothing; uvicorn would wait for ever."""

    seconds: float

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch(None)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._timer.cancel()

    def _watch(self, before: object) -> None:
        """Look again and again whether the same thing is due as at the time before."""
        due = self._due()
        if due is not None and due == before:
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(self.seconds, self._watch, due)

    def _due(self) -> object:
        """What the client should do next; None when it is not its turn, or it may be idle."""
        if unread := self.transport.get_write_buffer_size():
            return "to read", unread
        if self.cycle is None or self.conn.trailing_data[0]:
            waits_for_headers = self.conn.their_state is h11.IDLE
            return ("the headers", id(self.cycle)) if waits_for_headers else None
        answered = self.cycle.response_complete and self.conn.their_state is h11.SEND_BODY
        return ("the rest of a body", id(self.cycle)) if answered else None
