"""From the bytes of a body to a checked record, and the one sentence that says what is wrong."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError
from starlette.exceptions import HTTPException

from langchain_rerank.server.schemas import RerankBody

if TYPE_CHECKING:
    from langchain_rerank.server.limits import Limits

Body = TypeVar("Body", bound=RerankBody)

_SHOWN_CHARACTERS = 60
# An escape that stands, a pair of surrogates among them, or a surrogate that is no text alone.
_ESCAPE = re.compile(r"(\\[^u]|\\u[dD][89abAB]..\\u[dD][c-fC-F]..)|\\u[dD][89a-fA-F]..", re.DOTALL)


def parse(schema: type[Body], body: bytes, limits: Limits) -> tuple[Body, list[str]]:
    r"""Parse and check a body; of one in its limits it takes under a second.

    JSON may spell lone surrogates (`\ud800`), which are no text: they come out as U+FFFD.

    Returns:
        The record, and the texts to score.

    Raises:
        HTTPException: It is no such body (422), or too much (413).
    """
    brackets = body.count(b"[") + body.count(b"{")
    if brackets > limits.body_brackets:
        most = limits.body_brackets
        raise HTTPException(413, f"the body must have at most {most:,} brackets, got {brackets:,}")
    try:
        parsed = _validated(schema, body.decode())
    except UnicodeDecodeError as error:
        raise HTTPException(422, f"the body must be UTF-8, byte {error.start} is not") from error
    except ValidationError as error:
        raise HTTPException(422, _sentence(error)) from error
    field, documents = parsed.passages()
    if len(documents) > limits.documents:
        most = limits.documents
        raise HTTPException(413, f"{field} must be at most {most:,}, got {len(documents):,}")
    rank_fields = getattr(parsed, "rank_fields", None) or ["text"]
    texts = [_text(document, i, rank_fields) for i, document in enumerate(documents)]
    _check_characters(parsed.query, texts, field, limits)
    return parsed, texts


def _validated(schema: type[Body], body: str) -> Body:
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        escaped = "\\ud" in body or "\\uD" in body
        if not escaped or error.errors(include_input=False)[0]["type"] != "json_invalid":
            raise
        mended = _ESCAPE.sub(lambda match: match[1] or r"\ufffd", body)
        return schema.model_validate_json(mended)


def _check_characters(query: str, texts: list[str], field: str, limits: Limits) -> None:
    most = limits.text_characters
    named = [("query", query), *((f"{field}[{i}]", text) for i, text in enumerate(texts))]
    for name, text in named:
        if len(text) > most:
            msg = f"{name} must be at most {most:,} characters, got {len(text):,}"
            raise HTTPException(413, msg)
    total = sum(len(text) for _, text in named)
    most = limits.request_characters
    if total > most:
        msg = f"query and {field} must be at most {most:,} characters together, got {total:,}"
        raise HTTPException(413, msg)


def _text(document: str | dict[str, Any], position: int, fields: list[str]) -> str:
    """Take what is scored out of a document: of an object the fields that it has, a line each."""
    if isinstance(document, str):
        return document
    values = {field: document[field] for field in fields if document.get(field) is not None}
    for field, value in values.items():
        if not isinstance(value, str):
            where = f"documents[{position}].{_shortened(field)}"
            raise HTTPException(422, f"{where} must be a string, got {_kind(value)}")
    if not values:
        names = _shortened(", ".join(map(repr, fields)))
        msg = f"documents[{position}] must be a string or have a field {names}"
        raise HTTPException(422, msg)
    return "\n".join(values.values())


def _sentence(error: ValidationError) -> str:
    """Say what the first wrong field must be and what came, without repeating a long value."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return f"the body must be JSON: {first['ctx']['error']}"
    where = ""
    for part in first["loc"]:
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else str(part)
    if first["type"] == "missing":
        return f"the field {where} is missing"
    said = first["msg"].replace("Input should", "must")
    if first["type"] == "too_short":
        said = "must not be empty"
    came = "" if first["type"] == "either" else f", got {_kind(first['input'])}"
    return f"{_shortened(where) or 'the body'}: {said}{came}"


def _kind(value: Any) -> str:
    """Describe a JSON value in a few words."""
    if value is None or isinstance(value, (bool, int, float)):
        return _shortened(json.dumps(value))
    if isinstance(value, str):
        return f"the string {_shortened(value)!r}" if value else "an empty string"
    kind = "a list" if isinstance(value, list) else "an object"
    return f"{kind} of {len(value):,}" if value else f"an empty {kind.split()[1]}"


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
