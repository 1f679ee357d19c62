"""One call of a cross encoder, with its contract checked."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from langchain_core.runnables import run_in_executor

from langchain_rerank.errors import RerankError, ScoringError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
    with _errors_of(cross_encoder, pairs):
        scores = _floats(cross_encoder.score(pairs))
    return _one_a_pair(cross_encoder, scores, pairs)


async def ascore_pairs(
    cross_encoder: BaseCrossEncoder, pairs: list[tuple[str, str]]
) -> list[float]:
    """Score pairs without blocking the event loop; see `score_pairs`.

    A cross encoder that has a coroutine method `ascore` is awaited, another runs in a thread.
    """
    ascore = getattr(cross_encoder, "ascore", None)
    if ascore is None:
        return await run_in_executor(None, score_pairs, cross_encoder, pairs)
    if not pairs:
        return []
    with _errors_of(cross_encoder, pairs):
        scores = _floats(await ascore(pairs))
    return _one_a_pair(cross_encoder, scores, pairs)


@contextmanager
def _errors_of(cross_encoder: BaseCrossEncoder, pairs: list[tuple[str, str]]) -> Iterator[None]:
    """Make a `ScoringError` of whatever else goes wrong."""
    try:
        yield
    except RerankError:
        raise
    except Exception as error:
        kind = type(cross_encoder).__name__
        msg = f"{kind} failed on {len(pairs)} pairs: {type(error).__name__}: {error}"
        raise ScoringError(msg) from error


def _floats(scores: Iterable[float]) -> list[float]:
    return [float(score) for score in scores]


def _one_a_pair(
    cross_encoder: BaseCrossEncoder, scores: list[float], pairs: list[tuple[str, str]]
) -> list[float]:
    if len(scores) != len(pairs):
        msg = f"{type(cross_encoder).__name__} gave {len(scores)} scores for {len(pairs)} pairs"
        raise ScoringError(msg)
    return scores
