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

from langchain_rerank.errors import ModelLoadError

if TYPE_CHECKING:
    import asyncio
    from types import FrameType

    from fastapi import FastAPI

    from langchain_rerank.server.service import Service

logger = logging.getLogger(__name__)

# Over it uvicorn answers 503 by itself; idle connections count, so it is far above `waiting`.
_MAX_CONNECTIONS = 1000
_MAX_HEADER_BYTES = 16 * 1024
_HEADER_SECONDS = 10
_KEEP_ALIVE_SECONDS = 30


def run(app: FastAPI, *, host: str, port: int, grace_seconds: float = 30) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what was taken and refuse the rest.

    Args:
        app: Made by `create_app`.
        host: Address to listen on.
        port: 0 takes a free one, which the log names.
        grace_seconds: How long requests that were taken may still run after a signal.

    Raises:
        OSError: The address can't be listened on.
        ModelLoadError: The model could not be loaded.
    """
    service: Service = app.state.service
    listening = listen(host, port)
    server = make_server(app, grace_seconds=grace_seconds)
    shown = f"[{host}]" if ":" in host else host
    logger.info(
        "serving '%s' on http://%s:%d", service.model.name, shown, listening.getsockname()[1]
    )
    with contextlib.suppress(KeyboardInterrupt):  # raised again by uvicorn once all is finished
        server.run(sockets=[listening])
    if service.load_error is not None:
        msg = str(service.load_error) or type(service.load_error).__name__
        raise ModelLoadError(msg) from service.load_error


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Raises:
        OSError: The address is taken, or not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        msg = f"could not listen on {host}, port {port}: {error.strerror or error}"
        raise OSError(msg) from error


def make_server(
    app: FastAPI, *, grace_seconds: float = 30, header_seconds: float = _HEADER_SECONDS
) -> uvicorn.Server:
    """Set uvicorn up for an app.

    Args:
        app: Made by `create_app`; if its model can't be loaded, the server ends.
        grace_seconds: See `run`.
        header_seconds: How long a client may take to send a request's headers.
    """

    class Protocol(_BoundedHeaders):
        seconds = header_seconds

    config = uvicorn.Config(
        app,
        # h11 bounds a request's headers, httptools does not; a model takes far longer than either.
        http=Protocol,
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
    server = _Server(config)

    def end(_: BaseException) -> None:
        server.should_exit = True

    app.state.service.on_load_error = end
    return server


class _Server(uvicorn.Server):
    """Is no longer ready from the signal on, not only when the last request has ended."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.config.app.state.service.ready = False  # type: ignore[union-attr]  # the app given above
        super().handle_exit(sig, frame)


class _BoundedHeaders(H11Protocol):
    """Closes a connection whose client drips the headers of a request; uvicorn would wait."""

    seconds: float
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()

    def _watch(self) -> None:
        """Let the time run while headers are awaited, from their first byte on."""
        if self.conn.their_state is not h11.IDLE:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None
        elif self._timer is None:
            self._timer = self.loop.call_later(self.seconds, self._late)

    def _late(self) -> None:
        self._timer = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()
