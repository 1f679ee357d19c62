"""From pairs of texts to the token ids that a model reads, by the model's own fast tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_rerank.cross_encoders.frames import PASSAGE, QUERY, parts
from langchain_rerank.errors import ScoringError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from langchain_rerank.cross_encoders.frames import Frame

# Neighbouring windows share this part of their passage tokens, so that an answer that one
# window cuts in two stands whole in the next.
WINDOW_OVERLAP = 0.25
# Texts are cut to a start that has enough tokens before they are tokenized: what a model won't
# read costs time and memory. Few tokens are longer than this; where they are, more is taken.
_CHARACTERS_A_TOKEN = 16
# The last tokens of a start may be others than those of the whole text.
_SPARE_TOKENS = 64


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
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:  # noqa: PLR2004  # a pair
            msg = f"pair {position} must be (query, passage), got {pair!r:.80}"
            raise TypeError(msg)
        for name, text in zip(("query", "passage"), pair, strict=True):
            if not isinstance(text, str):
                msg = f"the {name} of pair {position} must be a str, got {type(text).__name__}"
                raise TypeError(msg)


def one_a_pair(
    cross_encoder: object, scores: Iterable[float], pairs: Sequence[object]
) -> list[float]:
    """Give what a cross encoder gave as floats, or raise a `ScoringError`: one a pair is due."""
    found = [float(score) for score in scores]
    if len(found) != len(pairs):
        msg = f"{type(cross_encoder).__name__} gave {len(found)} scores for {len(pairs)} pairs"
        raise ScoringError(msg)
    return found


def start_of(tokenizer: Any, text: str, tokens: int) -> str:
    """Cut a text that is far longer than some number of tokens, to a start that has them."""
    characters = (tokens + _SPARE_TOKENS) * _CHARACTERS_A_TOKEN
    while characters < len(text):
        start = text[:characters]
        if len(tokenizer.tokenize(start)) > tokens + _SPARE_TOKENS:
            return start
        characters *= 4
    return text


def truncate_queries(tokenizer: Any, queries: Sequence[str], max_tokens: int) -> list[str]:
    """Cut each query's text after `max_tokens` tokens; shorter ones come back as they are."""
    cut: dict[str, str] = {}
    for query in dict.fromkeys(queries):
        spans = tokenizer(
            start_of(tokenizer, query, max_tokens),
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
        list(queries),
        [start_of(tokenizer, passage, max_length) for passage in passages],
        truncation="only_second",
        max_length=max_length,
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


def encode_framed(
    tokenizer: Any,
    frame: Frame,
    pairs: Sequence[tuple[str, str]],
    max_length: int,
    *,
    whole: bool,
) -> Windows:
    """Encode pairs inside a language model's prompt; only the passage is ever cut.

    Args:
        tokenizer: The model's own.
        frame: What stands around the texts.
        pairs: (query, passage) each.
        max_length: Most tokens of an input.
        whole: Read the whole passage in overlapping windows, not only its start.
    """
    split = next(i for i, segment in enumerate(frame.segments) if PASSAGE in segment)
    bos = tokenizer.bos_token_id
    first = [bos] if frame.bos and bos not in (None, tokenizer.pad_token_id) else []
    fixed: dict[tuple[str, str], list[int]] = {}

    def ids_of(segments: Iterable[str], query: str) -> list[int]:
        ids = []
        for segment in segments:
            key = segment, query if QUERY in segment else ""
            if key not in fixed:
                text = "".join(text for text, _ in parts(frame, segment, query, ""))
                fixed[key] = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids += fixed[key]
        return ids

    rows: list[list[int]] = []
    owners: list[int] = []
    truncated = 0
    for owner, (query, passage) in enumerate(pairs):
        start = passage if whole else start_of(tokenizer, passage, max_length)
        marker, inside, after = _encode_segment(
            tokenizer, parts(frame, frame.segments[split], query, start)
        )
        end = ids_of(frame.segments[split + 1 :], query)
        before = first + ids_of(frame.segments[:split], query) + marker
        room = max_length - len(before) - len(after) - len(end)
        if frame.uncounted_end:
            # FlagEmbedding makes room for the end twice.
            room = min(room + 2 * len(end), max_length - len(marker) - len(after))
        if room < 1:
            msg = (
                f"max_length={max_length} leaves no room for the passage: the model's prompt and "
                f"the query take {max_length - room} tokens"
            )
            raise ValueError(msg)
        truncated += not whole and (len(inside) > room or len(start) < len(passage))
        for window in _windows_of(inside, room, whole=whole):
            rows.append(before + window + after + end)
            owners.append(owner)
    masks = [[1] * len(row) for row in rows]
    return Windows({"input_ids": rows, "attention_mask": masks}, owners, truncated)


def _windows_of(tokens: list[int], room: int, *, whole: bool) -> list[list[int]]:
    if not whole or len(tokens) <= room:
        return [tokens[:room]]
    step = room - int(room * WINDOW_OVERLAP)
    return [tokens[at : at + room] for at in range(0, len(tokens) - room + step, step)]


def _encode_segment(
    tokenizer: Any, pieces: Sequence[tuple[str, bool]]
) -> tuple[list[int], list[int], list[int]]:
    """Encode one text and tell the passage's tokens from those before and after."""
    text = "".join(piece for piece, _ in pieces)
    at = next(i for i, (_, is_passage) in enumerate(pieces) if is_passage)
    begin = sum(len(piece) for piece, _ in pieces[:at])
    end = begin + len(pieces[at][0])
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, spans = encoded["input_ids"], encoded["offset_mapping"]
    first = next((i for i, (_, stop) in enumerate(spans) if stop > begin), len(ids))
    last = next((i for i, (start, _) in enumerate(spans) if start >= end), len(ids))
    last = max(first, last)
    return ids[:first], ids[first:last], ids[last:]


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
