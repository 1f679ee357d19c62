"""Stand-ins that keep the contract of what they stand for, without a model."""

from __future__ import annotations

import asyncio
import copy
import re
import threading
from typing import TYPE_CHECKING, Any, cast

from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.retrievers import BaseRetriever
from pydantic import Field

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_core.messages import AIMessage


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


class ScriptedChatModel(GenericFakeChatModel):
    """An agent's model: says its messages one after the other, word by word where it streams."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> ScriptedChatModel:
        return self

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        message = cast("AIMessage", next(self.messages))
        for word in re.findall(r"\S+\s*|^$", message.text):
            calls = message.tool_calls
            yield ChatGenerationChunk(message=AIMessageChunk(content=word, tool_calls=calls))


class RecordingRetriever(BaseRetriever):
    """Always finds the same documents, and keeps the queries it was asked."""

    documents: list[Document]
    queries: list[str] = Field(default_factory=list)

    def _get_relevant_documents(self, query: str, **_: Any) -> list[Document]:
        self.queries.append(query)
        return self.documents


class BrokenCrossEncoder(WordOverlapCrossEncoder):
    """Fails at every call."""

    error = ConnectionError("the device is gone")

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        raise self.error


class Gate:
    """What `wait` holds up until `release` has run, which waits in turn until that has begun."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()

    async def release(self) -> None:
        await asyncio.to_thread(self.begun.wait, 5)
        self.go.set()

    def wait(self) -> None:
        self.begun.set()
        if not self.go.wait(timeout=5):
            msg = "the event loop was blocked"
            raise TimeoutError(msg)


class GatedCrossEncoder(WordOverlapCrossEncoder):
    """Scores once its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        self.gate.wait()
        return super().score(text_pairs)


class InstructedCrossEncoder(WordOverlapCrossEncoder):
    """Takes an instruction, which it notes before each query; "refused" is none it knows."""

    instruction: str | None = None

    def with_instruction(self, instruction: str) -> InstructedCrossEncoder:
        if instruction == "refused":
            msg = "this model takes no such instruction"
            raise ValueError(msg)
        other = copy.copy(self)
        other.instruction = instruction
        return other

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        return super().score([(f"{self.instruction}: {query}", text) for query, text in text_pairs])
