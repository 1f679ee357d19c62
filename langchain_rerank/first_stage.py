"""Asking any first stage for a number of candidates, and with the keywords of one call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from langchain_classic.retrievers import ContextualCompressionRetriever, MultiVectorRetriever
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import (
    RouterRunnable,
    Runnable,
    RunnableBranch,
    RunnableConfig,
    RunnableLambda,
    RunnableSequence,
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

# What comes out of these is what one of those inside gave.
_WRAPPERS = (
    RunnableBindingBase,
    DynamicRunnable,
    RunnableWithFallbacks,
    RunnableBranch,
    RouterRunnable,
    RunnableEachBase,
)

# How LangChain's retrievers name how many documents they give, in signatures and as fields.
_DEPTHS = ("k", "top_k")
# How vector stores name what metadata a document must have.
_FILTERS = ("filter", "filters", "where")


def as_first_stage(
    source: VectorStore | FirstStage, search_kwargs: dict[str, Any] | None, *, hybrid: bool
) -> FirstStage:
    """Make a first stage of what a user hands over; see `create_rerank_retriever`."""
    options = dict(search_kwargs or {})
    kind = type(source).__name__
    if isinstance(source, Runnable):
        if options or hybrid:
            option = "hybrid=True" if hybrid else "search_kwargs"
            msg = f"{option} needs a VectorStore as source, got the retriever {kind}"
            raise TypeError(msg)
        return source
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

    The depth goes where a retriever takes one: the keyword or the field `k` or `top_k`,
    `search_kwargs`, or the retrievers that it wraps, in place of what was bound or configured. One
    that takes none gives as many documents as it likes. `config` settles what is configurable.

    Raises:
        TypeError: What may give documents does not take all keywords. LangChain would drop them,
            and a dropped `filter` gives documents that the caller meant to exclude.
    """
    return _placed(stage, {**keywords, "k": fetch_k}, config)


def _placed(stage: Any, keywords: dict[str, Any], config: RunnableConfig | None) -> Any:
    """Copy a runnable with keywords set in it: all of them but perhaps `k`, or `TypeError`."""
    if isinstance(stage, DynamicRunnable):
        chosen, settled = stage.prepare(config)
        placed = _placed(chosen, keywords, settled)
        return placed.with_config(stage.config) if stage.config else placed
    if isinstance(stage, RunnableBindingBase):
        settled = merge_configs(stage.config, config)
        bound = _placed(stage.bound, {**stage.kwargs, **keywords}, settled)
        return stage.model_copy(update={"bound": bound, "kwargs": {}})
    if isinstance(stage, BaseRetriever):
        return _in_retriever(stage, keywords, config)
    if sources := set(map(id, _sources(stage))):

        def place(one: Any) -> Any:
            return _placed(one, keywords, config) if id(one) in sources else one

        return stage.model_copy(update=_mapped(_holding(stage), place))
    functions = _functions_of(stage) if isinstance(stage, RunnableLambda) else [stage.invoke]
    owner = getattr(functions[0], "__self__", None)
    if isinstance(owner, BaseRetriever) and functions[0].__name__ in ("invoke", "ainvoke"):
        return _placed(owner, keywords, config)
    return [_bound(stage, keywords, function) for function in functions][-1]


def _sources(stage: Any) -> list[AnyRunnable]:
    """List the parts of a runnable from which the documents that it gives may come."""
    inside = _members(_holding(stage))
    if isinstance(stage, RunnableBranch):
        return [stage.default, *(one for _, one in stage.branches)]
    if isinstance(stage, _WRAPPERS):
        return inside
    held = [one for one in inside if holds_retriever(one)]
    if isinstance(stage, RunnableSequence):
        return held if held and not _gives_documents(stage.last) else [stage.last]
    # A function beside a retriever may search too; only its signature tells.
    functions = [one for one in inside if isinstance(one, RunnableLambda)]
    return [*held, *functions] if held else []


def _gives_documents(stage: AnyRunnable) -> bool:
    """Whether all that comes out is what retrievers inside found, whatever goes in."""
    if isinstance(stage, _WRAPPERS):
        return all(map(_gives_documents, _sources(stage)))
    return isinstance(stage, BaseRetriever)


def _in_retriever(
    stage: BaseRetriever, keywords: dict[str, Any], config: RunnableConfig | None
) -> Any:
    search = stage._get_relevant_documents  # noqa: SLF001  # the public invoke hides what it takes
    parameters = inspect.signature(search).parameters.keys()
    k = keywords["k"]
    if isinstance(stage, VectorStoreRetriever | MultiVectorRetriever):
        # They hand all of these to a vector store, and search nothing else.
        asked = _search_kwargs(stage, keywords)
        placed = with_fields(stage, {"search_kwargs": asked})
        if isinstance(stage, VectorStoreRetriever):
            filters = [one for one in map(asked.get, _FILTERS) if isinstance(one, Mapping)]
            return _FilteredRetriever(placed, filters) if filters else placed
        return placed
    if isinstance(stage, ContextualCompressionRetriever) and hasattr(stage, "fetch_k"):
        # A cascade: the inner retriever returns what this one fetches, and can't fetch less.
        fetch_k = max(stage.fetch_k, keywords.get("fetch_k", 0), k)
        return _BoundRetriever(stage, {**keywords, "fetch_k": fetch_k})
    if parameters & set(_DEPTHS):
        return _bound(stage, keywords, search)
    update = dict.fromkeys(type(stage).model_fields.keys() & set(_DEPTHS), k)
    if isinstance(getattr(stage, "search_kwargs", None), dict):
        update["search_kwargs"] = _search_kwargs(stage, {"k": k})
    # LangChain's fields that hold what a retriever searches by are named retriever(s).
    inside = {
        name: value
        for name, value in _holding(stage).items()
        if "retriever" in name or any(map(holds_retriever, _members(value)))
    }
    if inside:
        others = {name: one for name, one in keywords.items() if name not in parameters}
        keywords = {name: one for name, one in keywords.items() if name in parameters}
        update |= _mapped(inside, partial(_placed, keywords=others, config=config))
    return _bound(with_fields(stage, update), keywords, search)


def with_fields(stage: Any, update: Mapping[str, Any]) -> Any:
    """Copy a retriever or compressor with other fields; what it loads when used, both have."""
    if not update:
        return stage
    copy = stage.model_copy(update=update)
    object.__setattr__(copy, "__pydantic_private__", stage.__pydantic_private__)
    return copy


def _search_kwargs(retriever: Any, keywords: dict[str, Any]) -> dict[str, Any]:
    merged = {**retriever.search_kwargs, **keywords}
    if getattr(retriever, "search_type", None) == "mmr":
        # MMR has a fetch_k of its own, the pool it picks k from; its default of 20 would cap k.
        merged["fetch_k"] = max(merged.get("fetch_k", 0), 2 * merged["k"])
    return merged


def _bound(stage: Any, keywords: dict[str, Any], function: Callable[..., Any]) -> Any:
    """Bind keywords to what takes them by its signature, `k` as the depth that is named there."""
    parameters = inspect.signature(function).parameters
    # What **keywords of a function or a runnable are passed on to, if anything, nobody knows.
    takes_any = isinstance(stage, BaseRetriever) and any(
        one.kind is one.VAR_KEYWORD for one in parameters.values()
    )
    if not takes_any and (unknown := keywords.keys() - {"k"} - parameters.keys()):
        msg = (
            f"the first stage {type(stage).__name__} takes no keyword "
            f"{', '.join(sorted(unknown))}: leave it out, name it in the function's signature, or "
            "use a first stage that takes it, such as a vector store"
        )
        raise TypeError(msg)
    given = {name: one for name, one in keywords.items() if name != "k"}
    if "k" in keywords and (depth := next((one for one in _DEPTHS if one in parameters), None)):
        given = {depth: keywords["k"], **given}
    return _BoundRetriever(stage, given) if given else stage


class _BoundRetriever(Runnable[str, list[Document]]):
    """Hands keywords to a retriever at every call, as `bind` does, but leaves callbacks alone.

    With `bind` a first stage in a chain would be traced beside the retriever it is a step of.
    """

    def __init__(self, retriever: FirstStage, keywords: dict[str, Any]) -> None:
        self._retriever = retriever
        self._keywords = keywords

    def invoke(self, input: str, config: RunnableConfig | None = None, **_: Any) -> list[Document]:
        return self._retriever.invoke(input, config, **self._keywords)

    async def ainvoke(
        self, input: str, config: RunnableConfig | None = None, **_: Any
    ) -> list[Document]:
        search = getattr(type(self._retriever), "_aget_relevant_documents", None)
        if search is BaseRetriever._aget_relevant_documents:  # noqa: SLF001  # LangChain's takes no keywords
            return await super().ainvoke(input, config)
        return await self._retriever.ainvoke(input, config, **self._keywords)


class _FilteredRetriever(_BoundRetriever):
    """Makes sure that a vector store has heeded filters: some drop what they don't know."""

    def __init__(self, retriever: VectorStoreRetriever, filters: list[Mapping[str, Any]]) -> None:
        super().__init__(retriever, {})
        self._wanted = [(name, value) for one in filters for name, value in one.items()]

    def invoke(self, input: str, config: RunnableConfig | None = None, **_: Any) -> list[Document]:
        return self._checked(super().invoke(input, config))

    async def ainvoke(
        self, input: str, config: RunnableConfig | None = None, **_: Any
    ) -> list[Document]:
        return self._checked(await super().ainvoke(input, config))

    def _checked(self, found: list[Document]) -> list[Document]:
        for document in found:
            for name, value in self._wanted:
                other = document.metadata.get(name, value)
                # Of lists and operators only the store knows what they mean.
                if isinstance(value, str | int) and type(other) is type(value) and other != value:
                    msg = (
                        f"the vector store takes no keyword filter, or not this one: asked for "
                        f"{name} {value!r:.80}, it gave a document of {name} {other!r:.80}"
                    )
                    raise TypeError(msg)
        return found


def holds_retriever(stage: AnyRunnable) -> bool:
    """Whether a retriever, or a function that asks a store, is inside, or `stage` is one."""
    return any(isinstance(one, BaseRetriever | VectorStore) for one in runnables_in(stage))


def runnables_in(stage: AnyRunnable) -> Iterator[AnyRunnable]:
    """Find a runnable and all that it holds, each once, those of a function's closure included."""
    seen: set[int] = set()
    waiting = [stage]
    while waiting:
        one = waiting.pop(0)
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += _used_by(one) if isinstance(one, RunnableLambda) else _members(_holding(one))


def _functions_of(stage: RunnableLambda[Any, Any]) -> list[Callable[..., Any]]:
    return [vars(stage)[name] for name in ("func", "afunc") if name in vars(stage)]


def _used_by(stage: RunnableLambda[Any, Any]) -> list[Any]:
    """Find the runnables and the vector stores that a function uses, by themselves or a method."""
    values: list[Any] = [*stage.deps, *_functions_of(stage)]
    # LangChain's `deps` reads the source, which it can't for a lambda in a longer expression.
    for function in filter(inspect.isfunction, _functions_of(stage)):
        names = inspect.getclosurevars(function)
        values += [*names.nonlocals.values(), *names.globals.values()]
    values += [getattr(value, "__self__", None) for value in values]
    return [*_members(values), *(one for one in values if isinstance(one, VectorStore))]


def _holding(stage: object) -> dict[str, Any]:
    """Return those fields of a runnable in which there are others."""
    fields = vars(stage) if isinstance(stage, BaseModel) else {}
    return {name: value for name, value in fields.items() if _members(value)}


def _members(value: object) -> list[Any]:
    """Find the runnables in a field's value: itself, or in lists, tuples and dicts."""
    found: list[Any] = []
    _mapped(value, found.append)
    return found


def _mapped(value: Any, change: Callable[[Any], object]) -> Any:
    """Copy a field's value, with each runnable in it changed."""
    if isinstance(value, Runnable):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _mapped(one, change) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(one, change) for one in value]
    return value
