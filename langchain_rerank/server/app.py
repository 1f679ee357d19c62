"""The rerank service as an ASGI app, for uvicorn, Ray Serve or any other server."""

from __future__ import annotations

import asyncio
import hmac
import logging
from typing import TYPE_CHECKING, Any

from fastapi import Depends, FastAPI, Request
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from langchain_rerank import telemetry
from langchain_rerank.errors import RerankError
from langchain_rerank.server import schemas
from langchain_rerank.server.batcher import Batcher
from langchain_rerank.server.limits import Limits, LimitsMiddleware
from langchain_rerank.server.metrics import Metrics
from langchain_rerank.server.served_model import ServedModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.cross_encoders import BaseCrossEncoder

logger = logging.getLogger(__name__)

OPEN_PATHS = ("/health", "/ready", "/metrics")
_REPLY: Any = schemas.RerankReply | list[schemas.TeiResult]
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ErrorReply} for status in (401, 408, 413, 415, 422, 500, 503)
}
_DEFAULT_LIMITS = Limits()


def create_app(
    model: str | BaseCrossEncoder,
    *,
    served_name: str | None = None,
    limits: Limits = _DEFAULT_LIMITS,
    api_keys: Sequence[str] = (),
    joint_scoring: bool = True,
) -> FastAPI:
    """Build the service of one model.

    `POST /v1/rerank`, `/v2/rerank` and `/rerank` speak Cohere's, Jina's and TEI's dialects; `GET
    /health`, `/ready` and `/metrics` need no key, every other route does. The model loads when the
    app starts: meanwhile `/ready` is 503 and requests wait. An app that mounts this one must run
    its lifespan: `async with app.router.lifespan_context(app)`. `app.state.batcher` is what scores.

    Args:
        model: A model's name or path, from which a `TorchCrossEncoder` is built, or any
            `BaseCrossEncoder`. One of this package's is copied and loads weights of its own.
        served_name: What replies call the model; None takes its own name. Requests may name any.
        limits: What a request, and all that wait, may take.
        api_keys: A request must bring one of them as `Authorization: Bearer KEY`; none means that
            anyone may ask.
        joint_scoring: Score requests that wait together; False scores one after another.

    Raises:
        ValueError: An API key is blank.

    Example:
        >>> from langchain_rerank.offline import offline_reranker
        >>> from langchain_rerank.server.app import create_app
        >>> app = create_app(offline_reranker(), served_name="minilm")
    """
    if not all(key.strip() for key in api_keys):
        msg = f"an API key must hold text, got a blank one among {len(api_keys)}"
        raise ValueError(msg)
    served = ServedModel(model, served_name)
    metrics = Metrics(lambda: len(batcher))
    batcher = Batcher(served, metrics, max_waiting=limits.waiting, joint=joint_scoring)
    handled = (HTTPException, ClientDisconnect, RerankError, Exception)
    app = FastAPI(
        title="langchain-rerank",
        description="Cross-encoder reranking in the dialects of Cohere, Jina and TEI.",
        version="1",
        lifespan=batcher.running,
        dependencies=[Depends(HTTPBearer(auto_error=False)), Depends(_check_key)],
        exception_handlers=dict.fromkeys(handled, _error),
        docs_url=None,  # these two pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.api_keys = [key.encode() for key in api_keys]
    app.state.limits, app.state.model, app.state.metrics = limits, served, metrics
    app.state.batcher = batcher
    # The route reads the body itself, after its key was checked.
    content = {"application/json": {"schema": schemas.RerankBody.model_json_schema()}}
    for path in schemas.PATHS:
        app.add_api_route(
            path,
            _rerank,
            methods=["POST"],
            responses={200: {"model": _REPLY}, **_ERRORS},
            openapi_extra={"requestBody": {"required": True, "content": content}},
        )
    app.add_api_route("/health", _health)
    app.add_api_route("/ready", _ready, responses={503: _ERRORS[503]})
    app.add_api_route("/metrics", _metrics)
    app.add_middleware(LimitsMiddleware, limits=limits, metrics=metrics)
    return app


async def _check_key(request: Request) -> None:
    """Let through what brings a key, or is open."""
    keys = request.app.state.api_keys
    # The route, not the path: that holds what the app is mounted under as well.
    if not keys or request.scope["route"].path in OPEN_PATHS:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # Header values are Latin-1 on the wire. All keys are compared, each in constant time, so that
    # the time taken tells neither a key's letters nor which one it was.
    came = given.strip().encode("latin-1")
    matches = [hmac.compare_digest(came, key) for key in keys]
    if scheme.lower() != "bearer" or not any(matches):
        msg = "expected the header 'Authorization: Bearer KEY' with a key of this service"
        raise HTTPException(401, msg, {"www-authenticate": "Bearer"})


async def _rerank(request: Request) -> Response:
    """Rank documents by how well they answer a query."""
    kind = request.headers.get("content-type", "application/json")
    if not kind.partition(";")[0].strip().lower().endswith("json"):
        raise HTTPException(415, f"content-type must be application/json, got {kind[:80]!r}")
    path, state = request.scope["route"].path, request.app.state
    asked, texts = schemas.parse(await request.body(), state.limits)
    attributes: dict[str, str | int | float] = {
        "http.route": path,
        "rerank.documents": len(texts),
        "rerank.characters": len(asked.query) + sum(map(len, texts)),
    }
    carrier = request.headers
    with telemetry.span(f"POST {path}", kind="server", attributes=attributes, carrier=carrier):
        raw = await _scored([(asked.query, text) for text in texts], request)
        try:
            return JSONResponse(schemas.reply(asked, raw, state.model, path))
        except (ValueError, RecursionError) as error:  # infinite, or nested too deep
            msg = f"the documents can't be given back as JSON: {error}"
            raise HTTPException(422, msg) from error


async def _scored(pairs: list[tuple[str, str]], request: Request) -> list[float]:
    """Score, or give it up as soon as the client hangs up."""
    scoring = asyncio.ensure_future(request.app.state.batcher.score(pairs))

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    watching = asyncio.create_task(gone())
    try:
        await asyncio.wait({scoring, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not scoring.done():
            raise ClientDisconnect
        scores: list[float] = scoring.result()
        return scores
    finally:
        scoring.cancel()
        watching.cancel()


async def _health() -> Response:
    """Tell that the process is alive."""
    return JSONResponse({"status": "ok"})


async def _ready(request: Request) -> Response:
    """Tell whether the model is loaded and requests are taken."""
    if request.app.state.batcher.ready:
        return JSONResponse({"status": "ready", "model": request.app.state.model.name})
    raise HTTPException(503, "the model is not loaded, or the service is shutting down")


async def _metrics(request: Request) -> Response:
    """Show the metrics in Prometheus' text format."""
    text = generate_latest(request.app.state.metrics.registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


async def _error(_: Request, raised: Exception) -> Response:
    """Give every refusal and failure the same JSON body."""
    if isinstance(raised, HTTPException):
        return JSONResponse({"message": str(raised.detail)}, raised.status_code, raised.headers)
    if isinstance(raised, ClientDisconnect):
        return Response(status_code=499)  # as nginx calls it; nobody reads it, metrics count it
    if isinstance(raised, RerankError):
        logger.error("a request could not be scored", exc_info=raised)
        return JSONResponse({"message": str(raised)}, 500)
    # A mistake of this package: the server logs it with its traceback.
    return JSONResponse({"message": f"the service failed: {type(raised).__name__}"}, 500)
