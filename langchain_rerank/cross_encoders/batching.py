"""Ordering, cutting and merging of model inputs, as pure functions of plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

LongDocuments = Literal["first", "max", "mean"]
Output = TypeVar("Output")


# Rows that share fewer tokens, or fewer rows, are read whole.
_SHORTEST_PREFIX = 16
_FEWEST_ROWS = 4
# Texts of one group are tokenized at once; more would only take memory.
_CHARACTERS_A_GROUP = 4_000_000


def groups_by_size(pairs: Sequence[tuple[str, str]]) -> list[Sequence[tuple[str, str]]]:
    """Cut very large inputs into consecutive groups whose texts fit into memory side by side."""
    groups: list[Sequence[tuple[str, str]]] = []
    start = size = 0
    for position, (query, passage) in enumerate(pairs):
        size += len(query) + len(passage)
        if size > _CHARACTERS_A_GROUP and position > start:
            groups.append(pairs[start:position])
            start, size = position, len(query) + len(passage)
    return [*groups, pairs[start:]]


def batches_by_length(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Cut inputs into batches of similar length.

    Args:
        lengths: Tokens of each input.
        token_budget: Most tokens a batch may hold once padded to its longest input. An input
            longer than the budget is a batch of its own.

    Returns:
        Batches of positions in `lengths`, longest inputs first, so that a batch that does not
        fit into memory is met at once and not after minutes of work.
    """
    batches: list[list[int]] = []
    longest = 0
    for position in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or (len(batches[-1]) + 1) * longest > token_budget:
            batches.append([])
            longest = lengths[position]
        batches[-1].append(position)
    return batches


def run_in_batches(
    lengths: Sequence[int],
    token_budget: int,
    forward: Callable[[list[int]], Output],
    out_of_memory: type[BaseException],
) -> tuple[list[list[int]], list[Output], int]:
    """Call `forward` on every batch, halving the token budget whenever memory runs out.

    Args:
        lengths: Tokens of each input.
        token_budget: Where to start; see `batches_by_length`.
        forward: Takes positions in `lengths`.
        out_of_memory: The one exception that means "try smaller"; raised again once a single
            input does not fit. Every other exception passes through.

    Returns:
        The batches that ran, what `forward` gave for each, and the token budget that held.
    """
    waiting = batches_by_length(lengths, token_budget)
    done: list[list[int]] = []
    outputs: list[Output] = []
    while waiting:
        batch = waiting[0]
        try:
            outputs.append(forward(batch))
        except out_of_memory:
            if len(batch) == 1:
                raise
            token_budget = min(token_budget, max(map(lengths.__getitem__, batch)) * len(batch)) // 2
            rest = [position for batch in waiting for position in batch]
            cut = batches_by_length([lengths[position] for position in rest], token_budget)
            waiting = [[rest[i] for i in positions] for positions in cut]
        else:
            done.append(waiting.pop(0))
    return done, outputs, token_budget


def pad(
    rows: Sequence[Sequence[int]], value: int, side: str, multiple: int = 1
) -> npt.NDArray[np.int64]:
    """Stack rows of token ids into one array, shape (rows, longest row rounded up).

    Args:
        rows: Token ids, or masks, of each input.
        value: What fills the shorter rows.
        side: "right" or "left": where the filling goes, as tokenizers' `padding_side`.
        multiple: The width is one of it.
    """
    width = -(-max(map(len, rows)) // multiple) * multiple
    padded = np.full((len(rows), width), value, dtype=np.int64)
    for target, row in zip(padded, rows, strict=True):
        target[slice(len(row)) if side == "right" else slice(width - len(row), width)] = row
    return padded


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
        side: As in `pad`.
        multiple: As in `pad`.
    """
    return {
        name: pad(
            [rows[position] for position in batch],
            pad_token_id if name == "input_ids" else 0,
            side,
            multiple,
        )
        for name, rows in features.items()
    }


def without_prefix(
    features: Mapping[str, Sequence[Sequence[int]]],
) -> tuple[list[int], dict[str, list[Sequence[int]]]]:
    """Take off what all rows of token ids start with, where that is much for many rows.

    Returns:
        The common tokens, none where they are not worth it, and what is left of each row.
    """
    rows = features["input_ids"]
    # Of the first and the last in order, no others start with less in common.
    low, high = min(map(list, rows)), max(map(list, rows))
    shared = next(
        (i for i, pair in enumerate(zip(low, high, strict=False)) if pair[0] != pair[1]), len(low)
    )
    # A token must be left to each.
    shared = min(shared, min(map(len, rows)) - 1)
    if shared < _SHORTEST_PREFIX or len(rows) < _FEWEST_ROWS:
        shared = 0
    left = {name: [row[shared:] for row in given] for name, given in features.items()}
    return list(rows[0][:shared]), left


def merge_windows(
    window_scores: npt.NDArray[np.float64], owners: Sequence[int], how: LongDocuments
) -> npt.NDArray[np.float64]:
    """Reduce the scores of a document's windows to one score each document.

    FirstP, MaxP and AvgP of Dai and Callan, "Deeper Text Understanding for IR with Contextual
    Neural Language Modeling", SIGIR 2019.

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
    sizes = np.diff(starts, append=len(owners))
    return np.add.reduceat(window_scores, starts) / sizes


def sigmoid(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Map logits to 0–1 without overflow, in float64 so that close logits stay distinct.

    NaN stays NaN.
    """
    with np.errstate(invalid="ignore"):
        return np.exp(-np.logaddexp(0.0, -logits))
