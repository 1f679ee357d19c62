"""From pairs of texts to the token ids that a model reads, by the model's own fast tokenizer."""

from __future__ import annotations

import functools
import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_rerank.errors import ScoringError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from langchain_rerank.cross_encoders.checkpoint import Checkpoint

    Pairs = Sequence[tuple[str, str]]

QUERY, PASSAGE, INSTRUCTION = "\ue0f0query\ue0f1", "\ue0f0passage\ue0f1", "\ue0f0instruction\ue0f1"
# Neighbouring windows share this part of their passage tokens, so that an answer that one
# window cuts in two stands whole in the next.
WINDOW_OVERLAP = 0.25
# Texts are cut to a start that has enough tokens before they are tokenized: what a model won't
# read costs time and memory. Few tokens are longer than this; where they are, more is taken.
_CHARACTERS_A_TOKEN = 16
# The last tokens of a start may be others than those of the whole text.
_SPARE_TOKENS = 64
_BARE = {"add_special_tokens": False}


@dataclass(frozen=True, slots=True)
class Frame:
    """Texts with places for the query and the passage, each made into tokens by itself."""

    segments: tuple[str, ...]  # in order; the passage stands in one of them, once
    instruction: str | None = None  # in the instruction's place; None: there is no such place
    instruction_format: str = "{}"  # how a user's instruction is written there
    strip: bool = False  # white space around query and passage is dropped
    bos: bool = False  # the tokenizer's first token, if it is not padding, comes first
    # The passage's segment alone counts towards `max_length`, as FlagEmbedding has it, or all with
    # two ends' length on top, whichever is less.
    uncounted_end: bool = False

    def fill(self, text: str, query: str, passage: str = "") -> str:
        """Put texts into their places in a part of a segment."""
        parts = text.replace(INSTRUCTION, self.instruction or "").split(PASSAGE)
        return passage.join(part.replace(QUERY, query) for part in parts)


@dataclass(frozen=True, slots=True)
class Windows:
    """Model inputs, one or more for each pair of texts."""

    features: Mapping[str, Sequence[list[int]]]  # rows by input name, each with one a window
    owners: list[int]  # the pair each window belongs to, ascending
    truncated: int = 0  # how many pairs lost the end of their passage


def known_frame(model: str) -> dict[str, Any] | None:
    """Look up a `Checkpoint`'s fields by the last part of a model's name that no trainer gave."""
    parts = [part for part in re.split(r"[/\\]", model.lower()) if part]
    name = next((part for part in reversed(parts) if not part.startswith("checkpoint-")), "")
    table = Path(__file__).with_name("known_models.toml").read_text(encoding="utf-8")
    for known in tomllib.loads(table).values():
        if re.fullmatch(known.pop("name"), name):
            places = {"{query}": QUERY, "{passage}": PASSAGE, "{instruction}": INSTRUCTION}
            segments = known["frame"].pop("segments")
            for place, marker in places.items():
                segments = [segment.replace(place, marker) for segment in segments]
            return {**known, "frame": Frame(tuple(segments), **known["frame"])}
    return None


def frame_of_checkpoint(
    checkpoint: Checkpoint, tokenizer: Any, instruction: str | None
) -> Frame | None:
    """Find what stands around a pair; None where pairs are encoded as such.

    Raises:
        ValueError: The model takes no instruction; or its chat template can't carry a pair, or
            does more with the texts than stand around them.
    """
    frame, taken = checkpoint.frame, instruction is None
    if checkpoint.template is not None:
        prompt = checkpoint.prompt if instruction is None else instruction
        frame = _frame_of_template(tokenizer, checkpoint.template, prompt)
        taken = taken or prompt in frame.segments[0]
    elif instruction is not None and frame is not None and frame.instruction is not None:
        frame = replace(frame, instruction=frame.instruction_format.format(instruction))
        taken = True
    if not taken:
        msg = (
            f"instruction was given, but {checkpoint.folder} takes none; query_instruction is put "
            "before the query of any model"
        )
        raise ValueError(msg)
    return frame


def _frame_of_template(tokenizer: Any, keywords: Mapping[str, Any], prompt: str) -> Frame:
    """Find out what a chat template puts around a pair, by rendering it."""
    whole = _render(tokenizer, keywords, prompt, QUERY, PASSAGE)
    if QUERY not in whole or whole.count(PASSAGE) != 1:
        msg = (
            "its chat template can't carry a pair: it shows no messages of the roles 'query' and "
            "'document'. Save one that does as chat_template.jinja."
        )
        raise ValueError(msg)
    odd = " \n a {{ }} <b> 'q' ", "\t d\n\nd \\ & é "
    rendered = _render(tokenizer, keywords, prompt, *odd)
    for strip, texts in ((False, odd), (True, [text.strip() for text in odd])):
        frame = Frame((whole,), strip=strip)
        if frame.fill(whole, *texts) == rendered:
            return frame
    msg = "its chat template changes the texts of query or document, which is not done."
    raise ValueError(msg)


def _render(tokenizer: Any, keywords: Mapping[str, Any], prompt: str, *texts: str) -> str:
    # As sentence-transformers tells templates that take parts of content from plain ones.
    marks = ("content[0]", ".type", "'type'", '"type"', "message.content[")
    parts = any(mark in tokenizer.get_chat_template() for mark in marks)
    roles = zip(("system", "query", "document"), (prompt, *texts), strict=True)
    messages = [
        {"role": role, "content": [{"type": "text", "text": text}] if parts else text}
        for role, text in roles
        if text or role != "system"
    ]
    rendered: str = tokenizer.apply_chat_template(messages, tokenize=False, **keywords)
    return rendered


def check_pairs(text_pairs: Pairs) -> None:
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
        start = start_of(tokenizer, query, max_tokens)
        encoded = tokenizer(start, **_BARE, return_offsets_mapping=True)
        spans = encoded["offset_mapping"]
        cut[query] = query[: spans[max_tokens - 1][1]] if len(spans) > max_tokens else query
    return [cut[query] for query in queries]


def encode(
    tokenizer: Any,
    pairs: Pairs,
    max_length: int,
    frame: Frame | None = None,
    *,
    whole: bool = False,
) -> Windows:
    """Make pairs into token ids, at most `max_length` of them; only the passage is ever cut.

    Args:
        tokenizer: The model's own.
        pairs: (query, passage) each.
        max_length: Most tokens of an input.
        frame: What stands around the texts of a language model; None for the tokenizer's own.
        whole: Read the whole passage in overlapping windows, not only its start.
    """
    if frame is not None:
        return _encode_framed(tokenizer, pairs, max_length, frame, whole=whole)
    if not whole:
        queries, passages = zip(*pairs, strict=True)
        starts = [start_of(tokenizer, passage, max_length) for passage in passages]
        encoded = tokenizer(list(queries), starts, truncation="only_second", max_length=max_length)
        truncated = sum(bool(encoding.overflowing) for encoding in encoded.encodings)
        return Windows(dict(encoded), list(range(len(pairs))), truncated)
    features: dict[str, list[list[int]]] = {}
    owners: list[int] = []
    cut = {"truncation": "only_second", "max_length": max_length, "return_overflowing_tokens": True}
    for owner, (query, passage) in enumerate(pairs):
        # In lists, as a lone empty passage would be taken for none and lose its separator.
        room = max_length - len(tokenizer([query], [""])["input_ids"][0])
        encoded = tokenizer([query], [passage], stride=int(room * WINDOW_OVERLAP), **cut)
        owners += [owner] * len(encoded.pop("overflow_to_sample_mapping"))
        for name, rows in encoded.items():
            features.setdefault(name, []).extend(rows)
    return Windows(features, owners)


def _encode_framed(
    tokenizer: Any, pairs: Pairs, max_length: int, frame: Frame, *, whole: bool
) -> Windows:
    number = next(i for i, segment in enumerate(frame.segments) if PASSAGE in segment)
    left, _, right = frame.segments[number].partition(PASSAGE)
    bos = tokenizer.bos_token_id
    first = [bos] if frame.bos and bos not in (None, tokenizer.pad_token_id) else []

    @functools.cache
    def ids_of(segments: tuple[str, ...], query: str) -> list[int]:
        texts = (frame.fill(segment, query) for segment in segments)
        return [id_ for text in texts for id_ in tokenizer(text, **_BARE)["input_ids"]]

    rows, owners, truncated = [], [], 0
    for owner, pair in enumerate(pairs):
        query, passage = (text.strip() if frame.strip else text for text in pair)
        start = passage if whole else start_of(tokenizer, passage, max_length)
        parts = frame.fill(left, query), start, frame.fill(right, query)
        before, inside, after = _encode_parts(tokenizer, *parts)
        head = first + ids_of(frame.segments[:number], query)
        end = ids_of(frame.segments[number + 1 :], query)
        room = max_length - len(head) - len(before) - len(after) - len(end)
        if frame.uncounted_end:
            # FlagEmbedding makes room for the end twice.
            room = min(room + 2 * len(end), max_length - len(before) - len(after))
        if room < 1:
            msg = (
                f"max_length={max_length} leaves no room for the passage: the model's prompt and "
                f"the query take {max_length - room} tokens"
            )
            raise ValueError(msg)
        truncated += not whole and (len(inside) > room or len(start) < len(passage))
        step = room - int(room * WINDOW_OVERLAP)
        for at in range(0, max(len(inside) - room, 0) + step, step) if whole else (0,):
            rows.append([*head, *before, *inside[at : at + room], *after, *end])
            owners.append(owner)
    masks = [[1] * len(row) for row in rows]
    return Windows({"input_ids": rows, "attention_mask": masks}, owners, truncated)


def _encode_parts(tokenizer: Any, *texts: str) -> tuple[list[int], ...]:
    """Encode three texts as one, and tell the tokens of each."""
    encoded = tokenizer("".join(texts), **_BARE, return_offsets_mapping=True)
    ids, spans = encoded["input_ids"], encoded["offset_mapping"]
    begin, end = len(texts[0]), len(texts[0]) + len(texts[1])
    first = next((i for i, (_, stop) in enumerate(spans) if stop > begin), len(ids))
    last = next((i for i, (start, _) in enumerate(spans) if start >= end), len(ids))
    return ids[:first], ids[first:last], ids[max(first, last) :]
