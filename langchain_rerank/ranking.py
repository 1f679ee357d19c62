"""The ranking policy as pure functions: what to score, and what to make of the scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_core.documents import Document
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from langchain_rerank.fusion import fused_scores
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document to score, its first-stage rank from 1, and its (query, passage) pair."""

    document: Document
    rank: int
    pair: tuple[str, str]


def check_query(query: str) -> None:
    """Raise `TypeError` for what is not a str, `ValueError` for a blank one."""
    if not isinstance(query, str):
        msg = f"query must be a str, got {type(query).__name__}"
        raise TypeError(msg)
    if not query.strip():
        msg = f"query must hold text, got {query!r}"
        raise ValueError(msg)


def check_question(query: str) -> None:
    """Check a query as `check_query` does; a blank one is a pydantic error, also a `ValueError`.

    A tool made of a retriever hands on what its model wrote. LangChain's agents answer a pydantic
    error of a tool with a message by which the model can try again; any other ends their run.
    """
    try:
        check_query(query)
    except ValueError as error:
        blank = PydanticCustomError("blank_query", "{reason}", {"reason": str(error)})
        details = InitErrorDetails(type=blank, loc=("query",), input=query)
        title = "query"
        raise ValidationError.from_exception_data(title, [details]) from error


def check_document(document: Document, position: int) -> None:
    """Raise a `TypeError` that names the position of what is not a document with a text."""
    if not isinstance(document, Document):
        msg = f"document {position} must be a Document, got {type(document).__name__}"
        raise TypeError(msg)
    if not isinstance(document.page_content, str):
        kind = type(document.page_content).__name__
        msg = f"page_content of document {position} must be a str, got {kind}"
        raise TypeError(msg)


def candidates(
    documents: Iterable[Document], query: str, *, rank_fields: Sequence[str], deduplicate: bool
) -> list[Candidate]:
    """Choose the documents to score, and the texts to score them by.

    Raises:
        ValueError: The query is blank.
        TypeError: The query, a document or its text is of another type; the message names it.
    """
    check_query(query)
    found = []
    for rank, document in enumerate(documents, start=1):
        check_document(document, rank - 1)
        fields = (document.metadata.get(name) for name in rank_fields)
        lines = [str(value) for value in fields if value not in (None, "")]
        text = "\n".join([*lines, document.page_content])
        found.append(Candidate(document, rank, (well_formed(query), well_formed(text))))
    return _first_of_each(found) if deduplicate else found


def _first_of_each(found: list[Candidate]) -> list[Candidate]:
    """Drop every candidate whose id or scored text an earlier one has."""
    seen: set[tuple[str, str]] = set()
    kept = []
    for candidate in found:
        keys = {("text", candidate.pair[1])}
        if candidate.document.id:
            keys.add(("id", candidate.document.id))
        if seen.isdisjoint(keys):
            kept.append(candidate)
            seen |= keys
    return kept


def best_first(scores: Sequence[float]) -> list[int]:
    """Positions by falling score; ties keep their order and NaN goes last."""

    def key(position: int) -> tuple[bool, float]:
        nan = math.isnan(scores[position])
        return nan, 0.0 if nan else -scores[position]

    return sorted(range(len(scores)), key=key)


def ranked(
    found: Sequence[Candidate],
    scores: Sequence[float],
    *,
    top_n: int | None,
    score_threshold: float | None,
    first_stage_weight: float = 0,
) -> list[Document]:
    """Order candidates by score, fused with their first-stage ranks where these have a weight.

    Drop those whose score, as the cross encoder gave it, is below the threshold, then those past
    `top_n`. Equal fused scores are in order of score, equal scores in first-stage order.
    """
    order = best_first(scores)
    fused: list[float] | None = None
    if first_stage_weight > 0:
        fused = fused_scores(scores, [candidate.rank for candidate in found], first_stage_weight)
        order = [order[place] for place in best_first([fused[position] for position in order])]
    kept = [
        position
        for position in order
        if score_threshold is None or scores[position] >= score_threshold
    ]
    return [
        with_scores(found[position], scores[position], None if fused is None else fused[position])
        for position in kept[:top_n]
    ]


def with_scores(
    candidate: Candidate, score: float | None, fused_score: float | None = None
) -> Document:
    """Copy a document with its rank and scores; scores from elsewhere do not survive."""
    metadata = {**candidate.document.metadata, "retrieval_rank": candidate.rank}
    for name, value in (("relevance_score", score), ("fused_score", fused_score)):
        metadata.pop(name, None)
        if value is not None:
            metadata[name] = value
    return candidate.document.model_copy(update={"metadata": metadata})
