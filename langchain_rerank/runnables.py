"""Walking through what LangChain's runnables hold, and binding keywords to one of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.vectorstores import VectorStore
from pydantic import BaseModel

AnyRunnable = Runnable[Any, Any]


def functions_of(stage: RunnableLambda[Any, Any]) -> list[Callable[..., Any]]:
    """Find what a `RunnableLambda` calls, sync and async."""
    return [vars(stage)[name] for name in ("func", "afunc") if name in vars(stage)]


def runnables_in(stage: AnyRunnable) -> Iterator[AnyRunnable]:
    """Find a runnable and all that it holds, each once, those of a function's closure included."""
    seen: set[int] = set()
    waiting = [stage]
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, RunnableLambda):
            waiting += used_by(one)
        elif isinstance(one, BaseModel):
            waiting += members(vars(one))


def used_by(stage: RunnableLambda[Any, Any]) -> list[Any]:
    """Find the runnables, and the vector stores, that a function uses."""
    values: list[Any] = list(stage.deps)
    for function in functions_of(stage):
        values.append(function)
        # LangChain's `deps` reads the source, which it can't for a lambda in a longer expression.
        if inspect.isfunction(function):
            names = inspect.getclosurevars(function)
            values += [*names.nonlocals.values(), *names.globals.values()]
    values += [getattr(value, "__self__", None) for value in values]
    return [*members(values), *(value for value in values if isinstance(value, VectorStore))]


def holds_retriever(stage: AnyRunnable) -> bool:
    """Whether a retriever, or a function that asks a store, is inside, or `stage` is one."""
    return any(isinstance(one, BaseRetriever | VectorStore) for one in runnables_in(stage))


def members(value: object) -> list[AnyRunnable]:
    """Find the runnables in a field's value: itself, or in lists, tuples and dicts."""
    if isinstance(value, Runnable):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [found for one in value for found in members(one)]
    return []


def mapped(value: Any, change: Callable[[AnyRunnable], AnyRunnable]) -> Any:
    """Copy a field's value, with each runnable in it changed."""
    if isinstance(value, Runnable):
        return change(value)
    if isinstance(value, Mapping):
        return {name: mapped(one, change) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(mapped(one, change) for one in value)
    return value


def with_members(stage: Any, change: Callable[[AnyRunnable], AnyRunnable]) -> Any:
    """Copy a runnable, with each that it holds changed."""
    held = {name: value for name, value in vars(stage).items() if members(value)}
    return stage.model_copy(update={name: mapped(value, change) for name, value in held.items()})


class BoundRetriever(Runnable[str, list[Document]]):
    """Hands keywords to a retriever at every call, as `bind` does, but leaves callbacks alone.

    LangChain's `bind` adds the callbacks of the chain around it to those it is called with: in a
    chain, the first stage would be traced beside the retriever that it is a step of.
    """

    def __init__(self, retriever: Runnable[str, list[Document]], kwargs: dict[str, Any]) -> None:
        """Take what to call and the keywords to call it with."""
        self._retriever = retriever
        self._kwargs = kwargs

    def invoke(
        self, input: str, config: RunnableConfig | None = None, **kwargs: Any
    ) -> list[Document]:
        """Retrieve documents for a query."""
        return self._retriever.invoke(input, config, **{**self._kwargs, **kwargs})

    async def ainvoke(
        self, input: str, config: RunnableConfig | None = None, **kwargs: Any
    ) -> list[Document]:
        """Retrieve documents without blocking the event loop."""
        keywords = {**self._kwargs, **kwargs}
        if keywords and _inherits_async(self._retriever):
            return await super().ainvoke(input, config, **kwargs)
        return await self._retriever.ainvoke(input, config, **keywords)


def _inherits_async(retriever: Runnable[str, list[Document]]) -> bool:
    """Whether the async search is LangChain's, which takes no keywords; a thread then searches."""
    base = BaseRetriever._aget_relevant_documents  # noqa: SLF001  # the public ainvoke hides it
    own = getattr(type(retriever), "_aget_relevant_documents", None)
    return own is base
