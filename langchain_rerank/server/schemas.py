"""Bodies and replies of the rerank dialects: Cohere v1 and v2, Jina, text-embeddings-inference.

Fields that steer another server's insides (`max_chunks_per_doc`, `max_tokens_per_doc`, `priority`,
`truncate`) are taken and change nothing: how long passages are read is a setting of the model.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError


def _check_query(query: Any) -> Any:
    if isinstance(query, str) and not query.strip():
        kind = "blank"
        raise PydanticCustomError(kind, "must hold text")
    return query


def _check_document(document: Any) -> Any:
    if not isinstance(document, (str, dict)):
        kind = "document"
        raise PydanticCustomError(kind, "must be a string or an object with the field 'text'")
    return document


# A blank query is refused by a function, which a schema can't show but by a pattern.
Query = Annotated[
    str, BeforeValidator(_check_query), Field(json_schema_extra={"pattern": r"\S", "minLength": 1})
]
Document = Annotated[str | dict[str, Any], BeforeValidator(_check_document)]


class _Body(BaseModel):
    """Types are taken as they are, and fields that a dialect may grow are let through."""

    model_config = ConfigDict(strict=True, extra="ignore", protected_namespaces=())

    query: Query


class CohereV2Body(_Body):
    """Body of `POST /v2/rerank`: https://docs.cohere.com/reference/rerank."""

    model: str | None = None
    documents: list[str] = Field(min_length=1)
    top_n: int | None = Field(default=None, ge=1)
    max_tokens_per_doc: int | None = None
    priority: int | None = None


class CohereV1Body(_Body):
    """Body of `POST /v1/rerank`: https://docs.cohere.com/v1/reference/rerank, and Jina's."""

    model: str | None = None
    documents: list[Document] = Field(min_length=1)
    top_n: int | None = Field(default=None, ge=1)
    rank_fields: list[str] | None = Field(default=None, min_length=1)
    return_documents: bool | None = None
    max_chunks_per_doc: int | None = None


class TeiBody(_Body):
    """Body of `POST /rerank`, as text-embeddings-inference has it."""

    texts: list[str] = Field(min_length=1)
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool | None = None
    truncation_direction: Literal["Right", "right"] = "Right"


class Result(BaseModel):
    """One document of a reply, best first."""

    index: int
    """Its place in the request, from 0."""
    relevance_score: float
    document: dict[str, Any] | None = None


class CohereV2Reply(BaseModel):
    """Reply of `POST /v2/rerank`."""

    id: str
    results: list[Result]
    meta: dict[str, Any]


class Usage(BaseModel):
    """What a request took."""

    total_tokens: int
    """Tokens that the model read. Of requests that were scored together each has the share of its
    characters."""


class RerankReply(BaseModel):
    """Reply of `POST /v1/rerank`, and of `POST /rerank` with `documents`: Cohere's and Jina's."""

    id: str
    model: str
    results: list[Result]
    usage: Usage | None = None
    """Left out for a model that does not count tokens."""
    meta: dict[str, Any]


class TeiResult(BaseModel):
    """One text of the list that `POST /rerank` gives for `texts`, best first."""

    index: int
    score: float
    text: str | None = None


class ErrorReply(BaseModel):
    """Reply of every status from 400."""

    message: str
