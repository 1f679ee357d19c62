"""The shapes that /rerank servers speak: bodies built, replies checked; no I/O."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError, create_model

from langchain_rerank.cross_encoders.batching import sigmoid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

DialectName = Literal["cohere", "tei", "voyage", "nvidia", "pinecone", "llamacpp"]
# What decides which scores come back, so that `extra_body` can't set it.
RESERVED = frozenset(
    {"documents", "instruction", "model", "passages", "query", "texts", "top_k", "top_n"}
)
# "msg" is of FastAPI's list, whose "input", which comes after it, repeats the documents.
_SAID = re.compile(
    r'"(?:message|error|detail|msg)"\s*:\s*("(?:[^"\\]|\\(?:["\\/bfnrt]|u[\da-fA-F]{4}))*")'
)


def _documents(query: str, documents: Sequence[object]) -> dict[str, Any]:
    return {"query": query, "documents": documents, "top_n": len(documents)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one kind of server is asked and answers.

    `fields` makes a body's own fields of a query and its passages. The reply's field `results`
    (None: the reply itself) lists an `index` and a `score` each, which may be `logits`, of which we
    make 0–1. `path` is that of a url without one; `key_header` holds the key.
    """

    fields: Callable[[str, list[str]], dict[str, Any]] = _documents
    results: str | None = "results"
    score: str = "relevance_score"
    logits: bool = False
    instruction: bool = False
    max_documents: int = 1000
    path: str = "/rerank"
    key_header: str = "authorization"
    headers: Mapping[str, str] = field(default_factory=dict)


DIALECTS: dict[DialectName, Dialect] = {
    # https://docs.cohere.com/reference/rerank; vLLM and Contextual AI take an instruction.
    "cohere": Dialect(instruction=True),
    # https://huggingface.github.io/text-embeddings-inference; it refuses texts that are too long
    # unless told to cut them, and more than 32 unless its --max-client-batch-size allows them.
    "tei": Dialect(
        fields=lambda query, texts: {"query": query, "texts": texts, "truncate": True},
        results=None,
        score="score",
        max_documents=32,
    ),
    # https://docs.voyageai.com/reference/reranker-api
    "voyage": Dialect(
        fields=lambda query, texts: {"query": query, "documents": texts, "top_k": len(texts)},
        results="data",
        path="/v1/rerank",
    ),
    # https://docs.nvidia.com/nim/nemo-retriever/text-reranking; 32 as NVIDIA's own LangChain client
    "nvidia": Dialect(
        fields=lambda query, texts: {
            "query": {"text": query},
            "passages": [{"text": text} for text in texts],
            "truncate": "END",
        },
        results="rankings",
        score="logit",
        logits=True,
        max_documents=32,
        path="/v1/ranking",
    ),
    # https://docs.pinecone.io/reference/api/2026-07/inference/rerank-results
    "pinecone": Dialect(
        fields=lambda query, texts: {
            **_documents(query, [{"text": text} for text in texts]),
            "return_documents": False,
            "parameters": {"truncate": "END"},
        },
        results="data",
        score="score",
        max_documents=100,
        key_header="api-key",
        headers={"x-pinecone-api-version": "2026-07"},
    ),
    # https://github.com/ggml-org/llama.cpp/tree/master/tools/server
    "llamacpp": Dialect(logits=True),
}


def split(
    pairs: Sequence[tuple[str, str]], max_documents: int
) -> Iterator[tuple[str, Sequence[int]]]:
    """Give each request's query and its pairs' positions, large groups cut evenly."""
    groups: dict[str, list[int]] = {}
    for position, (query, _) in enumerate(pairs):
        groups.setdefault(query, []).append(position)
    for query, positions in groups.items():
        count = -(-len(positions) // max_documents)
        yield from ((query, positions[part::count]) for part in range(count))


def scores(dialect: Dialect, reply: bytes, count: int) -> list[float]:
    """Read the scores out of a reply, in the order in which the passages were sent.

    Raises:
        ValueError: It is anything but one finite score for each of `count` passages; the message
            holds no text of them.
    """
    try:
        read = _reply_of(dialect.results, dialect.score).validate_json(reply)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, wrong["loc"])) or "the reply"
        msg = f"expected a {dialect.score} and index each, got {len(reply)} bytes; {place}: "
        # Not from pydantic's error, which shows the reply.
        raise ValueError(msg + wrong["msg"]) from None
    results = read.results if dialect.results else read
    found = {result.index: result.score for result in results}
    if len(results) != count or found.keys() != set(range(count)):
        indices = f"{[result.index for result in results]!r:.80}"
        msg = f"expected {count} results, each index from 0 to {count - 1} once, got {indices}"
        raise ValueError(msg)
    ordered = [found[index] for index in range(count)]
    return sigmoid(np.array(ordered)).tolist() if dialect.logits else ordered


@functools.cache
def _reply_of(results: str | None, score: str) -> TypeAdapter[Any]:
    finite = Field(strict=True, allow_inf_nan=False, validation_alias=score)
    index = Annotated[int, Field(strict=True)]
    result: Any = create_model("Result", index=index, score=Annotated[float, finite])
    listed = create_model("Reply", results=(list[result], Field(alias=results)))
    return TypeAdapter(listed if results else list[result])


def error_message(reply: bytes) -> str:
    """Find what a server says about an error: one line, not yet trimmed, empty for nothing."""
    text = reply.decode("utf-8", "replace")
    if found := _SAID.search(text):
        text = json.loads(found[1], strict=False)
    elif text.lstrip().startswith(("<", "{", "[")):
        # A proxy's page tells no more than the status does.
        text = ""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
