"""The rerank dialects as records: Cohere v1 and v2, Jina, text-embeddings-inference.

Fields that steer another server's insides (`max_chunks_per_doc`, `max_tokens_per_doc`, `priority`,
`truncate`) are taken and change nothing: how long passages are read is a setting of the model.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from langchain_rerank.ranking import best_first

if TYPE_CHECKING:
    from langchain_rerank.server.fair_queue import Scored
    from langchain_rerank.server.served_model import ServedModel


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
# Without `fail_fast` eight million wrong entries make as many errors: 22 s and 7 GB.
Texts = Annotated[list[str], Field(min_length=1, fail_fast=True)]
Document = Annotated[str | dict[str, Any], BeforeValidator(_check_document)]
Documents = Annotated[list[Document], Field(min_length=1, fail_fast=True)]


class RerankBody(BaseModel):
    """Types are taken as they are, and fields that a dialect may grow are let through."""

    model_config = ConfigDict(strict=True, extra="ignore", protected_namespaces=())

    query: Query
    # vLLM's servers take one; here it would be dropped in silence, so it is refused.
    instruction: None = None

    def passages(self) -> tuple[str, list[Any]]:
        """Name the field that holds what is ranked, and give it."""
        return "documents", self.documents  # type: ignore[attr-defined]  # every body but TEI's

    def reply(self, scored: Scored, model: ServedModel) -> Any:
        """Answer in the dialect's shape.

        Raises:
            ScoringError: A score is not finite.
        """
        raise NotImplementedError


class CohereV2Body(RerankBody):
    """Body of `POST /v2/rerank`: https://docs.cohere.com/reference/rerank."""

    model: str | None = None
    documents: Texts
    top_n: int | None = Field(default=None, ge=1)
    max_tokens_per_doc: int | None = None
    priority: int | None = None

    def reply(self, scored: Scored, model: ServedModel) -> Any:
        """Answer with indices and scores alone."""
        results = _ranked(model.relevance_scores(scored.scores), "relevance_score", self.top_n)
        return {"id": str(uuid.uuid4()), "results": results, "meta": _meta("2")}


class CohereV1Body(RerankBody):
    """Body of `POST /v1/rerank`: https://docs.cohere.com/v1/reference/rerank, and Jina's."""

    model: str | None = None
    documents: Documents
    top_n: int | None = Field(default=None, ge=1)
    rank_fields: Texts | None = None
    return_documents: bool | None = None
    max_chunks_per_doc: int | None = None

    def reply(self, scored: Scored, model: ServedModel) -> Any:
        """Answer with the tokens read, and the documents if asked."""
        results = _ranked(model.relevance_scores(scored.scores), "relevance_score", self.top_n)
        if self.return_documents:
            for result in results:
                document = self.documents[result["index"]]
                result["document"] = {"text": document} if isinstance(document, str) else document
        usage = {} if scored.tokens is None else {"usage": {"total_tokens": round(scored.tokens)}}
        answer = {"id": str(uuid.uuid4()), "model": model.name, "results": results}
        return {**answer, **usage, "meta": _meta("1")}


class JinaOrTeiBody(CohereV1Body):
    """Body of `POST /rerank`: text-embeddings-inference's `texts`, or Jina's `documents`."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["texts"]}, {"required": ["documents"]}]}
    )

    documents: Documents = Field(default=[])
    return_documents: bool | None = True
    texts: Texts = Field(default=[])
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool | None = None
    truncation_direction: Literal["Right", "right"] = "Right"

    @model_validator(mode="after")
    def _check_either(self) -> Self:
        if bool(self.texts) == bool(self.documents):
            kind, msg = "either", "must have either the field texts or the field documents"
            raise PydanticCustomError(kind, msg)
        return self

    def passages(self) -> tuple[str, list[Any]]:
        """Name the field that holds what is ranked, and give it."""
        return ("texts", self.texts) if self.texts else super().passages()

    def reply(self, scored: Scored, model: ServedModel) -> Any:
        """Answer a list for `texts`, else as Jina does."""
        if not self.texts:
            # Jina gives documents back unless told not to, by null as well.
            self.return_documents = self.return_documents is not False
            return super().reply(scored, model)
        results = _ranked(model.tei_scores(scored.scores, as_logits=self.raw_scores), "score")
        if self.return_text:
            for result in results:
                result["text"] = self.texts[result["index"]]
        return results


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


class RerankReply(CohereV2Reply):
    """Reply of `POST /v1/rerank`, and of `POST /rerank` with `documents`: Cohere's and Jina's."""

    model: str
    usage: Usage | None = None
    """Left out for a model that does not count tokens."""


class TeiResult(BaseModel):
    """One text of the list that `POST /rerank` gives for `texts`, best first."""

    index: int
    score: float
    text: str | None = None


class ErrorReply(BaseModel):
    """Reply of every status from 400."""

    message: str


def _ranked(scores: list[float], name: str, top_n: int | None = None) -> list[dict[str, Any]]:
    """List the best, best first; ties keep the order of the request."""
    return [{"index": index, name: scores[index]} for index in best_first(scores)[:top_n]]


def _meta(version: str) -> dict[str, Any]:
    """What Cohere's SDK expects beside the results."""
    return {"api_version": {"version": version}, "billed_units": {"search_units": 1}}
