"""From pairs of texts to the token ids that a model reads, by the model's own fast tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Neighbouring windows share this part of their passage tokens, so that an answer that one
# window cuts in two stands whole in the next.
WINDOW_OVERLAP = 0.25


@dataclass(frozen=True, slots=True)
class Windows:
    """Model inputs, one or more for each pair of texts.

    Attributes:
        features: Rows of token ids and masks by input name, each with one row a window.
        owners: The pair each window belongs to, ascending.
        truncated: How many pairs lost the end of their passage.
    """

    features: Mapping[str, Sequence[Sequence[int]]]
    owners: list[int]
    truncated: int


def check_pairs(text_pairs: Sequence[tuple[str, str]]) -> None:
    """Raise a `TypeError` that names the first text that is not a str."""
    for position, pair in enumerate(text_pairs):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:  # noqa: PLR2004
            msg = f"pair {position} must be (query, passage), got {pair!r:.80}"
            raise TypeError(msg)
        for name, text in zip(("query", "passage"), pair, strict=True):
            if not isinstance(text, str):
                msg = f"the {name} of pair {position} must be a str, got {type(text).__name__}"
                raise TypeError(msg)


def truncate_queries(tokenizer: Any, queries: Sequence[str], max_tokens: int) -> list[str]:
    """Cut each query's text after `max_tokens` tokens; shorter ones come back as they are."""
    cut: dict[str, str] = {}
    for query in dict.fromkeys(queries):
        spans = tokenizer(
            query,
            add_special_tokens=False,
            truncation=True,
            max_length=max_tokens + 1,
            return_offsets_mapping=True,
        )["offset_mapping"]
        cut[query] = query[: spans[max_tokens - 1][1]] if len(spans) > max_tokens else query
    return [cut[query] for query in queries]


def encode_first(tokenizer: Any, pairs: Sequence[tuple[str, str]], max_length: int) -> Windows:
    """Encode each pair once, the passage cut where `max_length` tokens are full."""
    queries, passages = zip(*pairs, strict=True)
    encoded = tokenizer(
        list(queries), list(passages), truncation="only_second", max_length=max_length
    )
    truncated = sum(bool(encoding.overflowing) for encoding in encoded.encodings)
    return Windows(dict(encoded), list(range(len(pairs))), truncated)


def encode_windows(tokenizer: Any, pairs: Sequence[tuple[str, str]], max_length: int) -> Windows:
    """Encode each pair as overlapping windows that together cover the whole passage.

    A pair's windows depend on nothing but the pair: each is cut by itself, with an overlap
    that follows from the room that its own query leaves.
    """
    features: dict[str, list[list[int]]] = {}
    owners: list[int] = []
    specials = tokenizer.num_special_tokens_to_add(pair=True)
    for owner, (query, passage) in enumerate(pairs):
        room = max_length - specials - len(tokenizer(query, add_special_tokens=False)["input_ids"])
        # In lists, as a lone empty passage would be taken for none and lose its separator.
        encoded = tokenizer(
            [query],
            [passage],
            truncation="only_second",
            max_length=max_length,
            stride=int(room * WINDOW_OVERLAP),
            return_overflowing_tokens=True,
        )
        owners += [owner] * len(encoded.pop("overflow_to_sample_mapping"))
        for name, rows in encoded.items():
            features.setdefault(name, []).extend(rows)
    return Windows(features, owners, 0)


def text_windows(
    tokenizer: Any, pairs: Sequence[tuple[str, str]], max_length: int
) -> tuple[list[tuple[str, str]], list[int]]:
    """Cut passages as `encode_windows` does, but give texts, for models that take only texts.

    Returns:
        The pairs, and for each of them the position in `pairs` that it comes from.
    """
    windows: list[tuple[str, str]] = []
    owners: list[int] = []
    for owner, (query, passage) in enumerate(pairs):
        query_tokens = len(tokenizer(query, add_special_tokens=False)["input_ids"])
        room = max(max_length - query_tokens, 1)
        encoded = tokenizer(
            passage,
            add_special_tokens=False,
            truncation=True,
            max_length=room,
            stride=int(room * WINDOW_OVERLAP),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        for spans in encoded["offset_mapping"]:
            windows.append((query, passage[spans[0][0] : spans[-1][1]] if spans else passage))
            owners.append(owner)
    return windows, owners
