"""The rerank service as an ASGI app, for uvicorn, Ray Serve or any other server."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from opentelemetry import propagate, trace
from prometheus_client import CONTENT_TYPE_LATEST, Counter, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from langchain_rerank import telemetry
from langchain_rerank.cross_encoders.torch import TorchCrossEncoder
from langchain_rerank.errors import RerankError
from langchain_rerank.server import schemas
from langchain_rerank.server.batcher import Batcher
from langchain_rerank.server.schemas import Limits, held_body

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.cross_encoders import BaseCrossEncoder

logger = logging.getLogger(__name__)

API_KEYS_VARIABLE = "LANGCHAIN_RERANK_SERVER_API_KEYS"
OPEN_PATHS = ("/health", "/ready", "/metrics")
_REPLY: Any = schemas.RerankReply | list[schemas.TeiResult]
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ErrorReply} for status in (401, 408, 413, 415, 422, 500, 503)
}
_DEFAULT_LIMITS = Limits()
_Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]


def create_app(
    model: str | BaseCrossEncoder,
    *,
    served_name: str | None = None,
    limits: Limits = _DEFAULT_LIMITS,
    api_keys: Sequence[str] = (),
) -> FastAPI:
    """Build the service of one model.

    `POST /v1/rerank`, `/v2/rerank` and `/rerank` speak Cohere's, Jina's and TEI's dialects; `GET
    /health`, `/ready` and `/metrics` need no key, every other route does. The app starts once its
    model is loaded. An app that mounts this one must run its lifespan: `async with
    app.router.lifespan_context(app)`. `app.state.batcher` is what scores.

    Args:
        model: A model's name or path, from which a `TorchCrossEncoder` is built, or any
            `BaseCrossEncoder`. Its scores are given as they are: logits with `normalize=False`.
        served_name: What replies call the model; None takes its own name. Requests may name any.
        limits: What a request, and all that wait, may take.
        api_keys: A request must bring one of them as `Authorization: Bearer KEY`; none means that
            anyone may ask.

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
    cross_encoder = TorchCrossEncoder(model=model) if isinstance(model, str) else model
    batcher = Batcher(cross_encoder, max_waiting=limits.waiting)
    text = "Requests answered; status 499 is a client that went away."
    answered = Counter("rerank_requests", text, ["path", "status"], registry=batcher.registry)
    handled = (HTTPException, ClientDisconnect, RerankError, Exception)
    app = FastAPI(
        title="langchain-rerank",
        description="Cross-encoder reranking in the dialects of Cohere, Jina and TEI.",
        version="1",
        lifespan=batcher.running,
        dependencies=[Depends(_check_key)],
        exception_handlers=dict.fromkeys(handled, _error),
        docs_url=None,  # these two pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.api_keys = [key.encode() for key in api_keys]
    app.state.model, app.state.name = cross_encoder, served_name or _name_of(cross_encoder)
    app.state.limits, app.state.held_bytes = limits, 0
    app.state.batcher, app.state.answered = batcher, answered
    # FastAPI itself would read the body before the key was checked.
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
    return app


def _name_of(cross_encoder: BaseCrossEncoder) -> str:
    """Name a model; replies need not tell where on this machine a folder is."""
    name = getattr(cross_encoder, "model", None)
    if not isinstance(name, str):
        return type(cross_encoder).__name__
    return Path(name).name if Path(name).is_absolute() else name


async def _check_key(request: Request, given: _Bearer) -> None:
    """Let through what brings a key, or is open."""
    keys = request.app.state.api_keys
    # The route, not the path: that holds what the app is mounted under as well.
    if not keys or request.scope["route"].path in OPEN_PATHS:
        return
    # Header values are Latin-1 on the wire. All keys are compared, each in constant time, so that
    # the time taken tells neither a key's letters nor which one it was.
    came = given.credentials.strip().encode("latin-1") if given else b""
    if not any([hmac.compare_digest(came, key) for key in keys]):  # noqa: C419  # all of them
        msg = "expected the header 'Authorization: Bearer KEY' with a key of this service"
        raise HTTPException(401, msg, {"www-authenticate": "Bearer"})


async def _rerank(request: Request, body: Annotated[bytearray, Depends(held_body)]) -> Response:
    """Rank documents by how well they answer a query."""
    kind = request.headers.get("content-type", "application/json")
    if not kind.partition(";")[0].strip().lower().endswith("json"):
        raise HTTPException(415, f"content-type must be application/json, got {kind[:80]!r}")
    started, path, state = time.perf_counter(), request.scope["route"].path, request.app.state
    asked, texts = schemas.parse(body, state.limits)
    if asked.raw_scores and getattr(state.model, "normalize", True):
        raise HTTPException(422, f"raw_scores must be false: '{state.name}' does not give logits")
    attributes: dict[str, str | int] = {
        "http.route": path,
        "rerank.documents": len(texts),
        "rerank.characters": len(asked.query) + sum(map(len, texts)),
    }
    context = propagate.extract(request.headers)
    with telemetry.span(f"POST {path}", trace.SpanKind.SERVER, attributes, context):
        scores = await _scored([(asked.query, text) for text in texts], request)
        try:
            answer = JSONResponse(schemas.reply(asked, scores, state.name, path))
        except (ValueError, RecursionError) as error:  # infinite, or nested too deep
            msg = f"the documents can't be given back as JSON: {error}"
            raise HTTPException(422, msg) from error
    state.answered.labels(path, 200).inc()
    state.batcher.figures["request_seconds"].observe(time.perf_counter() - started)
    return answer


async def _scored(pairs: list[tuple[str, str]], request: Request) -> list[float]:
    """Score, or give it up as soon as the client hangs up."""
    scoring = asyncio.ensure_future(request.app.state.batcher.score(pairs))
    # All of the body is read: what comes next is the end of the connection.
    leaving = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({scoring, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not scoring.done():
            raise ClientDisconnect
        scores: list[float] = scoring.result()
        return scores
    finally:
        scoring.cancel()
        leaving.cancel()


async def _health() -> Response:
    """Tell that the process is alive."""
    return JSONResponse({"status": "ok"})


async def _ready(request: Request) -> Response:
    """Tell whether requests are taken."""
    if request.app.state.batcher.runs:
        return JSONResponse({"status": "ready", "model": request.app.state.name})
    raise HTTPException(503, "the service is shutting down")


async def _metrics(request: Request) -> Response:
    """Show the metrics in Prometheus' text format."""
    text = generate_latest(request.app.state.batcher.registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


async def _error(request: Request, raised: Exception) -> Response:
    """Give every refusal and failure the same JSON body, and count it."""
    # A mistake of this package: the server logs it with its traceback.
    status, headers, said = 500, None, f"the service failed: {type(raised).__name__}"
    if isinstance(raised, HTTPException):
        status, headers, said = raised.status_code, raised.headers, str(raised.detail)
    elif isinstance(raised, ClientDisconnect):
        status, said = 499, "the client went away"  # as nginx calls it
    elif isinstance(raised, RerankError):
        logger.error("a request could not be scored", exc_info=raised)
        said = str(raised)
    # By the route: of an app that mounts this one the path would hold the mount as well.
    path = getattr(request.scope.get("route"), "path", "other")
    request.app.state.answered.labels(path, status).inc()
    return JSONResponse({"message": said}, status, headers)


def read_api_keys(file: Path | None = None) -> list[str]:
    """Read API keys from a file, a line each, or from `API_KEYS_VARIABLE`, between commas.

    Raises:
        ValueError: The file holds none; without a key the service would be open.
    """
    text = os.environ.get(API_KEYS_VARIABLE, "").replace(",", "\n")
    if file is not None:
        text = file.read_text(encoding="utf-8")
    keys = [key.strip() for key in text.splitlines() if key.strip()]
    if file is not None and not keys:
        msg = f"expected an API key a line in {file}, got none"
        raise ValueError(msg)
    return keys
