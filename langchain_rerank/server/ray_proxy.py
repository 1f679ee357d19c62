"""What stands around Ray Serve's proxy; a file of its own, as each node's proxy imports it."""

from __future__ import annotations

from dataclasses import dataclass
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
    return [Middleware(LostReplicas)]


@dataclass
class LostReplicas:
    """Answers by 502 for a replica that died; Ray's own 500 is no status that clients retry."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, and see whether a response starts."""
        started = scope["type"] != "http"

        async def noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        await self.app(scope, receive, noting)
        if not started:
            lost = {"message": "the replica that had this request has ended; try again"}
            await JSONResponse(lost, 502, {"retry-after": "0"})(scope, receive, send)
