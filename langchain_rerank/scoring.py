"""One call of any cross encoder, with its contract checked."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from langchain_rerank.cross_encoders.processes import PerProcess, cancelled
from langchain_rerank.cross_encoders.tokenization import one_a_pair
from langchain_rerank.errors import RerankError, ScoringError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from langchain_core.cross_encoders import BaseCrossEncoder

T = TypeVar("T")
# Calls that wait for a model in these threads leave asyncio's default ones to the app.
_executor = PerProcess(partial(ThreadPoolExecutor, 32, thread_name_prefix="langchain-rerank"))


def score_pairs(
    cross_encoder: BaseCrossEncoder, pairs: list[tuple[str, str]], instruction: str | None = None
) -> list[float]:
    """Score (query, passage) pairs by any cross encoder, which isn't called for none.

    Returns:
        One float a pair, in the same order; it may be NaN.

    Raises:
        ValueError: The cross encoder takes no instruction.
        ScoringError: The cross encoder failed (its own error is the cause), or gave something
            other than one number a pair.
        RerankError: One of our cross encoders' own errors, as it is.
    """
    if not pairs:
        return []
    cross_encoder = _instructed(cross_encoder, instruction)
    with _errors_of(cross_encoder, pairs):
        return one_a_pair(cross_encoder, cross_encoder.score(pairs), pairs)


async def ascore_pairs(
    cross_encoder: BaseCrossEncoder, pairs: list[tuple[str, str]], instruction: str | None = None
) -> list[float]:
    """Score pairs without blocking the event loop; see `score_pairs`.

    A cross encoder that has a coroutine method `ascore` is awaited, another runs in a thread.
    """
    if not hasattr(cross_encoder, "ascore"):
        return await in_thread(score_pairs, cross_encoder, pairs, instruction)
    if not pairs:
        return []
    if instruction is not None:
        cross_encoder = await in_thread(_instructed, cross_encoder, instruction)
    with _errors_of(cross_encoder, pairs):
        return one_a_pair(cross_encoder, await cross_encoder.ascore(pairs), pairs)


async def in_thread(call: Callable[..., T], *args: object) -> T:
    """Await a call that scores, in one of this package's own threads.

    Giving up waiting tells the call so: it ends at its next `check_cancelled`.
    """
    given_up = threading.Event()
    context = contextvars.copy_context()
    context.run(cancelled.set, given_up)
    loop = asyncio.get_running_loop()
    try:
        return await loop.run_in_executor(_executor.get(), partial(context.run, call, *args))
    finally:
        given_up.set()


def check_instruction(cross_encoder: BaseCrossEncoder, instruction: str | None) -> None:
    """Raise what is wrong with an instruction as far as it can be told without the model."""
    if instruction is not None and not isinstance(instruction, str):
        msg = f"instruction must be a str, got {type(instruction).__name__}"
        raise TypeError(msg)
    if instruction is not None and not hasattr(cross_encoder, "with_instruction"):
        kind = type(cross_encoder).__name__
        msg = f"{kind} takes no instruction, got {instruction!r:.80}: leave it out"
        raise ValueError(msg)


def _instructed(cross_encoder: BaseCrossEncoder, instruction: str | None) -> BaseCrossEncoder:
    check_instruction(cross_encoder, instruction)
    if instruction is None:
        return cross_encoder
    with_instruction: Callable[[str], BaseCrossEncoder] = cross_encoder.with_instruction  # type: ignore[attr-defined]  # just checked
    return with_instruction(instruction)


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
