"""What stands around query and passage in the input of a language model that reranks."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_rerank.cross_encoders.checkpoint import Checkpoint

QUERY, PASSAGE, INSTRUCTION = "\ue0f0query\ue0f1", "\ue0f0passage\ue0f1", "\ue0f0instruction\ue0f1"


@dataclass(frozen=True, slots=True)
class Frame:
    """Texts with places for the query and the passage, each made into tokens by itself.

    Attributes:
        segments: In order; the passage stands in one of them, once.
        instruction: What fills the place of the instruction; None where there is no such place.
        instruction_format: How a user's instruction is written there.
        strip: White space around query and passage is dropped.
        bos: The tokenizer's first token, where it has one other than padding, comes first.
        uncounted_end: The passage's segment alone counts towards `max_length`, as FlagEmbedding
            has it, or all with two ends' length on top, whichever is less.
    """

    segments: tuple[str, ...]
    instruction: str | None = None
    instruction_format: str = "{}"
    strip: bool = False
    bos: bool = False
    uncounted_end: bool = False


_QWEN3 = Frame(
    (
        (
            "<|im_start|>system\nJudge whether the Document meets the requirements based on the "
            'Query and the Instruct provided. Note that the answer can only be "yes" or "no".'
            "<|im_end|>\n<|im_start|>user\n"
        ),
        f"<Instruct>: {INSTRUCTION}\n<Query>: {QUERY}\n<Document>: {PASSAGE}",
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    ),
    instruction="Given a web search query, retrieve relevant passages that answer the query",
)
_MXBAI = Frame(
    (
        (
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful "
            "assistant.<|im_end|>\n<|im_start|>user\n"
        ),
        f"{INSTRUCTION}query: {QUERY}",
        "\n",
        f"document: {PASSAGE}",
        "\n",
        (
            "You are a search relevance expert who evaluates how well documents match search "
            "queries. For each query-document pair, carefully analyze the semantic relationship "
            "between them, then provide your binary relevance judgment (0 for not relevant, 1 for "
            "relevant).\nRelevance:"
        ),
        "<|im_end|>\n<|im_start|>assistant\n",
    ),
    instruction="",
    instruction_format="instruction: {}\n",
)
_BGE_GEMMA = Frame(
    (
        f"A: {QUERY}",
        "\n",
        f"B: {PASSAGE}",
        "\n",
        (
            "Given a query A and a passage B, determine whether the passage contains an answer to "
            "the query by providing a prediction of either 'Yes' or 'No'."
        ),
    ),
    bos=True,
    uncounted_end=True,
)
_ZERANK = Frame(
    (
        (
            f"<|im_start|>system\n{QUERY}<|im_end|>\n<|im_start|>user\n{PASSAGE}<|im_end|>\n"
            "<|im_start|>assistant\n"
        ),
    ),
    strip=True,
)
# Published checkpoints whose files don't say how they score; their cards and code do.
_KNOWN: tuple[tuple[str, dict[str, Any]], ...] = (
    (r"qwen3-reranker-[\d.]+b", {"frame": _QWEN3, "true_token": "yes", "false_token": "no"}),
    (r"mxbai-rerank-\w+-v2", {"frame": _MXBAI, "true_token": "1", "false_token": "0"}),
    (r"bge-reranker-v2-gemma", {"frame": _BGE_GEMMA, "true_token": "Yes"}),
    (r"zerank-[\w-]+", {"frame": _ZERANK, "true_token": "Yes", "divisor": 5.0}),
)


def known_frame(model: str) -> dict[str, Any] | None:
    """Look up a causal language model by the last part of its name.

    Returns:
        Fields of a `Checkpoint`: frame, tokens and divisor; None for a name that is not known.
    """
    parts = [part for part in re.split(r"[/\\]", model) if part]
    if parts and parts[-1].startswith("checkpoint-"):
        parts.pop()
    name = parts[-1].lower() if parts else ""
    return next((known for pattern, known in _KNOWN if re.fullmatch(pattern, name)), None)


def instructed(frame: Frame, instruction: str | None) -> Frame:
    """Put a user's instruction into a frame.

    Raises:
        ValueError: The frame has no place for one.
    """
    if instruction is None:
        return frame
    if frame.instruction is None:
        msg = "the model takes no instruction"
        raise ValueError(msg)
    return replace(frame, instruction=frame.instruction_format.format(instruction))


def frame_of_checkpoint(
    checkpoint: Checkpoint, tokenizer: Any, instruction: str | None
) -> Frame | None:
    """Find what stands around a pair; None where pairs are encoded as such.

    Raises:
        ValueError: There is an instruction, and the model takes none.
    """
    if checkpoint.frame is not None:
        return instructed(checkpoint.frame, instruction)
    if checkpoint.template is not None:
        prompt = checkpoint.prompt if instruction is None else instruction
        frame = frame_of_template(tokenizer, dict(checkpoint.template), prompt)
        if instruction is None or prompt in "".join(frame.segments):
            return frame
    elif instruction is None:
        return None
    msg = (
        f"instruction was given, but {checkpoint.folder} takes none; query_instruction is put "
        "before the query of any model"
    )
    raise ValueError(msg)


def frame_of_template(tokenizer: Any, arguments: dict[str, Any], prompt: str) -> Frame:
    """Find out what a chat template puts around a pair, by rendering it.

    Args:
        tokenizer: Holds the template.
        arguments: Keywords for it.
        prompt: The system message; "" for none.

    Raises:
        ValueError: The template can't carry a pair of query and document, or does more with the
            texts than put something around them.
    """
    whole = _render(tokenizer, arguments, prompt, QUERY, PASSAGE)
    if QUERY not in whole or whole.count(PASSAGE) != 1:
        msg = (
            "its chat template can't carry a pair: it shows no messages of the roles 'query' and "
            "'document'. Save one that does as chat_template.jinja."
        )
        raise ValueError(msg)
    for strip in (False, True):
        frame = Frame((whole,), strip=strip)
        texts = (" \n a {{ }} <b> 'q' ", "\t d\n\nd \\ & é ")
        filled = "".join(text for text, _ in parts(frame, whole, *texts))
        if filled == _render(tokenizer, arguments, prompt, *texts):
            return frame
    msg = "its chat template changes the texts of query or document, which is not done."
    raise ValueError(msg)


def _render(tokenizer: Any, arguments: dict[str, Any], prompt: str, *texts: str) -> str:
    template = tokenizer.get_chat_template()
    # As sentence-transformers tells templates that take parts of content from plain ones.
    marks = ("content[0]", ".type", "'type'", '"type"', "message.content[")
    structured = any(mark in template for mark in marks)
    roles = ("query", "document")
    messages: list[dict[str, Any]]
    messages = [{"role": "system", "content": prompt}] if prompt else []
    messages += [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    if structured:
        messages = [
            {**message, "content": [{"type": "text", "text": message["content"]}]}
            for message in messages
        ]
    rendered: str = tokenizer.apply_chat_template(messages, tokenize=False, **arguments)
    return rendered


def parts(frame: Frame, segment: str, query: str, passage: str) -> list[tuple[str, bool]]:
    """Cut a filled segment into what stands before, in and after the passage.

    Returns:
        Texts, each with whether it is the passage.
    """
    if frame.strip:
        query, passage = query.strip(), passage.strip()
    texts = {QUERY: query, PASSAGE: passage, INSTRUCTION: frame.instruction or ""}
    pieces = re.split("(" + "|".join(map(re.escape, texts)) + ")", segment)
    return [(texts.get(piece, piece), piece == PASSAGE) for piece in pieces]
