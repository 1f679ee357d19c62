"""The rerank service as an ASGI app, for uvicorn, Ray Serve or any other server."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from langchain_rerank.server.admission import Admission
from langchain_rerank.server.limits import Limits
from langchain_rerank.server.metrics import Measured
from langchain_rerank.server.replies import Refusal, error
from langchain_rerank.server.routes import RERANK_PATHS, STATUS_PATHS, add_routes
from langchain_rerank.server.served_model import ServedModel
from langchain_rerank.server.service import Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from langchain_core.cross_encoders import BaseCrossEncoder
    from starlette.requests import Request
    from starlette.responses import Response

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
    /health`, `/ready` and `/metrics` need no key. The model loads when the app starts: meanwhile
    `/ready` is 503 and requests wait. `app.state.service` is the `Service` behind it.

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
    service = Service(ServedModel(model, served_name), limits, joint_scoring=joint_scoring)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="langchain-rerank",
        description="Cross-encoder reranking in the dialects of Cohere, Jina and TEI.",
        version="1",
        lifespan=lifespan,
        exception_handlers={
            Refusal: _refused,
            HTTPException: _http_error,
            Exception: _unforeseen,
        },
        docs_url=None,  # these two pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    add_routes(app, service, secured=bool(api_keys))
    app.add_middleware(Admission, limits=limits, api_keys=api_keys, paths=RERANK_PATHS)
    # The last one added stands outermost: refusals are counted as well.
    app.add_middleware(Measured, metrics=service.metrics, paths=[*RERANK_PATHS, *STATUS_PATHS])
    # Built now, so that a blank key is an error here and not at the first request.
    app.middleware_stack = app.build_middleware_stack()
    return app


async def _refused(_: Request, refusal: Exception) -> Response:
    if not isinstance(refusal, Refusal):
        raise refusal
    return error(refusal.status, refusal.message, refusal.headers)


async def _http_error(request: Request, raised: Exception) -> Response:
    """Answer an unknown path or method."""
    if not isinstance(raised, HTTPException):
        raise raised
    path = request.url.path[:80]
    known = {404: f"there is no {path!r} here", 405: f"{path} does not take {request.method}"}
    message = known.get(raised.status_code, str(raised.detail))
    return error(raised.status_code, message, raised.headers)


async def _unforeseen(_: Request, raised: Exception) -> Response:
    """Answer what is a mistake of this package; the server logs it with its traceback."""
    return error(500, f"the service failed: {type(raised).__name__}")
