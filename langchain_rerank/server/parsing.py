"""From the bytes of a body to a checked record, and the one sentence that says what is wrong."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from langchain_rerank.server.replies import Refusal
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_rerank.server.limits import Limits

Body = TypeVar("Body", bound=BaseModel)

_SHOWN_CHARACTERS = 60


def _refuse_constant(name: str) -> NoReturn:
    msg = f"{name} is not JSON"
    raise ValueError(msg)


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        msg = f"the number {_shortened(digits)} is too large"
        raise ValueError(msg)
    return value


# Made once: `json.loads` with an option makes a decoder at each call.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


def read_json(body: bytes) -> dict[str, Any]:
    r"""Parse a body.

    JSON may spell lone surrogates (`\ud800`), which are no text: they come out as U+FFFD.

    Raises:
        Refusal: It is not a JSON object in UTF-8 (422).
    """
    try:
        content = _DECODER.decode(body.decode())
        if b"\\u" in body:
            content = _all_well_formed(content)
    except UnicodeDecodeError as error:
        msg = f"the body must be UTF-8, byte {error.start} is not"
        raise Refusal(422, msg) from error
    except json.JSONDecodeError as error:
        msg = f"the body must be JSON: {error.msg} at character {error.pos}"
        raise Refusal(422, msg) from error
    except RecursionError as error:
        raise Refusal(422, "the body must be JSON of a few levels, got far more") from error
    except ValueError as error:  # NaN, or a number of thousands of digits
        raise Refusal(422, f"the body must be JSON: {_shortened(str(error))}") from error
    if not isinstance(content, dict):
        msg = f"the body must be a JSON object, got {_kind(content)}"
        raise Refusal(422, msg)
    return content


def validate(schema: type[Body], content: dict[str, Any], limits: Limits) -> Body:
    """Check a body's fields, the number of its documents before each of them.

    Raises:
        Refusal: A field is missing or wrong (422), or there are too many documents (413).
    """
    for field in ("documents", "texts"):
        given = content.get(field)
        if isinstance(given, list) and len(given) > limits.documents:
            msg = f"{field} must be at most {limits.documents:,}, got {len(given):,}"
            raise Refusal(413, msg)
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise Refusal(422, _sentence(error)) from error


def check_characters(query: str, texts: Sequence[str], field: str, limits: Limits) -> None:
    """Check what there is to score against the limits of characters.

    Raises:
        Refusal: The query, one text or all together are too long (413).
    """
    most = limits.text_characters
    if len(query) > most:
        raise Refusal(413, f"query must be at most {most:,} characters, got {len(query):,}")
    total = len(query)
    for position, text in enumerate(texts):
        if len(text) > most:
            msg = f"{field}[{position}] must be at most {most:,} characters, got {len(text):,}"
            raise Refusal(413, msg)
        total += len(text)
    if total > limits.request_characters:
        most = limits.request_characters
        msg = f"query and {field} must be at most {most:,} characters together, got {total:,}"
        raise Refusal(413, msg)


def document_texts(
    documents: Sequence[str | dict[str, Any]], rank_fields: Sequence[str] | None
) -> list[str]:
    """Take the text to score out of each document.

    Args:
        documents: Texts, or objects with `text` and more.
        rank_fields: The fields of an object that count instead of `text`, a line each in this
            order; one that an object lacks is left out.

    Raises:
        Refusal: An object has none of the fields, or one that is not a string (422).
    """
    return [
        document if isinstance(document, str) else _object_text(document, position, rank_fields)
        for position, document in enumerate(documents)
    ]


def _object_text(document: dict[str, Any], position: int, rank_fields: Sequence[str] | None) -> str:
    fields = rank_fields or ("text",)
    values = {field: document[field] for field in fields if document.get(field) is not None}
    for field, value in values.items():
        if not isinstance(value, str):
            where = f"documents[{position}].{_shortened(field)}"
            raise Refusal(422, f"{where} must be a string, got {_kind(value)}")
    if not values:
        names = _shortened(", ".join(map(repr, fields)))
        raise Refusal(422, f"documents[{position}] must be a string or have a field {names}")
    return "\n".join(values.values())


def _all_well_formed(content: Any) -> Any:
    """Replace lone surrogates in every text, names of fields included."""
    if isinstance(content, str):
        return well_formed(content)
    if isinstance(content, list):
        return [_all_well_formed(one) for one in content]
    if isinstance(content, dict):
        return {well_formed(name): _all_well_formed(one) for name, one in content.items()}
    return content


def _sentence(error: ValidationError) -> str:
    """Say what the first wrong field must be and what came, without repeating a long value."""
    first = error.errors(include_url=False)[0]
    where = ""
    for part in first["loc"]:
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else str(part)
    if first["type"] == "missing":
        return f"the field {where} is missing"
    said = first["msg"].replace("Input should", "must")
    if first["type"] == "too_short":
        said = "must not be empty"
    return f"{_shortened(where)}: {said}, got {_kind(first['input'])}"


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
