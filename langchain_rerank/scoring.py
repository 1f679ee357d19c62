"""One call of a cross encoder, with its contract checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_rerank.errors import RerankError, ScoringError

if TYPE_CHECKING:
    from langchain_core.cross_encoders import BaseCrossEncoder


def score_pairs(cross_encoder: BaseCrossEncoder, pairs: list[tuple[str, str]]) -> list[float]:
    """Score pairs by any cross encoder.

    Args:
        cross_encoder: LangChain's, ours or a user's own.
        pairs: (query, passage) each; none means that the cross encoder isn't called.

    Returns:
        One float a pair, in the same order; it may be NaN.

    Raises:
        ScoringError: The cross encoder failed (its own error is the cause), or gave something
            other than one number a pair.
        RerankError: One of our cross encoders' own errors, as it is.
    """
    if not pairs:
        return []
    try:
        scores = [float(score) for score in cross_encoder.score(pairs)]
    except RerankError:
        raise
    except Exception as error:
        kind = type(cross_encoder).__name__
        msg = f"{kind} failed on {len(pairs)} pairs: {type(error).__name__}: {error}"
        raise ScoringError(msg) from error
    if len(scores) != len(pairs):
        msg = f"{type(cross_encoder).__name__} gave {len(scores)} scores for {len(pairs)} pairs"
        raise ScoringError(msg)
    return scores
