"""What stands around query and passage in the input of a language model that reranks."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_rerank.cross_encoders.checkpoint import Checkpoint

QUERY, PASSAGE, INSTRUCTION = "\ue0f0query\ue0f1", "\ue0f0passage\ue0f1", "\ue0f0instruction\ue0f1"


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


def known_frame(model: str) -> dict[str, Any] | None:
    """Look up a causal language model by the last part of its name, a checkpoint-… left out.

    Returns:
        Fields of a `Checkpoint`: frame, tokens and divisor; None for a name that is not known.
    """
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
        ValueError: There is an instruction, and the model takes none; or the chat template can't
            carry a pair of query and document, or does more with them than stand around them.
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
