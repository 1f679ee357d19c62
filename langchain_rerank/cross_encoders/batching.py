"""Ordering, cutting and merging of model inputs, as pure functions of plain data."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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


def batches_by_length(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Cut inputs into batches of positions, longest first: what doesn't fit is met at once.

    Padded to its longest input, a batch holds at most `token_budget` tokens; an input that is
    longer is a batch of its own.
    """
    batches: list[list[int]] = []
    longest = 0
    for position in sorted(range(len(lengths)), key=lambda position: -lengths[position]):
        if not batches or (len(batches[-1]) + 1) * longest > token_budget:
            batches.append([])
            longest = lengths[position]
        batches[-1].append(position)
    return batches


def pad_batch(
    features: Mapping[str, Sequence[Sequence[int]]],
    batch: Sequence[int],
    pad_token_id: int,
    multiple: int = 1,
) -> dict[str, npt.NDArray[np.int64]]:
    """Stack the rows of one batch, shape (rows, longest row rounded up to `multiple`).

    They are filled up on the right, where no model looks: encoders mask, decoders read from left.
    """
    width = -(-max(len(features["input_ids"][row]) for row in batch) // multiple) * multiple
    padded = {}
    for name, rows in features.items():
        fill = pad_token_id if name == "input_ids" else 0
        padded[name] = np.full((len(batch), width), fill, dtype=np.int64)
        for target, position in zip(padded[name], batch, strict=True):
            target[: len(rows[position])] = rows[position]
    return padded


def without_prefix(
    features: Mapping[str, Sequence[list[int]]],
) -> tuple[list[int], dict[str, list[list[int]]]]:
    """Take off the tokens that all rows start with, if worth it; at least one is left of each."""
    rows = features["input_ids"]
    equal = takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))
    shared = min(len(list(equal)), min(map(len, rows)) - 1)
    if shared < _SHORTEST_PREFIX or len(rows) < _FEWEST_ROWS:
        shared = 0
    left = {name: [row[shared:] for row in given] for name, given in features.items()}
    return rows[0][:shared], left


def merge_windows(
    window_scores: npt.NDArray[np.float64], owners: Sequence[int], how: LongDocuments
) -> npt.NDArray[np.float64]:
    """Reduce the scores of documents' windows to one each: FirstP, MaxP or AvgP.

    `owners` are the documents that the windows belong to, ascending from 0 without gaps.

    Source: Dai and Callan, "Deeper Text Understanding for IR with Contextual Neural Language
    Modeling", SIGIR 2019.
    """
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    if how == "first":
        return window_scores[starts]
    if how == "max":
        return np.maximum.reduceat(window_scores, starts)
    return np.add.reduceat(window_scores, starts) / np.diff(starts, append=len(owners))


def sigmoid(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Map logits to 0–1 without overflow, in float64 so that close ones stay distinct."""
    with np.errstate(invalid="ignore"):
        return np.exp(-np.logaddexp(0.0, -logits))
