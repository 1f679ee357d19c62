"""What stands around Ray Serve's proxy; a file of its own, as each node's proxy imports it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.middleware import Middleware
from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The variable by which a node's proxy finds `middlewares`; Ray reads it when the proxy starts.
VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
IMPORT_PATH = "langchain_rerank.server.ray_proxy.middlewares"


def middlewares() -> list[Middleware]:
    """Return what Ray Serve puts around its proxy."""
    return [Middleware(answering_for_lost_replicas)]


def answering_for_lost_replicas(app: ASGIApp) -> ASGIApp:
    """Answer 502 for a replica that died; Ray's own 500 is no status that clients retry."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        started = scope["type"] != "http"

        async def noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        await app(scope, receive, noting)
        if not started:
            lost = {"message": "the replica that had this request has ended; try again"}
            await JSONResponse(lost, 502, {"retry-after": "0"})(scope, receive, send)

    return handle
