"""Asking any first stage for a number of candidates, and with the keywords of one call."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from langchain_classic.retrievers import MultiVectorRetriever, SelfQueryRetriever
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import (
    RouterRunnable,
    Runnable,
    RunnableBranch,
    RunnableConfig,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnableSequence,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import RunnableBindingBase, RunnableEachBase
from langchain_core.runnables.config import merge_configs
from langchain_core.runnables.configurable import DynamicRunnable
from langchain_core.vectorstores import VectorStore, VectorStoreRetriever
from pydantic import BaseModel

from langchain_rerank.bound import BoundRetriever
from langchain_rerank.hybrid import HybridRetriever, KeywordRetriever

logger = logging.getLogger(__name__)

FirstStage = Runnable[str, list[Document]]
# Sets the depth and the keywords of one call in a runnable.
Place = Callable[[Any], Any]


def as_first_stage(
    source: VectorStore | FirstStage, search_kwargs: dict[str, Any] | None, *, hybrid: bool
) -> FirstStage:
    """Make a first stage of what a user hands over; see `create_rerank_retriever`."""
    if isinstance(source, VectorStore):
        if "k" in (search_kwargs or {}):
            msg = "search_kwargs can't set k, the number of candidates: use fetch_k"
            raise ValueError(msg)
        dense = source.as_retriever(search_kwargs=dict(search_kwargs or {}))
        if not hybrid:
            return dense
        return HybridRetriever(dense=dense, keyword=KeywordRetriever(store=source))
    if not isinstance(source, Runnable):
        msg = (
            "source must be a VectorStore or a Runnable that gives documents, such as a "
            f"retriever, got {type(source).__name__}"
        )
        raise TypeError(msg)
    if search_kwargs or hybrid:
        option = "hybrid=True" if hybrid else "search_kwargs"
        msg = f"{option} needs a VectorStore as source, got the retriever {type(source).__name__}"
        raise TypeError(msg)
    return source


def with_fetch_k(
    stage: FirstStage,
    fetch_k: int,
    keywords: Mapping[str, Any],
    config: RunnableConfig | None = None,
) -> FirstStage:
    """Copy a first stage with one call's depth and keywords set in every retriever inside.

    The depth goes where a retriever takes one: the keyword `k`, the fields `k`, `top_k` or
    `search_kwargs`, or the retrievers that it wraps. One that takes none gives as many documents
    as it likes. It takes the place of a depth that was bound or configured.

    Args:
        stage: A retriever, or LangChain's wrappers, sequences, branches … around retrievers. A
            sequence that ends in a retriever sets it there, another in each retriever it holds.
        fetch_k: How many documents to ask for.
        keywords: For the searches, such as a filter.
        config: Of the call, which settles what is configurable.

    Raises:
        TypeError: Something that may give documents takes not all keywords. LangChain would drop
            them, and a dropped `filter` gives documents that the caller meant to exclude.
    """
    place = partial(with_fetch_k, fetch_k=fetch_k, keywords=keywords, config=config)
    if isinstance(stage, DynamicRunnable):
        chosen, config = stage.prepare(config)
        placed = with_fetch_k(chosen, fetch_k, keywords, config)
        return placed.with_config(stage.config) if stage.config else placed
    if isinstance(stage, RunnableBindingBase):
        bound = {name: value for name, value in stage.kwargs.items() if name != "k"}
        config = merge_configs(stage.config, config)
        inner = with_fetch_k(stage.bound, fetch_k, {**bound, **keywords}, config)
        return stage.model_copy(update={"bound": inner, "kwargs": {}})
    if isinstance(stage, RunnableSequence):
        return _sequence(stage, place)
    if isinstance(stage, RunnableBranch):
        branches = [(condition, place(one)) for condition, one in stage.branches]
        return stage.model_copy(update={"branches": branches, "default": place(stage.default)})
    if isinstance(stage, RunnableWithFallbacks | RouterRunnable | RunnableEachBase):
        return _with_members(stage, place)
    if isinstance(stage, BaseRetriever):
        return _retriever(stage, fetch_k, keywords, place)
    if isinstance(stage, RunnableLambda):
        return _function(stage, fetch_k, keywords, place)
    if isinstance(stage, RunnablePassthrough):
        return stage
    if isinstance(stage, RunnableParallel) and keywords:
        # A function beside a retriever may search too; only its signature tells.
        return _with_members(stage, lambda one: place(one) if _may_search(one) else one)
    if _holds_retriever(stage):
        return _with_members(stage, lambda one: place(one) if _holds_retriever(one) else one)
    # Every runnable's `invoke` takes any keyword; one that is named there is used.
    named = {name: one for name, one in _parameters(stage.invoke).items() if name != "kwargs"}
    _check_taken(type(stage).__name__, keywords, named)
    return BoundRetriever(stage, {**keywords, **({"k": fetch_k} if "k" in named else {})})


def runnables_in(stage: Runnable[Any, Any]) -> Iterator[Runnable[Any, Any]]:
    """Find a runnable and all that it holds, each once, those of a function's closure included."""
    seen: set[int] = set()
    waiting = [stage]
    while waiting:
        one = waiting.pop(0)
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += _held(one)


def _sequence(stage: RunnableSequence[Any, Any], place: Place) -> FirstStage:
    *before, last = stage.steps
    if _gives_documents(last) or not _holds_retriever(stage):
        steps = [*before, place(last)]
    else:
        steps = [place(one) if _holds_retriever(one) else one for one in stage.steps]
    return RunnableSequence(*steps, name=stage.name)


def _gives_documents(stage: Runnable[Any, Any]) -> bool:
    """Whether all that comes out is what retrievers inside found, whatever goes in."""
    match stage:
        case BaseRetriever():
            return True
        case RunnableBindingBase() | RunnableEachBase():
            return _gives_documents(stage.bound)
        case DynamicRunnable():
            return _gives_documents(stage.default)
        case RunnableWithFallbacks():
            return all(map(_gives_documents, stage.runnables))
        case RunnableBranch():
            chosen = [one for _, one in stage.branches]
            return all(map(_gives_documents, [*chosen, stage.default]))
        case RouterRunnable():
            return all(map(_gives_documents, stage.runnables.values()))
    return False


def _retriever(
    retriever: BaseRetriever, fetch_k: int, keywords: Mapping[str, Any], place: Place
) -> FirstStage:
    parameters = _parameters(retriever._get_relevant_documents)  # noqa: SLF001  # the public invoke hides them
    if {"k", "fetch_k"} <= parameters.keys():
        # A cascade: the inner retriever returns what this one fetches, and can't fetch less.
        inner = max(getattr(retriever, "fetch_k", 0), keywords.get("fetch_k", 0), fetch_k)
        return BoundRetriever(retriever, {**keywords, "k": fetch_k, "fetch_k": inner})
    update: dict[str, Any] = {}
    if isinstance(retriever, VectorStoreRetriever | MultiVectorRetriever | SelfQueryRetriever):
        update["search_kwargs"] = _search_kwargs(retriever, fetch_k, keywords)
        if isinstance(retriever, SelfQueryRetriever):
            guard = _KeywordGuard(retriever.structured_query_translator, keywords)
            update["structured_query_translator"] = guard
        return retriever.model_copy(update=update)
    inside = {name: value for name, value in vars(retriever).items() if _searches(name, value)}
    if "k" in parameters or not inside:
        _check_taken(type(retriever).__name__, keywords, parameters)
        taken = dict(keywords)
    else:
        taken = {name: value for name, value in keywords.items() if name in parameters}
    if "k" in parameters:
        return BoundRetriever(retriever, {**taken, "k": fetch_k})
    update = {name: _mapped(value, place) for name, value in inside.items()}
    if isinstance(getattr(retriever, "search_kwargs", None), dict):
        update["search_kwargs"] = _search_kwargs(retriever, fetch_k, {})
    update |= dict.fromkeys({"k", "top_k"} & type(retriever).model_fields.keys(), fetch_k)
    if not update:
        logger.info("%s can't be asked for a number of documents", type(retriever).__name__)
    return BoundRetriever(retriever.model_copy(update=update), taken)


def _search_kwargs(retriever: Any, fetch_k: int, keywords: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**retriever.search_kwargs, **keywords, "k": fetch_k}
    if getattr(retriever, "search_type", None) == "mmr":
        # MMR has a fetch_k of its own, the pool it picks k from; its default of 20 would cap k.
        merged["fetch_k"] = max(merged.get("fetch_k", 0), 2 * fetch_k)
    return merged


class _KeywordGuard:
    """Translates a chat model's query, but lets it overwrite no keyword of the call."""

    def __init__(self, translator: Any, keywords: Mapping[str, Any]) -> None:
        self._translator = translator
        self._keywords = keywords

    def visit_structured_query(self, query: Any) -> tuple[str, dict[str, Any]]:
        text, found = self._translator.visit_structured_query(query)
        if lost := self._keywords.keys() & found.keys():
            msg = (
                f"SelfQueryRetriever wrote a {', '.join(sorted(lost))} of its own over the one of "
                "this call: set it in the store that it searches, or ask without"
            )
            raise TypeError(msg)
        return text, found


def _function(
    stage: RunnableLambda[Any, Any], fetch_k: int, keywords: Mapping[str, Any], place: Place
) -> FirstStage:
    functions = [vars(stage)[name] for name in ("func", "afunc") if name in vars(stage)]
    for function in functions:
        owner = getattr(function, "__self__", None)
        if isinstance(owner, Runnable) and function.__name__ in ("invoke", "ainvoke"):
            return place(owner)
    taken = dict(keywords)
    for function in functions:
        parameters = _parameters(function)
        _check_taken(type(stage).__name__, keywords, parameters)
        if keywords.keys() - parameters.keys():
            # Its **kwargs go to what it calls.
            for one in filter(_holds_retriever, stage.deps):
                place(one)
        if "k" in parameters:
            taken["k"] = fetch_k
    return BoundRetriever(stage, taken)


def _may_search(stage: Runnable[Any, Any]) -> bool:
    return isinstance(stage, RunnableLambda) or _holds_retriever(stage)


def _searches(field: str, value: object) -> bool:
    """Whether a retriever's field holds what it searches by; LangChain's are named retriever(s)."""
    members = _members(value)
    return any(map(_holds_retriever, members)) or ("retriever" in field and bool(members))


def _holds_retriever(stage: Runnable[Any, Any]) -> bool:
    return any(isinstance(one, BaseRetriever) for one in runnables_in(stage))


def _held(stage: Runnable[Any, Any]) -> list[Runnable[Any, Any]]:
    if isinstance(stage, RunnableLambda):
        owners = (getattr(vars(stage).get(name), "__self__", None) for name in ("func", "afunc"))
        return [*stage.deps, *(one for one in owners if isinstance(one, Runnable))]
    return _members(list(vars(stage).values())) if isinstance(stage, BaseModel) else []


def _members(value: object) -> list[Runnable[Any, Any]]:
    """Find the runnables in a field's value."""
    if isinstance(value, Runnable):
        return [value]
    values = value.values() if isinstance(value, Mapping) else value
    if not isinstance(value, list | tuple | Mapping):
        return []
    return [found for one in values for found in _members(one)]


def _mapped(value: Any, place: Place) -> Any:
    """Copy a field's value with `place` done to each runnable in it."""
    if isinstance(value, Runnable):
        return place(value)
    if isinstance(value, Mapping):
        return {name: _mapped(one, place) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(one, place) for one in value]
    return value


def _with_members(stage: Any, place: Place) -> FirstStage:
    held = {name: value for name, value in vars(stage).items() if _members(value)}
    return stage.model_copy(update={name: _mapped(value, place) for name, value in held.items()})


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def _check_taken(
    kind: str, keywords: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]
) -> None:
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return
    if unknown := keywords.keys() - parameters.keys():
        msg = (
            f"the first stage {kind} takes no keyword {', '.join(sorted(unknown))}: "
            "leave it out, or use a first stage that does, such as a vector store"
        )
        raise TypeError(msg)
