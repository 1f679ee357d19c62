"""The rerank service as an ASGI app, for uvicorn, Ray Serve or any other server."""

from __future__ import annotations

import asyncio
import hmac
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from langchain_rerank import telemetry
from langchain_rerank.errors import RerankError
from langchain_rerank.server.batcher import Batcher, QueueFullError, StoppedError
from langchain_rerank.server.limits import Limits, LimitsMiddleware
from langchain_rerank.server.metrics import CLIENT_GONE, Metrics, MetricsMiddleware
from langchain_rerank.server.parsing import parse
from langchain_rerank.server.schemas import (
    CohereV1Body,
    CohereV2Body,
    CohereV2Reply,
    ErrorReply,
    JinaOrTeiBody,
    RerankReply,
    TeiResult,
)
from langchain_rerank.server.served_model import ServedModel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from langchain_core.cross_encoders import BaseCrossEncoder

    from langchain_rerank.server.fair_queue import Scored
    from langchain_rerank.server.schemas import RerankBody

logger = logging.getLogger(__name__)

OPEN_PATHS = ("/health", "/ready", "/metrics")
_DIALECTS: tuple[tuple[str, type[RerankBody], Any], ...] = (
    ("/v1/rerank", CohereV1Body, RerankReply),
    ("/v2/rerank", CohereV2Body, CohereV2Reply),
    ("/rerank", JinaOrTeiBody, list[TeiResult] | RerankReply),
)
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply, "description": text}
    for status, text in {
        401: "the API key is missing or wrong",
        408: "the body took too long to come",
        413: "too many bytes, brackets, documents or characters",
        415: "the body is not JSON",
        422: "a wrong body; the message names the field",
        500: "the model failed",
        503: "too many requests wait, or the service is shutting down; see Retry-After",
    }.items()
}
_DEFAULT_LIMITS = Limits()
# What takes longer to parse than to hand to a thread.
_LARGE_BYTES = 64 * 1024


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
    served = ServedModel(model, served_name)
    metrics = Metrics(lambda: len(batcher))
    batcher = Batcher(
        served, max_waiting=limits.waiting, joint=joint_scoring, on_pass=metrics.observe_pass
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with batcher.running():
            yield

    app = FastAPI(
        title="langchain-rerank",
        description="Cross-encoder reranking in the dialects of Cohere, Jina and TEI.",
        version="1",
        lifespan=lifespan,
        dependencies=[Depends(_key_check(api_keys))] if api_keys else [],
        exception_handlers={
            HTTPException: _http_error,
            ClientDisconnect: _gone,
            Exception: _unforeseen,
        },
        docs_url=None,  # these two pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.batcher, app.state.model, app.state.metrics = batcher, served, metrics
    parsing = asyncio.Lock()
    for path, schema, reply in _DIALECTS:
        app.add_api_route(
            path,
            _rerank(path, schema, app, limits, parsing),
            methods=["POST"],
            responses={200: {"model": reply}, **_ERRORS},
            openapi_extra=_request_body(schema),
        )
    app.add_api_route("/health", _health, methods=["GET"])
    app.add_api_route("/ready", _ready, methods=["GET"], responses={503: _ERRORS[503]})
    app.add_api_route("/metrics", _metrics, methods=["GET"])
    app.add_middleware(LimitsMiddleware, limits=limits)
    app.add_middleware(MetricsMiddleware, metrics=metrics)  # outermost: it counts all
    return app


def _key_check(api_keys: Sequence[str]) -> Callable[..., Awaitable[None]]:
    """Make the dependency of every route: it lets through what brings a key, or is open."""
    if not all(key.strip() for key in api_keys):
        msg = f"an API key must hold text, got a blank one among {len(api_keys)}"
        raise ValueError(msg)
    keys = [key.encode() for key in api_keys]
    given_key = Annotated[
        HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))
    ]

    async def check(request: Request, given: given_key) -> None:
        # The route, not the path: that holds what the app is mounted under as well.
        if request.scope["route"].path in OPEN_PATHS:
            return
        headers = {"www-authenticate": "Bearer"}
        if given is None or not given.credentials.strip():
            came = "another scheme or no key" if "authorization" in request.headers else "none"
            msg = f"expected the header 'Authorization: Bearer KEY', got {came}"
            raise HTTPException(401, msg, headers)
        # Header values are Latin-1 on the wire. All keys are compared, each in constant time, so
        # that the time taken tells neither a key's letters nor which one it was.
        came_key = given.credentials.strip().encode("latin-1")
        matches = [hmac.compare_digest(came_key, key) for key in keys]
        if not any(matches):
            raise HTTPException(401, "the API key of the header 'Authorization' is wrong", headers)

    check.__annotations__["given"] = given_key  # a string could not name what is local here
    return check


def _rerank(
    path: str, schema: type[RerankBody], app: FastAPI, limits: Limits, parsing: asyncio.Lock
) -> Callable[[Request], Awaitable[Response]]:
    """Make the route of one dialect."""
    batcher: Batcher = app.state.batcher
    model: ServedModel = app.state.model

    async def rerank(request: Request) -> Response:
        """Rank documents by how well they answer a query."""
        _check_content_type(request.headers.get("content-type"))
        body = await request.body()
        if len(body) < _LARGE_BYTES:
            asked, texts = parse(schema, body, limits)
        else:
            async with parsing:  # one at a time, as each takes many times its size
                asked, texts = await asyncio.to_thread(parse, schema, body, limits)
        if getattr(asked, "raw_scores", False) and not model.has_logits:
            msg = f"raw_scores must be false: '{model.name}' gives scores, not logits"
            raise HTTPException(422, msg)
        attributes: dict[str, str | int | float] = {
            "http.route": path,
            "rerank.documents": len(texts),
            "rerank.characters": len(asked.query) + sum(map(len, texts)),
        }
        with telemetry.span(
            f"POST {path}", kind="server", attributes=attributes, carrier=request.headers
        ):
            scored = await _scored(batcher, [(asked.query, text) for text in texts], request)
            try:
                return JSONResponse(asked.reply(scored, model))
            except RerankError as error:
                raise HTTPException(500, str(error)) from error
            except ValueError as error:  # NaN or an infinity in a document
                msg = "documents that are given back must hold finite numbers"
                raise HTTPException(422, msg) from error

    return rerank


async def _scored(batcher: Batcher, pairs: list[tuple[str, str]], request: Request) -> Scored:
    """Score, or give it up as soon as the client hangs up."""
    scoring = asyncio.ensure_future(batcher.score(pairs))

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        scoring.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await scoring
    except QueueFullError as error:
        raise HTTPException(503, str(error), {"retry-after": str(error.retry_after)}) from error
    except StoppedError as error:
        raise HTTPException(503, str(error), {"retry-after": "1"}) from error
    except RerankError as error:
        logger.exception("a request could not be scored")
        raise HTTPException(500, str(error)) from error
    except asyncio.CancelledError:
        if watcher.done():
            raise ClientDisconnect from None
        raise
    finally:
        watcher.cancel()
        scoring.cancel()


def _check_content_type(content_type: str | None) -> None:
    if content_type is None:
        return
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise HTTPException(415, f"content-type must be application/json, got {kind[:80]!r}")


def _request_body(schema: type[RerankBody]) -> dict[str, Any]:
    """Describe a body for the OpenAPI document; the route parses it itself."""
    content = {"application/json": {"schema": schema.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


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


async def _http_error(request: Request, raised: Exception) -> Response:
    """Give every refusal the same JSON body; name an unknown path or method."""
    if not isinstance(raised, HTTPException):
        raise raised
    message = str(raised.detail)
    if raised.detail in ("Not Found", "Method Not Allowed"):
        message = f"there is no {request.method[:20]} {request.url.path[:80]!r} here"
    return JSONResponse({"message": message}, raised.status_code, raised.headers)


async def _gone(_: Request, raised: Exception) -> Response:  # noqa: ARG001  # Starlette's signature
    return Response(status_code=CLIENT_GONE)


async def _unforeseen(_: Request, raised: Exception) -> Response:
    """Answer what is a mistake of this package; the server logs it with its traceback."""
    return JSONResponse({"message": f"the service failed: {type(raised).__name__}"}, 500)
