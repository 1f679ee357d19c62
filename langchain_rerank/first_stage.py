"""Asking any first stage for a number of candidates, and with the keywords of one call."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial, singledispatch
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
    RunnablePassthrough,
    RunnableSequence,
    RunnableSerializable,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import RunnableBindingBase, RunnableEachBase
from langchain_core.runnables.config import merge_configs
from langchain_core.runnables.configurable import DynamicRunnable
from langchain_core.vectorstores import VectorStore, VectorStoreRetriever

from langchain_rerank.hybrid import HybridRetriever, KeywordRetriever
from langchain_rerank.runnables import (
    BoundRetriever,
    functions_of,
    holds_retriever,
    mapped,
    members,
    used_by,
    with_members,
)

logger = logging.getLogger(__name__)

FirstStage = Runnable[str, list[Document]]


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
            sequence that ends in retrievers sets them there, another wherever it holds them.
        fetch_k: How many documents to ask for.
        keywords: For the searches, such as a filter.
        config: Of the call, which settles what is configurable.

    Raises:
        TypeError: What may give documents does not take all keywords. LangChain would drop them,
            and a dropped `filter` gives documents that the caller meant to exclude.
    """
    placed: FirstStage = _placed(stage, call=_Call(fetch_k, keywords, config))
    return placed


@dataclass(frozen=True, slots=True)
class _Call:
    fetch_k: int
    keywords: Mapping[str, Any]
    config: RunnableConfig | None


@singledispatch
def _placed(stage: Any, call: _Call) -> Any:
    """Copy one runnable with the call set in it; each kind that LangChain has, below."""
    if isinstance(stage, RunnableSerializable) and holds_retriever(stage):
        # A function beside a retriever may search too; only its signature tells.
        return with_members(stage, lambda one: _placed(one, call) if _may_search(one) else one)
    # Every runnable's `invoke` takes any keyword; one that is named there is used.
    return _bound(stage, call, _parameters(stage.invoke), any_keyword=False)


@_placed.register(DynamicRunnable)
def _(stage: DynamicRunnable[Any, Any], call: _Call) -> Any:
    chosen, config = stage.prepare(call.config)
    placed = _placed(chosen, replace(call, config=config))
    return placed.with_config(stage.config) if stage.config else placed


@_placed.register(RunnableBindingBase)
def _(stage: RunnableBindingBase[Any, Any], call: _Call) -> Any:
    bound = {name: value for name, value in stage.kwargs.items() if name != "k"}
    config = merge_configs(stage.config, call.config)
    inner = replace(call, keywords={**bound, **call.keywords}, config=config)
    return stage.model_copy(update={"bound": _placed(stage.bound, inner), "kwargs": {}})


@_placed.register(RunnableSequence)
def _(stage: RunnableSequence[Any, Any], call: _Call) -> Any:
    *before, last = stage.steps
    if _gives_documents(last) or not holds_retriever(stage):
        steps = [*before, _placed(last, call)]
    else:
        steps = [_placed(one, call) if holds_retriever(one) else one for one in stage.steps]
    return RunnableSequence(*steps, name=stage.name)


@_placed.register(RunnableBranch)
def _(stage: RunnableBranch[Any, Any], call: _Call) -> Any:
    branches = [(condition, _placed(one, call)) for condition, one in stage.branches]
    default = _placed(stage.default, call)
    return stage.model_copy(update={"branches": branches, "default": default})


@_placed.register(RunnableWithFallbacks)
@_placed.register(RouterRunnable)
@_placed.register(RunnableEachBase)
def _(stage: Any, call: _Call) -> Any:
    return with_members(stage, partial(_placed, call=call))


@_placed.register(RunnablePassthrough)
def _(stage: RunnablePassthrough[Any], call: _Call) -> Any:  # noqa: ARG001  # it gives what it is given
    return stage


@_placed.register(RunnableLambda)
def _(stage: RunnableLambda[Any, Any], call: _Call) -> Any:
    functions = functions_of(stage)
    for function in functions:
        owner = getattr(function, "__self__", None)
        if isinstance(owner, Runnable) and function.__name__ in ("invoke", "ainvoke"):
            return _placed(owner, call)
    for function in functions:
        parameters = _parameters(function)
        bound = _bound(stage, call, parameters)
        if call.keywords.keys() - parameters.keys():
            # Its **kwargs go to what it calls; a vector store takes them.
            for one in used_by(stage):
                if isinstance(one, Runnable) and holds_retriever(one):
                    _placed(one, call)
    return bound


@_placed.register
def _(stage: BaseRetriever, call: _Call) -> Any:
    parameters = _parameters(stage._get_relevant_documents)  # noqa: SLF001  # the public invoke hides them
    if {"k", "fetch_k"} <= parameters.keys():
        # A cascade: the inner retriever returns what this one fetches, and can't fetch less.
        depths = (getattr(stage, "fetch_k", 0), call.keywords.get("fetch_k", 0), call.fetch_k)
        keywords = {**call.keywords, "k": call.fetch_k, "fetch_k": max(depths)}
        return BoundRetriever(stage, keywords)
    if "k" in parameters:
        return _bound(stage, call, parameters)
    update: dict[str, Any] = {}
    if inside := {name: one for name, one in vars(stage).items() if _searches(name, one)}:
        own = {name: one for name, one in call.keywords.items() if name in parameters}
        others = {name: one for name, one in call.keywords.items() if name not in own}
        place = partial(_placed, call=replace(call, keywords=others))
        update = {name: mapped(one, place) for name, one in inside.items()}
        call = replace(call, keywords=own)
    if isinstance(getattr(stage, "search_kwargs", None), dict):
        update["search_kwargs"] = _search_kwargs(stage, call.fetch_k)
    update |= dict.fromkeys({"k", "top_k"} & type(stage).model_fields.keys(), call.fetch_k)
    if not update:
        logger.info("%s can't be asked for a number of documents", type(stage).__name__)
    return _bound(stage.model_copy(update=update), call, parameters)


@_placed.register(VectorStoreRetriever)
@_placed.register(MultiVectorRetriever)
@_placed.register(SelfQueryRetriever)
def _(stage: Any, call: _Call) -> Any:
    update: dict[str, Any] = {"search_kwargs": _search_kwargs(stage, call.fetch_k, call.keywords)}
    if isinstance(stage, SelfQueryRetriever):
        guard = _KeywordGuard(stage.structured_query_translator, call.keywords)
        update["structured_query_translator"] = guard
    return stage.model_copy(update=update)


class _KeywordGuard:
    """Translates a chat model's query, but lets it overwrite no keyword of the call."""

    def __init__(self, translator: Any, keywords: Mapping[str, Any]) -> None:
        self._translator = translator
        self._keywords = keywords

    def visit_structured_query(self, query: Any) -> tuple[str, dict[str, Any]]:
        text, found = self._translator.visit_structured_query(query)
        if lost := self._keywords.keys() & found.keys():
            msg = (
                f"SelfQueryRetriever's model wrote a {', '.join(sorted(lost))} in place of this "
                "call's: leave it out of the call, or search the store without SelfQueryRetriever"
            )
            raise TypeError(msg)
        return text, found


def _search_kwargs(
    retriever: Any, fetch_k: int, keywords: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    merged = {**retriever.search_kwargs, **(keywords or {}), "k": fetch_k}
    if getattr(retriever, "search_type", None) == "mmr":
        # MMR has a fetch_k of its own, the pool it picks k from; its default of 20 would cap k.
        merged["fetch_k"] = max(merged.get("fetch_k", 0), 2 * fetch_k)
    return merged


def _gives_documents(stage: Runnable[Any, Any]) -> bool:
    """Whether all that comes out is what retrievers inside found, whatever goes in."""
    inside: Iterable[Runnable[Any, Any]] = ()
    match stage:
        case BaseRetriever():
            return True
        case RunnableBindingBase() | RunnableEachBase():
            inside = [stage.bound]
        case DynamicRunnable():
            inside = [stage.default]
        case RunnableWithFallbacks():
            inside = stage.runnables
        case RunnableBranch():
            inside = [stage.default, *(one for _, one in stage.branches)]
        case RouterRunnable():
            inside = stage.runnables.values()
    found = [_gives_documents(one) for one in inside]
    return bool(found) and all(found)


def _may_search(stage: Runnable[Any, Any]) -> bool:
    return isinstance(stage, RunnableLambda) or holds_retriever(stage)


def _searches(field: str, value: object) -> bool:
    """Whether a retriever's field holds what it searches by; LangChain's are named retriever(s)."""
    inside = members(value)
    return any(map(holds_retriever, inside)) or ("retriever" in field and bool(inside))


def _bound(
    stage: Any,
    call: _Call,
    parameters: Mapping[str, inspect.Parameter],
    *,
    any_keyword: bool = True,
) -> Any:
    """Bind the keywords, and the depth where it is one, to what names them in its signature."""
    kinds = {one.kind for one in parameters.values()} if any_keyword else set()
    unknown = call.keywords.keys() - parameters.keys()
    if unknown and inspect.Parameter.VAR_KEYWORD not in kinds:
        msg = (
            f"the first stage {type(stage).__name__} takes no keyword "
            f"{', '.join(sorted(unknown))}: leave it out, or use a first stage that does, such as "
            "a vector store"
        )
        raise TypeError(msg)
    keywords = dict(call.keywords)
    if "k" in parameters:
        keywords["k"] = call.fetch_k
    elif not isinstance(stage, BaseRetriever):
        logger.info("%s can't be asked for a number of documents: name k", type(stage).__name__)
    return BoundRetriever(stage, keywords) if keywords else stage


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters
