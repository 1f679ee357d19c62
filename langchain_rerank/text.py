"""Text as every library downstream takes it."""

from __future__ import annotations


def well_formed(text: str) -> str:
    """Return `text` with lone surrogates, which are not UTF-8, replaced by U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
