"""The shapes that /rerank servers speak: bodies built, replies checked; no I/O."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from langchain_rerank.cross_encoders.batching import sigmoid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DialectName = Literal["cohere", "tei", "voyage", "nvidia", "pinecone", "llamacpp"]

# What decides which scores come back, so that more fields can't set it.
_RESERVED = frozenset(
    {"documents", "instruction", "model", "passages", "query", "texts", "top_k", "top_n"}
)
_MAX_MESSAGE = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one kind of server is asked and answers."""

    path: str = "/rerank"
    """Of a url that has none."""
    documents: str = "documents"
    """The body's field that holds the passages."""
    as_objects: bool = False
    """Each passage is sent as `{"text": …}`."""
    query_as_object: bool = False
    top: str | None = "top_n"
    """The body's field for the number of results; None has none and gets all."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Fields of every body, unless `extra_body` sets them."""
    results: str | None = "results"
    """The reply's field that holds the results; None is a list by itself."""
    score: str = "relevance_score"
    logits: bool = False
    """Scores are logits, of which we make 0–1."""
    instruction: bool = False
    """Bodies may have a field `instruction`."""
    max_documents: int = 1000
    """Most documents of a request."""
    key_header: str = "authorization"
    """The header that holds the key, as `Bearer KEY` in this one."""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def shape(self) -> str:
        """What a reply should look like, for errors."""
        results = f'[{{"index": int, "{self.score}": float}}, …]'
        return f'{{"{self.results}": {results}}}' if self.results else results


DIALECTS: dict[DialectName, Dialect] = {
    # https://docs.cohere.com/reference/rerank; vLLM and Contextual AI take an instruction.
    "cohere": Dialect(instruction=True),
    # https://huggingface.github.io/text-embeddings-inference; it refuses texts that are too long
    # unless told to cut them, and more than 32 unless its --max-client-batch-size allows them.
    "tei": Dialect(
        documents="texts",
        top=None,
        fixed={"truncate": True},
        results=None,
        score="score",
        max_documents=32,
    ),
    # https://docs.voyageai.com/reference/reranker-api
    "voyage": Dialect(path="/v1/rerank", top="top_k", results="data"),
    # https://docs.nvidia.com/nim/nemo-retriever/text-reranking; 32 as NVIDIA's own LangChain client
    "nvidia": Dialect(
        path="/v1/ranking",
        documents="passages",
        as_objects=True,
        query_as_object=True,
        top=None,
        fixed={"truncate": "END"},
        results="rankings",
        score="logit",
        logits=True,
        max_documents=32,
    ),
    # https://docs.pinecone.io/reference/api/2026-07/inference/rerank-results
    "pinecone": Dialect(
        as_objects=True,
        fixed={"return_documents": False, "parameters": {"truncate": "END"}},
        results="data",
        score="score",
        max_documents=100,
        key_header="api-key",
        headers={"x-pinecone-api-version": "2026-07"},
    ),
    # https://github.com/ggml-org/llama.cpp/tree/master/tools/server
    "llamacpp": Dialect(logits=True),
}


class WrongReplyError(ValueError):
    """A reply that is not what the dialect says; the message holds no text of a document."""


@dataclass(frozen=True, slots=True)
class RerankRequest:
    """What goes into one request.

    Attributes:
        query: The one query.
        positions: Where each passage's pair stands among all pairs.
        passages: The passages.
    """

    query: str
    positions: Sequence[int]
    passages: Sequence[str]


def split(pairs: Sequence[tuple[str, str]], max_documents: int) -> list[RerankRequest]:
    """Group pairs by query, and cut each group as evenly as `max_documents` allows."""
    groups: dict[str, list[int]] = {}
    for position, (query, _) in enumerate(pairs):
        groups.setdefault(query, []).append(position)
    requests = []
    for query, positions in groups.items():
        count = math.ceil(len(positions) / max_documents)
        for number in range(count):
            start, end = (len(positions) * at // count for at in (number, number + 1))
            own = positions[start:end]
            requests.append(RerankRequest(query, own, [pairs[position][1] for position in own]))
    return requests


def check_extra(extra: dict[str, Any]) -> dict[str, Any]:
    """Give more fields of a body as they are, or raise a `ValueError` if they can't be that."""
    if taken := _RESERVED & extra.keys():
        msg = f"extra_body can't set {sorted(taken)}, which the documents and fields decide"
        raise ValueError(msg)
    try:
        json.dumps(extra, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        msg = f"extra_body must be JSON: {error}"
        raise ValueError(msg) from error
    return extra


def body(
    dialect: Dialect,
    request: RerankRequest,
    model: str | None = None,
    extra: Mapping[str, Any] | None = None,
    instruction: str | None = None,
) -> bytes:
    """Build a request's JSON body."""
    query, passages = request.query, request.passages
    fields: dict[str, Any] = {} if model is None else {"model": model}
    fields["query"] = {"text": query} if dialect.query_as_object else query
    fields[dialect.documents] = (
        [{"text": passage} for passage in passages] if dialect.as_objects else passages
    )
    if dialect.top:
        fields[dialect.top] = len(passages)
    if instruction is not None:
        fields["instruction"] = instruction
    fields |= {**dialect.fixed, **(extra or {})}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def scores(dialect: Dialect, reply: bytes, count: int) -> list[float]:
    """Read the scores out of a reply, in the order in which the passages were sent.

    Raises:
        WrongReplyError: It is anything but one finite score for each of `count` passages.
    """
    results = _results(dialect, reply)
    if len(results) != count:
        msg = f"expected {count} results, one a document, got {len(results)}"
        raise WrongReplyError(msg)
    found: dict[int, float] = {}
    for result in results:
        index, score = _result(dialect, result)
        if not 0 <= index < count:
            msg = f"expected indices from 0 to {count - 1}, got {str(index)[:20]}"
            raise WrongReplyError(msg)
        if index in found:
            msg = f"expected each index once, got {index} twice"
            raise WrongReplyError(msg)
        found[index] = score
    ordered = [found[index] for index in range(count)]
    return sigmoid(np.array(ordered)).tolist() if dialect.logits else ordered


def _results(dialect: Dialect, reply: bytes) -> list[Any]:
    try:
        given = json.loads(reply)
    # A deep nest of brackets ends in the second.
    except (ValueError, RecursionError) as error:
        msg = f"expected JSON like {dialect.shape}, got {len(reply)} bytes that are not JSON"
        raise WrongReplyError(msg) from error
    results = given
    if dialect.results:
        results = given.get(dialect.results) if isinstance(given, dict) else None
    if not isinstance(results, list):
        got = f"keys {sorted(given)!r:.200}" if isinstance(given, dict) else type(given).__name__
        msg = f"expected {dialect.shape}, got {got}"
        raise WrongReplyError(msg)
    return results


def _result(dialect: Dialect, result: Any) -> tuple[int, float]:
    if not isinstance(result, dict):
        msg = f"expected results like those in {dialect.shape}, got {type(result).__name__}"
        raise WrongReplyError(msg)
    index, score = result.get("index"), result.get(dialect.score)
    if isinstance(index, bool) or not isinstance(index, int):
        msg = f"expected an int as index, got {type(index).__name__}"
        raise WrongReplyError(msg)
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        msg = f"expected a number as {dialect.score}, got {type(score).__name__}"
        raise WrongReplyError(msg)
    try:
        number = float(score)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        msg = f"expected a finite {dialect.score}, got {number}"
        raise WrongReplyError(msg)
    return index, number


def error_message(reply: bytes) -> str:
    """Find what a server says about an error: its `message`, `error` or `detail`.

    Returns:
        One line; empty where nothing is found. Not yet trimmed (see `trimmed`).
    """
    text = reply.decode("utf-8", "replace")
    try:
        found = _said(json.loads(text))
    except (ValueError, RecursionError):
        # A proxy's page tells no more than the status does.
        found = "" if text.lstrip().startswith("<") else text
    return " ".join("".join(c if c.isprintable() else " " for c in found).split())


def trimmed(message: str) -> str:
    """Cut a server's message to a length that an error can carry."""
    return message if len(message) <= _MAX_MESSAGE else message[:_MAX_MESSAGE] + "…"


def _said(given: Any) -> str:
    if isinstance(given, str):
        return given
    if isinstance(given, dict):
        # "msg" is of FastAPI's list; its "input" would repeat the documents.
        keys = ("message", "error", "detail", "msg")
        return next((said for key in keys if (said := _said(given.get(key)))), "")
    if isinstance(given, list):
        return "; ".join(filter(None, map(_said, given)))
    return ""
