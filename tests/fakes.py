"""Stand-ins that keep the contract of what they stand for, without a model."""

from __future__ import annotations

from typing import Any

from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import BaseMessage
from pydantic import Field


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


class RecordingChatModel(FakeListChatModel):
    """LangChain's own fake chat model, which also keeps the prompts it was given."""

    prompts: list[list[BaseMessage]] = Field(default_factory=list)

    def _call(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> str:
        self.prompts.append(messages)
        return super()._call(messages, *args, **kwargs)
