"""Walking through what LangChain's runnables hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableLambda
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
            owners = [getattr(function, "__self__", None) for function in functions_of(one)]
            waiting += [*one.deps, *members(owners)]
        elif isinstance(one, BaseModel):
            waiting += members(vars(one))


def holds_retriever(stage: AnyRunnable) -> bool:
    """Whether a retriever is anywhere inside, or `stage` is one."""
    return any(isinstance(one, BaseRetriever) for one in runnables_in(stage))


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
