"""A cross encoder that keeps the contract of `BaseCrossEncoder` without a model."""

from __future__ import annotations

from langchain_core.cross_encoders import BaseCrossEncoder


class WordOverlapCrossEncoder(BaseCrossEncoder):
    """Scores a passage by the share of the query's words that it holds: deterministic, 0–1.

    Records each call's pairs, so that a test can tell what was scored and in how many passes.
    """

    def __init__(self) -> None:
        self.calls: list[list[tuple[str, str]]] = []

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        self.calls.append(list(text_pairs))
        return [self._overlap(query, passage) for query, passage in text_pairs]

    @staticmethod
    def _overlap(query: str, passage: str) -> float:
        words = set(query.lower().split())
        return len(words & set(passage.lower().split())) / max(len(words), 1)
