"""Asking any first stage for a number of candidates, and with the keywords of one call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from types import SimpleNamespace
from typing import Any

from langchain_classic.retrievers import (
    ContextualCompressionRetriever,
    MultiVectorRetriever,
    SelfQueryRetriever,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import (
    RouterRunnable,
    Runnable,
    RunnableBranch,
    RunnableConfig,
    RunnableLambda,
    RunnableSequence,
    RunnableSerializable,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import RunnableBindingBase, RunnableEachBase
from langchain_core.runnables.config import merge_configs
from langchain_core.runnables.configurable import DynamicRunnable
from langchain_core.vectorstores import VectorStore, VectorStoreRetriever
from pydantic import BaseModel

from langchain_rerank.hybrid import HybridRetriever, KeywordRetriever

AnyRunnable = Runnable[Any, Any]
FirstStage = Runnable[str, list[Document]]

_WRAPPERS = (RunnableWithFallbacks, RouterRunnable, RunnableEachBase)
# They hand all of their `search_kwargs` to a vector store, and search nothing else.
_STORE_RETRIEVERS = (VectorStoreRetriever, MultiVectorRetriever, SelfQueryRetriever)


def as_first_stage(
    source: VectorStore | FirstStage, search_kwargs: dict[str, Any] | None, *, hybrid: bool
) -> FirstStage:
    """Make a first stage of what a user hands over; see `create_rerank_retriever`."""
    options = dict(search_kwargs or {})
    kind = type(source).__name__
    if isinstance(source, Runnable) and not options and not hybrid:
        return source
    if isinstance(source, Runnable):
        option = "hybrid=True" if hybrid else "search_kwargs"
        msg = f"{option} needs a VectorStore as source, got the retriever {kind}"
        raise TypeError(msg)
    if not isinstance(source, VectorStore):
        msg = f"source must be a VectorStore or a Runnable that gives documents, got {kind}"
        raise TypeError(msg)
    if "k" in options:
        msg = "search_kwargs can't set k, the number of candidates: use fetch_k"
        raise ValueError(msg)
    dense = source.as_retriever(search_kwargs=options)
    if not hybrid:
        return dense
    filters = {name: options.get(name) for name in ("filter", "where_document")}
    retrievers = [dense, KeywordRetriever(store=source, **filters)]
    return HybridRetriever(retrievers=retrievers, weights=[0.5, 0.5])


def with_fetch_k(
    stage: Any, fetch_k: int, keywords: Mapping[str, Any], config: RunnableConfig | None = None
) -> Any:
    """Copy a first stage with one call's depth and keywords set in every retriever inside.

    The depth goes where a retriever takes one: the keyword `k`, the fields `k`, `top_k` or
    `search_kwargs`, or the retrievers that it wraps, in place of what was bound or configured. One
    that takes none gives as many documents as it likes. A sequence that ends in retrievers has
    both set there, another wherever it holds retrievers; `config` settles what is configurable.

    Raises:
        TypeError: What may give documents does not take all keywords. LangChain would drop them,
            and a dropped `filter` gives documents that the caller meant to exclude.
    """
    return _placed(stage, {**keywords, "k": fetch_k}, config)


def _placed(stage: Any, keywords: dict[str, Any], config: RunnableConfig | None) -> Any:
    """Copy a runnable with keywords set in it: all of them but perhaps `k`, or `TypeError`."""
    place = partial(_placed, keywords=keywords, config=config)
    match stage:
        case DynamicRunnable():
            chosen, settled = stage.prepare(config)
            placed = _placed(chosen, keywords, settled)
            placed = placed.with_config(stage.config) if stage.config else placed
        case RunnableBindingBase():
            settled = merge_configs(stage.config, config)
            bound = _placed(stage.bound, {**stage.kwargs, **keywords}, settled)
            placed = stage.model_copy(update={"bound": bound, "kwargs": {}})
        case RunnableSequence():
            *before, last = stage.steps
            if _gives_documents(last) or not holds_retriever(stage):
                steps = [*before, place(last)]
            else:
                steps = [place(one) if holds_retriever(one) else one for one in stage.steps]
            placed = RunnableSequence(*steps, name=stage.name)
        case RunnableBranch():
            branches = [(condition, place(one)) for condition, one in stage.branches]
            update = {"branches": branches, "default": place(stage.default)}
            placed = stage.model_copy(update=update)
        case RunnableLambda():
            for function in _functions_of(stage):
                owner = getattr(function, "__self__", None)
                method = isinstance(owner, Runnable) and "invoke" in function.__name__
                placed = place(owner) if method else _bound(stage, keywords, function)
        case BaseRetriever():
            placed = _in_retriever(stage, keywords, config)
        case RunnableSerializable() if isinstance(stage, _WRAPPERS) or holds_retriever(stage):
            # A function beside a retriever may search too; only its signature tells.
            kinds = Runnable if isinstance(stage, _WRAPPERS) else RunnableLambda
            held = {name: value for name, value in vars(stage).items() if _members(value)}
            placed = stage.model_copy(
                update=_mapped(
                    held,
                    lambda one: (
                        place(one) if isinstance(one, kinds) or holds_retriever(one) else one
                    ),
                )
            )
        case _:
            placed = _bound(stage, keywords, stage.invoke)
    return placed


def _in_retriever(
    stage: BaseRetriever, keywords: dict[str, Any], config: RunnableConfig | None
) -> Any:
    search = stage._get_relevant_documents  # noqa: SLF001  # the public invoke hides what it takes
    parameters = inspect.signature(search).parameters.keys()
    depth = {"k": keywords["k"]}
    if isinstance(stage, _STORE_RETRIEVERS):
        update: dict[str, Any] = {"search_kwargs": _search_kwargs(stage, keywords)}
        if isinstance(stage, SelfQueryRetriever):
            translator = _guarded(stage.structured_query_translator, keywords.keys() - depth)
            update["structured_query_translator"] = translator
        return stage.model_copy(update=update)
    if isinstance(stage, ContextualCompressionRetriever) and hasattr(stage, "fetch_k"):
        # A cascade: the inner retriever returns what this one fetches, and can't fetch less.
        own = max(stage.fetch_k, keywords.get("fetch_k", 0))
        return _BoundRetriever(stage, {**keywords, "fetch_k": max(own, keywords["k"])})
    if "k" in parameters:
        return _bound(stage, keywords, search)
    update = dict.fromkeys({"k", "top_k"} & type(stage).model_fields.keys(), keywords["k"])
    if isinstance(getattr(stage, "search_kwargs", None), dict):
        update["search_kwargs"] = _search_kwargs(stage, depth)
    if inside := {name: one for name, one in vars(stage).items() if _searches(name, one)}:
        others = {name: one for name, one in keywords.items() if name not in parameters}
        keywords = {name: one for name, one in keywords.items() if name in parameters}
        update |= _mapped(inside, partial(_placed, keywords=others, config=config))
    return _bound(stage.model_copy(update=update), keywords, search)


def _search_kwargs(retriever: Any, keywords: dict[str, Any]) -> dict[str, Any]:
    merged = {**retriever.search_kwargs, **keywords}
    if getattr(retriever, "search_type", None) == "mmr":
        # MMR has a fetch_k of its own, the pool it picks k from; its default of 20 would cap k.
        merged["fetch_k"] = max(merged.get("fetch_k", 0), 2 * merged["k"])
    return merged


def _guarded(translator: Any, keywords: AbstractSet[str]) -> Any:
    """Translate a chat model's query, but let it overwrite no keyword of the call."""

    def visit_structured_query(query: Any) -> tuple[str, dict[str, Any]]:
        text, found = translator.visit_structured_query(query)
        if lost := keywords & found.keys():
            msg = (
                f"SelfQueryRetriever's model wrote a {', '.join(sorted(lost))} in place of this "
                "call's: leave it out of the call, or search the store without SelfQueryRetriever"
            )
            raise TypeError(msg)
        return text, found

    return SimpleNamespace(visit_structured_query=visit_structured_query)


def _bound(stage: Any, keywords: dict[str, Any], function: Callable[..., Any]) -> Any:
    """Bind keywords to what takes them by its signature, `k` only if it is named there."""
    parameters = inspect.signature(function).parameters
    unknown = keywords.keys() - {"k"} - parameters.keys()
    # What **keywords of a function or a runnable are passed on to, if anything, nobody knows.
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    if unknown and not (takes_any and isinstance(stage, BaseRetriever)):
        msg = (
            f"the first stage {type(stage).__name__} takes no keyword "
            f"{', '.join(sorted(unknown))}: leave it out, name it in the function's signature, or "
            "use a first stage that takes it, such as a vector store"
        )
        raise TypeError(msg)
    keywords = {name: one for name, one in keywords.items() if name != "k" or name in parameters}
    return _BoundRetriever(stage, keywords) if keywords else stage


class _BoundRetriever(Runnable[str, list[Document]]):
    """Hands keywords to a retriever at every call, as `bind` does, but leaves callbacks alone.

    LangChain's `bind` adds the callbacks of the chain around it to those it is called with: in a
    chain, the first stage would be traced beside the retriever that it is a step of.
    """

    def __init__(self, retriever: FirstStage, keywords: dict[str, Any]) -> None:
        self._retriever = retriever
        self._keywords = keywords

    def invoke(
        self, input: str, config: RunnableConfig | None = None, **keywords: Any
    ) -> list[Document]:
        return self._retriever.invoke(input, config, **{**self._keywords, **keywords})

    async def ainvoke(
        self, input: str, config: RunnableConfig | None = None, **keywords: Any
    ) -> list[Document]:
        search = getattr(type(self._retriever), "_aget_relevant_documents", None)
        if search is BaseRetriever._aget_relevant_documents:  # noqa: SLF001  # LangChain's takes no keywords
            return await super().ainvoke(input, config, **keywords)
        return await self._retriever.ainvoke(input, config, **{**self._keywords, **keywords})


def _gives_documents(stage: AnyRunnable) -> bool:
    """Whether all that comes out is what retrievers inside found, whatever goes in."""
    if isinstance(stage, RunnableBranch):
        inside = [stage.default, *(one for _, one in stage.branches)]
    elif isinstance(stage, (*_WRAPPERS, RunnableBindingBase, DynamicRunnable)):
        inside = _members(vars(stage))
    else:
        return isinstance(stage, BaseRetriever)
    return all(map(_gives_documents, inside))


def _searches(field: str, value: object) -> bool:
    """Whether a retriever's field holds what it searches by; LangChain's are named retriever(s)."""
    inside = _members(value)
    return any(map(holds_retriever, inside)) or ("retriever" in field and bool(inside))


def holds_retriever(stage: AnyRunnable) -> bool:
    """Whether a retriever, or a function that asks a store, is inside, or `stage` is one."""
    return any(isinstance(one, BaseRetriever | VectorStore) for one in runnables_in(stage))


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
            waiting += _used_by(one)
        elif isinstance(one, BaseModel):
            waiting += _members(vars(one))


def _functions_of(stage: RunnableLambda[Any, Any]) -> list[Callable[..., Any]]:
    return [vars(stage)[name] for name in ("func", "afunc") if name in vars(stage)]


def _used_by(stage: RunnableLambda[Any, Any]) -> list[Any]:
    """Find the runnables, and the vector stores, that a function uses."""
    values: list[Any] = list(stage.deps)
    for function in _functions_of(stage):
        values.append(function)
        # LangChain's `deps` reads the source, which it can't for a lambda in a longer expression.
        if inspect.isfunction(function):
            names = inspect.getclosurevars(function)
            values += [*names.nonlocals.values(), *names.globals.values()]
    values += [getattr(value, "__self__", None) for value in values]
    return [*_members(values), *(value for value in values if isinstance(value, VectorStore))]


def _members(value: object) -> list[AnyRunnable]:
    """Find the runnables in a field's value: itself, or in lists, tuples and dicts."""
    found: list[AnyRunnable] = []
    _mapped(value, found.append)
    return found


def _mapped(value: Any, change: Callable[[AnyRunnable], object]) -> Any:
    """Copy a field's value, with each runnable in it changed."""
    if isinstance(value, Runnable):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _mapped(one, change) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(one, change) for one in value]
    return value
