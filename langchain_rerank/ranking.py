"""The ranking policy as pure functions: candidates, order, threshold, fusion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Annotated

import numpy as np
from langchain_core.documents import Document
from pydantic import BaseModel, PlainValidator

from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

# The sigmoid of a logit above 36 is 1.0 in double precision.
_LARGEST_LOGIT = 36.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document to score, its first-stage rank from 1, and its (query, passage) pair."""

    document: Document
    rank: int
    pair: tuple[str, str]


def check_query(query: str) -> str:
    """Return a query, well-formed; `TypeError` for what is not a str, `ValueError` if blank."""
    if not isinstance(query, str):
        msg = f"query must be a str, got {type(query).__name__}"
        raise TypeError(msg)
    if not query.strip():
        msg = f"query must hold text, got {query!r}"
        raise ValueError(msg)
    return well_formed(query)


class _Asked(BaseModel):
    query: Annotated[str, PlainValidator(check_query)]


def check_question(query: str) -> str:
    """Check a query as `check_query` does; a blank one is a pydantic error, also a `ValueError`.

    LangChain's agents answer such an error of a tool, to which the model may have handed a blank
    query, with a message by which it can try again; any other ends their run.
    """
    return _Asked(query=query).query


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
    documents: Iterable[Document],
    query: str,
    *,
    rank_fields: Sequence[str] = (),
    deduplicate: bool = True,
) -> list[Candidate]:
    """Choose the documents to score: with `deduplicate`, the first of each id and of each text.

    The text is `rank_fields` of the metadata, a line each, before the document's own.

    Raises:
        ValueError: The query is blank.
        TypeError: The query, a document or its text is of another type; the message names it.
    """
    query = check_query(query)
    found = []
    seen: set[tuple[str, str]] = set()
    for rank, document in enumerate(documents, start=1):
        check_document(document, rank - 1)
        fields = (document.metadata.get(name) for name in rank_fields)
        lines = [str(value) for value in fields if value not in (None, "")]
        text = well_formed("\n".join([*lines, document.page_content]))
        keys = {("text", text)} | ({("id", document.id)} if document.id else set())
        if not deduplicate or seen.isdisjoint(keys):
            found.append(Candidate(document, rank, (query, text)))
            seen |= keys
    return found


def best_first(*scores: Sequence[float]) -> list[int]:
    """Positions by falling score; ties by the next list, then in order. NaN goes last."""
    keys = [-np.asarray(one, dtype=float) for one in reversed(scores)]
    order: list[int] = np.lexsort(keys).tolist()
    return order


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
    fused: Sequence[float | None] = [None] * len(found)
    order = best_first(scores)
    if first_stage_weight > 0:
        fused = mixed = fused_scores(scores, [one.rank for one in found], first_stage_weight)
        order = best_first(mixed, scores)
    if score_threshold is not None:
        order = [position for position in order if scores[position] >= score_threshold]
    return [with_scores(found[one], scores[one], fused[one]) for one in order[:top_n]]


def with_scores(
    candidate: Candidate, score: float | None, fused_score: float | None = None
) -> Document:
    """Copy a document with its rank and scores; scores from elsewhere do not survive.

    A score that is NaN or infinite is left out: JSON has no such numbers.
    """
    metadata = {**candidate.document.metadata, "retrieval_rank": candidate.rank}
    for name, value in (("relevance_score", score), ("fused_score", fused_score)):
        metadata.pop(name, None)
        if value is not None and math.isfinite(value):
            metadata[name] = value
    return candidate.document.model_copy(update={"metadata": metadata})


def fused_scores(
    scores: Sequence[float], first_stage_ranks: Sequence[int], first_stage_weight: float
) -> list[float]:
    """Mix two standardized lists: (1 - w) · z(logit) + w · z(-log(first-stage rank)).

    The first stage counts by its ranks, as LangChain's retrievers drop scores; the logarithm of a
    rank falls about as evidence of relevance does.

    Source: weighted CombSUM (Fox and Shaw, TREC-2, 1994; Bruch, Gai and Ingber, "An Analysis of
    Fusion Functions for Hybrid Retrieval", TOIS 2023); ranks by their logarithm: Le Calvé and
    Savoy, "Database merging strategy based on logistic regression", 2000.

    Args:
        scores: The cross encoder's, of one query: logits, or 0–1. Both give the same values.
        first_stage_ranks: Of the same documents, from 1; it may have gaps.
        first_stage_weight: w; 0 gives the order of the scores, 1 that of the first stage.

    Returns:
        One value a document, higher is better, comparable within the query only; NaN for NaN.

    Raises:
        ValueError: There are not as many ranks as scores, or a rank is below 1.
    """
    pairs = zip(scores, first_stage_ranks, strict=True)
    known = [(score, -math.log(rank)) for score, rank in pairs if not math.isnan(score)]
    relevance = z_scores(as_logits([score for score, _ in known]))
    retrieval = z_scores([rank for _, rank in known])
    w = first_stage_weight
    mixed = ((1 - w) * ours + w * first for ours, first in zip(relevance, retrieval, strict=True))
    return [math.nan if math.isnan(score) else next(mixed) for score in scores]


def as_logits(scores: Sequence[float]) -> list[float]:
    """Undo a sigmoid, in which the best documents seem equal, so that `normalize` counts nothing.

    Takes scores of one query, none NaN; all within 0–1 are taken for sigmoids. Gives finite logits:
    -36 or 36 for what a sigmoid no longer tells apart, the nearest finite one for an infinite one.
    """
    values = np.asarray(scores, dtype=float)
    low, high = -_LARGEST_LOGIT, _LARGEST_LOGIT
    if are_shares(values):
        with np.errstate(divide="ignore"):
            values = np.log(values) - np.log1p(-values)
    else:
        finite = values[np.isfinite(values)]
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    logits: list[float] = np.clip(values, low, high).tolist()
    return logits


def are_shares(scores: npt.ArrayLike) -> bool:
    """Tell whether scores are all within 0–1, as a sigmoid gives them."""
    values = np.asarray(scores)
    return bool(np.all((values >= 0) & (values <= 1)))


def z_scores(values: Sequence[float]) -> list[float]:
    """Shift and scale finite values to mean 0 and standard deviation 1; equal ones become 0."""
    # Within 1 nothing overflows, however large a score.
    largest = max(map(abs, values), default=0.0) or 1.0
    scaled = [value / largest for value in values] or [0.0]
    mean, deviation = fmean(scaled), pstdev(scaled) or math.inf
    return [(value / largest - mean) / deviation for value in values]
