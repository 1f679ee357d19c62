"""Ordering, cutting and merging of model inputs, as pure functions of plain data."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

LongDocuments = Literal["first", "max", "mean"]

# Rows that share fewer tokens, or fewer rows, are read whole.
_SHORTEST_PREFIX = 16
_FEWEST_ROWS = 4


def groups_by_size(
    pairs: Sequence[tuple[str, str]], characters: int = 4_000_000
) -> list[Sequence[tuple[str, str]]]:
    """Cut very large inputs into consecutive groups, as texts of a group are tokenized at once."""
    starts, size = [0], 0
    for position, (query, passage) in enumerate(pairs):
        size += len(query) + len(passage)
        if size > characters and position > starts[-1]:
            starts.append(position)
            size = len(query) + len(passage)
    return [pairs[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]


def batches_by_length(
    lengths: Sequence[int], token_budget: int, positions: Iterable[int] | None = None
) -> list[list[int]]:
    """Cut inputs of some lengths into batches of similar length.

    Args:
        lengths: Tokens of each input.
        token_budget: Most tokens a batch may hold once padded to its longest input. An input
            longer than the budget is a batch of its own.
        positions: Of the inputs that count; None for all.

    Returns:
        Batches of positions in `lengths`, longest inputs first, so that a batch that does not
        fit into memory is met at once and not after minutes of work.
    """
    batches: list[list[int]] = []
    longest = 0
    chosen = range(len(lengths)) if positions is None else positions
    for position in sorted(chosen, key=lambda position: -lengths[position]):
        if not batches or (len(batches[-1]) + 1) * longest > token_budget:
            batches.append([])
            longest = lengths[position]
        batches[-1].append(position)
    return batches


def pad_batch(
    features: Mapping[str, Sequence[Sequence[int]]],
    batch: Sequence[int],
    pad_token_id: int,
    side: str,
    multiple: int = 1,
) -> dict[str, npt.NDArray[np.int64]]:
    """Stack the rows of one batch for each input of a model.

    Args:
        features: Rows of token ids and masks by input name.
        batch: Positions of the rows.
        pad_token_id: What fills the rows of "input_ids"; the masks are filled with 0.
        side: "right" or "left": where the filling goes, as tokenizers' `padding_side`.
        multiple: The width is one of it.

    Returns:
        Arrays of shape (rows, longest row rounded up).
    """
    width = -(-max(len(features["input_ids"][row]) for row in batch) // multiple) * multiple
    padded = {}
    for name, rows in features.items():
        fill = pad_token_id if name == "input_ids" else 0
        padded[name] = np.full((len(batch), width), fill, dtype=np.int64)
        for target, row in zip(padded[name], (rows[position] for position in batch), strict=True):
            target[slice(len(row)) if side == "right" else slice(width - len(row), width)] = row
    return padded


def without_prefix(
    features: Mapping[str, Sequence[Sequence[int]]],
) -> tuple[list[int], dict[str, list[Sequence[int]]]]:
    """Take off what all rows of token ids start with, where that is much for many rows.

    Returns:
        The common tokens, none where they are not worth it, and what is left of each row: at
        least one token.
    """
    rows = features["input_ids"]
    # Of the first and the last in order, no others start with less in common.
    ends = min(map(list, rows)), max(map(list, rows))
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*ends, strict=False)))
    shared = min(same, min(map(len, rows)) - 1)
    if shared < _SHORTEST_PREFIX or len(rows) < _FEWEST_ROWS:
        shared = 0
    left = {name: [row[shared:] for row in given] for name, given in features.items()}
    return list(rows[0][:shared]), left


def merge_windows(
    window_scores: npt.NDArray[np.float64], owners: Sequence[int], how: LongDocuments
) -> npt.NDArray[np.float64]:
    """Reduce the scores of a document's windows to one: FirstP, MaxP or AvgP.

    Source: Dai and Callan, "Deeper Text Understanding for IR with Contextual Neural Language
    Modeling", SIGIR 2019.

    Args:
        window_scores: Shape (windows,).
        owners: The document each window belongs to, ascending from 0 without gaps.
        how: "first", "max" or "mean" of a document's windows.

    Returns:
        Shape (documents,).
    """
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    if how == "first":
        return window_scores[starts]
    if how == "max":
        return np.maximum.reduceat(window_scores, starts)
    return np.add.reduceat(window_scores, starts) / np.diff(starts, append=len(owners))


def sigmoid(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Map logits to 0–1 without overflow, in float64 so that close logits stay distinct.

    NaN stays NaN.
    """
    with np.errstate(invalid="ignore"):
        return np.exp(-np.logaddexp(0.0, -logits))
