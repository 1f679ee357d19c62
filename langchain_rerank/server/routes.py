"""The routes: each takes a dialect's body and answers in its shape."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from fastapi import Depends, FastAPI, Request  # FastAPI reads the annotations
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from langchain_rerank.errors import ScoringError
from langchain_rerank.server.parsing import document_texts, read_json, validate
from langchain_rerank.server.replies import Refusal, error, reply
from langchain_rerank.server.schemas import (
    CohereV1Body,
    CohereV2Body,
    CohereV2Reply,
    ErrorReply,
    RerankReply,
    TeiBody,
    TeiResult,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydantic import BaseModel

    from langchain_rerank.server.service import Service

RERANK_PATHS = ("/v1/rerank", "/v2/rerank", "/rerank")
STATUS_PATHS = ("/health", "/ready", "/metrics")

_ERRORS = {
    401: "the API key is missing or wrong",
    408: "the body took too long to come",
    413: "too many bytes, documents or characters",
    415: "the body is not JSON",
    422: "a wrong body; the message names the field",
    500: "the model failed",
    503: "too many requests wait, or the service is shutting down; see Retry-After",
}


def add_routes(app: FastAPI, service: Service, *, secured: bool) -> None:
    """Add every route to an app.

    Args:
        app: Where to.
        service: What answers.
        secured: The schema says that a key is needed; `Admission` sees to it.
    """
    routes = _Routes(service)
    dependencies = [Depends(HTTPBearer(auto_error=False))] if secured else []
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorReply, "description": text} for status, text in _ERRORS.items()
    }
    for path, answer, replies, bodies in (
        ("/v1/rerank", routes.cohere_v1, RerankReply, [CohereV1Body]),
        ("/v2/rerank", routes.cohere_v2, CohereV2Reply, [CohereV2Body]),
        ("/rerank", routes.tei_or_jina, list[TeiResult] | RerankReply, [TeiBody, CohereV1Body]),
    ):
        app.add_api_route(
            path,
            answer,
            methods=["POST"],
            dependencies=dependencies,
            responses={200: {"model": replies}, **errors},
            openapi_extra=_request_body(*bodies),
        )
    app.add_api_route("/health", routes.health, methods=["GET"])
    app.add_api_route("/ready", routes.ready, methods=["GET"], responses={503: errors[503]})
    app.add_api_route("/metrics", routes.metrics, methods=["GET"])


class _Routes:
    """What answers, bound to a service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def cohere_v2(self, request: Request) -> Response:
        """Rank documents by how well they answer a query, as Cohere's API v2 does."""
        service = self._service
        body = validate(CohereV2Body, read_json(await request.body()), service.limits)
        scored = await service.score(request, body.query, body.documents, "documents")
        scores = _unless_broken(service.model.relevance_scores, scored.scores)
        results = [
            {"index": index, "relevance_score": scores[index]}
            for index in service.order(scores, body.top_n)
        ]
        return reply({"id": str(uuid.uuid4()), "results": results, "meta": _meta("2")})

    async def cohere_v1(self, request: Request) -> Response:
        """Rank documents, as Cohere's API v1 and Jina's do."""
        content = read_json(await request.body())
        return await self._documents(request, content, return_documents=False)

    async def tei_or_jina(self, request: Request) -> Response:
        """Rank `texts` as text-embeddings-inference does, or `documents` as Jina does."""
        content = read_json(await request.body())
        if ("texts" in content) == ("documents" in content):
            msg = "the body must have either the field texts or the field documents"
            raise Refusal(422, msg)
        if "documents" in content:
            return await self._documents(request, content, return_documents=True)
        service = self._service
        body = validate(TeiBody, content, service.limits)
        if body.raw_scores and not service.model.has_logits:
            msg = f"raw_scores must be false: '{service.model.name}' gives scores, not logits"
            raise Refusal(422, msg)
        scored = await service.score(request, body.query, body.texts, "texts")
        give = service.model.logits if body.raw_scores else service.model.tei_scores
        scores = _unless_broken(give, scored.scores)
        results: list[dict[str, Any]] = [
            {"index": index, "score": scores[index]} for index in service.order(scores)
        ]
        if body.return_text:
            for result in results:
                result["text"] = body.texts[result["index"]]
        return reply(results)

    async def _documents(
        self, request: Request, content: dict[str, Any], *, return_documents: bool
    ) -> Response:
        service = self._service
        body = validate(CohereV1Body, content, service.limits)
        texts = document_texts(body.documents, body.rank_fields)
        scored = await service.score(request, body.query, texts, "documents")
        scores = _unless_broken(service.model.relevance_scores, scored.scores)
        results: list[dict[str, Any]] = [
            {"index": index, "relevance_score": scores[index]}
            for index in service.order(scores, body.top_n)
        ]
        if return_documents if body.return_documents is None else body.return_documents:
            for result in results:
                document = body.documents[result["index"]]
                result["document"] = {"text": document} if isinstance(document, str) else document
        answer: dict[str, Any] = {
            "id": str(uuid.uuid4()),
            "model": service.model.name,
            "results": results,
        }
        if scored.tokens is not None:
            answer["usage"] = {"total_tokens": round(scored.tokens)}
        return reply({**answer, "meta": _meta("1")})

    async def health(self) -> Response:
        """Tell that the process is alive."""
        return reply({"status": "ok"})

    async def ready(self) -> Response:
        """Tell whether the model is loaded and requests are taken."""
        if self._service.ready:
            return reply({"status": "ready", "model": self._service.model.name})
        return error(503, "the model is not loaded, or the service is shutting down")

    async def metrics(self) -> Response:
        """Show the metrics in Prometheus' text format."""
        text = generate_latest(self._service.metrics.registry)
        return Response(text, media_type=CONTENT_TYPE_LATEST)


def _unless_broken(give: Callable[[Sequence[float]], list[float]], raw: list[float]) -> list[float]:
    """Turn raw scores into those of a reply; a score that is not finite is answered with 500."""
    try:
        return give(raw)
    except ScoringError as broken:
        raise Refusal(500, str(broken)) from broken


def _meta(version: str) -> dict[str, Any]:
    """What Cohere's SDK expects beside the results."""
    return {"api_version": {"version": version}, "billed_units": {"search_units": 1}}


def _request_body(*schemas: type[BaseModel]) -> dict[str, Any]:
    """Describe a body for the OpenAPI document; the routes parse it themselves."""
    found = [schema.model_json_schema() for schema in schemas]
    schema = found[0] if len(found) == 1 else {"anyOf": found}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
