"""What Ray Serve's proxy says in its own name, told as the service tells it: one JSON error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.middleware import Middleware
from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The variable by which a node's proxy finds `middlewares`; Ray reads it when the proxy starts.
VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
IMPORT_PATH = "langchain_rerank.server.ray_proxy.middlewares"
_ERRORS = 400


def middlewares() -> list[Middleware]:
    """Return what Ray Serve puts around its proxy."""
    return [Middleware(ProxyErrors)]


class ProxyErrors:
    """Answers by 502 for a replica that died, and gives the proxy's own errors a JSON body.

    Without it the proxy answers 500 when a replica dies with a request: a status that clients do
    not try again, as it stands for a mistake of the service.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Stand around `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, and look at what starts the response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        said = b""

        async def look(message: Message) -> None:
            nonlocal start, said
            if message["type"] == "http.response.start":
                start = message
                if _is_own_error(message):
                    return
            elif start is not None and _is_own_error(start):
                said += message.get("body", b"")
                return
            await send(message)

        await self._app(scope, receive, look)
        if start is None:
            lost = {"message": "the replica that had this request has ended; try again"}
            await JSONResponse(lost, 502, {"retry-after": "0"})(scope, receive, send)
        elif _is_own_error(start):
            after = {k.decode(): v.decode() for k, v in start["headers"] if k == b"retry-after"}
            message = {"message": said.decode("utf-8", "replace")}
            await JSONResponse(message, start["status"], after)(scope, receive, send)


def _is_own_error(start: Message) -> bool:
    """Tell the proxy's errors, which are plain text, from those of the service."""
    kinds = [value for name, value in start["headers"] if name.lower() == b"content-type"]
    return start["status"] >= _ERRORS and any(kind.startswith(b"text/plain") for kind in kinds)
