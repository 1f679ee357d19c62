"""The rerank dialects of Cohere (v1, v2), Jina and TEI: one body that holds them all, and replies.

A new dialect is its path in `PATHS`, its fields in `RerankBody` and its answer in `reply`; a new
limit is a field of `Limits`.
"""

import asyncio
import json
import math
import reprlib
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal, NoReturn, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.exceptions import HTTPException
from starlette.requests import Request

from langchain_rerank.errors import ScoringError
from langchain_rerank.ranking import best_first

PATHS = ("/v1/rerank", "/v2/rerank", "/rerank")


class Limits(BaseModel):
    """The most that the service takes on; what is over it is refused with a status of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    documents: int = Field(default=1000, gt=0)
    """Documents of a request (413)."""
    text_characters: int = Field(default=1_000_000, gt=0)
    """Characters of the query, or of one document (413)."""
    body_bytes: int = Field(default=16 * 2**20, gt=0)
    """Bytes of a request's body (413); they are counted before any is parsed."""
    body_brackets: int = Field(default=500_000, gt=0)
    """Opening brackets of a body, in texts as well (413): what nests takes the parser far longer
    than text."""
    held_bytes: int = Field(default=128 * 2**20, gt=0)
    """Bytes of the bodies of all requests that are not answered yet (503)."""
    waiting: int = Field(default=256, gt=0)
    """Requests that wait to be scored (503, with Retry-After)."""
    body_seconds: float = Field(default=30, gt=0)
    """Seconds that a client may take to send a body (408)."""


async def held_body(request: Request) -> AsyncIterator[bytearray]:
    """Read a request's body, whose bytes count as held until it is answered.

    Raises:
        HTTPException: It is too large (413) or too slow (408), or too much is held (503).
    """
    state, body = request.app.state, bytearray()
    limits: Limits = state.limits
    _check_most("the body", limits.body_bytes, int(request.headers.get("content-length", 0)))
    try:
        try:
            async with asyncio.timeout(limits.body_seconds):
                async for chunk in request.stream():
                    body += chunk
                    state.held_bytes += len(chunk)
                    _check_most("the body", limits.body_bytes, len(body))
                    if state.held_bytes > limits.held_bytes:
                        msg = f"requests of {state.held_bytes:,} bytes wait already; try later"
                        raise HTTPException(503, msg, {"retry-after": "1"})
        except TimeoutError as error:
            msg = f"the body must come within {limits.body_seconds:g} s"
            raise HTTPException(408, msg, {"connection": "close"}) from error
        yield body
    finally:
        state.held_bytes -= len(body)


def _check_query(query: str) -> str:
    if not query.strip():
        msg = "must hold text"
        raise ValueError(msg)
    return query


# Without `fail_fast` eight million wrong entries make as many errors: 22 s and 7 GB.
_Texts = Annotated[list[str], Field(min_length=1, fail_fast=True)]
_Documents = Annotated[list[str | dict[str, Any]], Field(min_length=1, fail_fast=True)]


class RerankBody(BaseModel):
    """Body of every dialect: TEI sends `texts`, the others `documents`.

    Types are taken as they are. Other fields are let through and change nothing, as they steer
    another server's insides (`max_chunks_per_doc`, `max_tokens_per_doc`, `priority`, `truncate`):
    how long passages are read is a setting of the model.
    """

    model_config = ConfigDict(
        strict=True,
        protected_namespaces=(),
        json_schema_extra={"oneOf": [{"required": ["texts"]}, {"required": ["documents"]}]},
    )

    model: str | None = None
    # A schema can show that it must not be blank by a pattern alone.
    query: Annotated[str, AfterValidator(_check_query), Field(json_schema_extra={"pattern": r"\S"})]
    documents: _Documents = Field(default=[])
    top_n: int | None = Field(default=None, ge=1)
    rank_fields: _Texts = Field(default=["text"])
    return_documents: bool | None = None
    texts: _Texts = Field(default=[])
    raw_scores: bool = False
    return_text: bool = False
    truncation_direction: Literal["Right", "right"] = "Right"
    # vLLM's servers take one; here it would be dropped in silence, so it is refused.
    instruction: None = None

    @model_validator(mode="after")
    def _check_either(self) -> Self:
        if bool(self.texts) == bool(self.documents):
            msg = "must have either the field documents or the field texts"
            raise ValueError(msg)
        return self


def parse(body: bytes | bytearray, limits: Limits) -> tuple[RerankBody, list[str]]:
    """Parse and check a body; of one in its limits it takes under a second.

    Returns:
        The record, and the texts to score.

    Raises:
        HTTPException: It is no such body (422), or too much (413).
    """
    _check_most("the body", limits.body_brackets, body.count(b"[") + body.count(b"{"), "brackets")
    try:
        # Python's parser takes what Python's clients send, lone surrogates (`\ud800`) as well.
        parsed = RerankBody.model_validate(json.loads(body.decode(), parse_constant=_refuse))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        msg = f"{where}: {first['msg']}, got {reprlib.repr(first['input'])}"
        raise HTTPException(422, msg) from error
    except (ValueError, RecursionError) as error:
        raise HTTPException(422, f"the body must be JSON in UTF-8: {error}") from error
    field, documents = ("texts", parsed.texts) if parsed.texts else ("documents", parsed.documents)
    _check_most(field, limits.documents, len(documents), "entries")
    texts = [_text(one, f"{field}.{i}", parsed.rank_fields) for i, one in enumerate(documents)]
    _check_most("query", limits.text_characters, len(parsed.query), "characters")
    for i, text in enumerate(texts):
        _check_most(f"{field}.{i}", limits.text_characters, len(text), "characters")
    return parsed, texts


def _refuse(constant: str) -> NoReturn:
    msg = f"{constant} is no number"
    raise ValueError(msg)


def _check_most(name: str, most: int, came: int, unit: str = "bytes") -> None:
    if came > most:
        raise HTTPException(413, f"{name} must be at most {most:,} {unit}, got {came:,}")


def _text(document: str | dict[str, Any], where: str, fields: list[str]) -> str:
    """Take what is scored out of a document: of an object the fields that it has, a line each."""
    if isinstance(document, str):
        return document
    values = [document[field] for field in fields if document.get(field) is not None]
    if not values or not all(isinstance(value, str) for value in values):
        msg = f"{where} must be a string, or have text in a field of {reprlib.repr(fields)}"
        raise HTTPException(422, msg)
    return "\n".join(values)


class Result(BaseModel):
    """One document of a reply, best first; `index` is its place in the request, from 0."""

    index: int
    relevance_score: float
    document: dict[str, Any] | None = None


class RerankReply(BaseModel):
    """Reply to `documents`."""

    id: str
    model: str
    results: list[Result]
    meta: dict[str, Any]


class TeiResult(BaseModel):
    """One text of the list that is the reply to `texts`, best first."""

    index: int
    score: float
    text: str | None = None


class ErrorReply(BaseModel):
    """Reply of every status from 400."""

    message: str


def reply(asked: RerankBody, scores: list[float], model: str, path: str) -> Any:
    """Answer in the dialect of a body and its path; ties keep the order of the request.

    Raises:
        ScoringError: A score is NaN or infinite, which JSON can't hold and no order can place.
    """
    for position, score in enumerate(scores):
        if not math.isfinite(score):
            msg = f"'{model}' gave the score {score} for document {position}"
            raise ScoringError(msg)
    order = best_first(scores)
    if asked.texts:
        texts = [{"text": text} if asked.return_text else {} for text in asked.texts]
        return [{"index": i, "score": scores[i], **texts[i]} for i in order]
    results: list[dict[str, Any]] = [
        {"index": i, "relevance_score": scores[i]} for i in order[: asked.top_n]
    ]
    # Jina gives documents back unless told not to, Cohere if told to.
    if asked.return_documents or (asked.return_documents is None and path == "/rerank"):
        for result in results:
            document = asked.documents[result["index"]]
            result["document"] = {"text": document} if isinstance(document, str) else document
    version = "1" if path == "/v1/rerank" else "2"
    meta = {"api_version": {"version": version}, "billed_units": {"search_units": 1}}
    return {"id": str(uuid.uuid4()), "model": model, "results": results, "meta": meta}
