"""What one request, and all that wait, may take."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that the service takes on; what is over it is refused with a status of its own.

    Attributes:
        documents: Documents of a request (413).
        text_characters: Characters of the query, or of one document (413).
        request_characters: Characters of the query and all documents together (413).
        body_bytes: Bytes of a request's body (413); they are counted before any is parsed.
        waiting: Requests that wait to be scored (503, with Retry-After).
        body_seconds: Seconds that a client may take to send a body (408).
    """

    documents: int = 1000
    text_characters: int = 1_000_000
    request_characters: int = 4_000_000
    body_bytes: int = 16 * 2**20
    waiting: int = 256
    body_seconds: float = 30

    def __post_init__(self) -> None:
        """Check that every limit lets something through.

        Raises:
            ValueError: One is zero or negative.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                msg = f"limit {field.name} must be > 0, got {value!r}"
                raise ValueError(msg)
