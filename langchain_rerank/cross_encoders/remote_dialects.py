"""The two shapes that /rerank servers speak: bodies built, replies checked; no I/O."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Dialect = Literal["cohere", "tei"]

# Cohere advises against more documents in a request; TEI's --max-client-batch-size is 32 unless
# its operator chose otherwise.
MAX_DOCUMENTS: dict[Dialect, int] = {"cohere": 1000, "tei": 32}

# What `extra_body` can't set, as the scores hang on it.
RESERVED = frozenset({"documents", "model", "query", "texts", "top_n"})

_SCORE = {"cohere": "relevance_score", "tei": "score"}
_SHAPE = {
    "cohere": '{"results": [{"index": int, "relevance_score": float}, …]}',
    "tei": '[{"index": int, "score": float}, …]',
}
_MAX_MESSAGE = 300


class WrongReplyError(ValueError):
    """A reply that is not what the dialect says; the message holds no text of a document."""


@dataclass(frozen=True, slots=True)
class Part:
    """What goes into one request.

    Attributes:
        query: The one query.
        positions: Where each passage's pair stands among all pairs.
        passages: The passages.
    """

    query: str
    positions: Sequence[int]
    passages: Sequence[str]


def split(pairs: Sequence[tuple[str, str]], max_documents: int) -> list[Part]:
    """Group pairs by query, and cut each group as evenly as `max_documents` allows."""
    groups: dict[str, list[int]] = {}
    for position, (query, _) in enumerate(pairs):
        groups.setdefault(query, []).append(position)
    parts = []
    for query, positions in groups.items():
        requests = math.ceil(len(positions) / max_documents)
        for number in range(requests):
            start, end = (len(positions) * at // requests for at in (number, number + 1))
            own = positions[start:end]
            parts.append(Part(query, own, [pairs[position][1] for position in own]))
    return parts


def body(dialect: Dialect, part: Part, model: str | None, extra: Mapping[str, Any]) -> bytes:
    """Build a request's JSON body."""
    fields: dict[str, Any] = {} if model is None else {"model": model}
    if dialect == "cohere":
        count = len(part.passages)
        fields |= {"query": part.query, "documents": part.passages, "top_n": count}
    else:
        # TEI refuses texts that are too long for the model, unless told to cut them.
        fields |= {"query": part.query, "texts": part.passages, "truncate": True}
    return json.dumps({**fields, **extra}, ensure_ascii=False, separators=(",", ":")).encode()


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
    return [found[index] for index in range(count)]


def _results(dialect: Dialect, reply: bytes) -> list[Any]:
    try:
        given = json.loads(reply)
    # A deep nest of brackets ends in the second.
    except (ValueError, RecursionError) as error:
        msg = f"expected JSON like {_SHAPE[dialect]}, got {len(reply)} bytes that are not JSON"
        raise WrongReplyError(msg) from error
    results = given
    if dialect == "cohere":
        results = given.get("results") if isinstance(given, dict) else None
    if not isinstance(results, list):
        got = f"keys {sorted(given)!r:.200}" if isinstance(given, dict) else type(given).__name__
        msg = f"expected {_SHAPE[dialect]}, got {got}"
        raise WrongReplyError(msg)
    return results


def _result(dialect: Dialect, result: Any) -> tuple[int, float]:
    if not isinstance(result, dict):
        msg = f"expected results like those in {_SHAPE[dialect]}, got {type(result).__name__}"
        raise WrongReplyError(msg)
    index, score = result.get("index"), result.get(_SCORE[dialect])
    if isinstance(index, bool) or not isinstance(index, int):
        msg = f"expected an int as index, got {type(index).__name__}"
        raise WrongReplyError(msg)
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        msg = f"expected a number as {_SCORE[dialect]}, got {type(score).__name__}"
        raise WrongReplyError(msg)
    try:
        number = float(score)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        msg = f"expected a finite {_SCORE[dialect]}, got {number}"
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
