"""Asking any first stage for a number of candidates, and with the keywords of one call."""

from __future__ import annotations

import inspect
import logging
from typing import Any

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable
from langchain_core.vectorstores import VectorStore, VectorStoreRetriever

from langchain_rerank.bound import BoundRetriever
from langchain_rerank.hybrid import HybridRetriever, KeywordRetriever

logger = logging.getLogger(__name__)


def as_first_stage(
    source: VectorStore | BaseRetriever, search_kwargs: dict[str, Any] | None, *, hybrid: bool
) -> BaseRetriever:
    """Make a retriever of what a user hands over; see `create_rerank_retriever`."""
    if isinstance(source, VectorStore):
        if "k" in (search_kwargs or {}):
            msg = "search_kwargs can't set k, the number of candidates: use fetch_k"
            raise ValueError(msg)
        dense = source.as_retriever(search_kwargs=dict(search_kwargs or {}))
        if not hybrid:
            return dense
        return HybridRetriever(dense=dense, keyword=KeywordRetriever(store=source))
    if not isinstance(source, BaseRetriever):
        msg = f"source must be a VectorStore or a BaseRetriever, got {type(source).__name__}"
        raise TypeError(msg)
    if search_kwargs or hybrid:
        option = "hybrid=True" if hybrid else "search_kwargs"
        msg = f"{option} needs a VectorStore as source, got the retriever {type(source).__name__}"
        raise TypeError(msg)
    return source


def with_fetch_k(
    retriever: Runnable[str, list[Document]], fetch_k: int, kwargs: dict[str, Any]
) -> Runnable[str, list[Document]]:
    """Bind one call's depth and keywords to a first stage.

    The depth goes where the retriever takes one: the keyword `k`, the fields `k`, `top_k` or
    `search_kwargs`, or the retrievers that it wraps. One that takes none gives as many documents
    as it likes.

    Raises:
        TypeError: Keywords were given to a retriever that takes none. LangChain would drop them,
            and a dropped `filter` gives documents that the caller meant to exclude.
    """
    if not isinstance(retriever, BaseRetriever):
        return BoundRetriever(retriever, kwargs)
    if isinstance(retriever, VectorStoreRetriever):
        return BoundRetriever(retriever, _search_keywords(retriever, fetch_k, kwargs))
    parameters = inspect.signature(retriever._get_relevant_documents).parameters  # noqa: SLF001  # the public invoke hides them
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    unknown = [] if takes_any else [name for name in kwargs if name not in parameters]
    if unknown:
        msg = (
            f"the first stage {type(retriever).__name__} takes no keyword {', '.join(unknown)}: "
            "leave it out, or use a first stage that does, such as a vector store"
        )
        raise TypeError(msg)
    if {"k", "fetch_k"} <= parameters.keys():
        # A cascade: the inner retriever returns what this one fetches, and can't fetch less.
        inner = max(getattr(retriever, "fetch_k", 0), fetch_k)
        return BoundRetriever(retriever, {"k": fetch_k, "fetch_k": inner, **kwargs})
    if "k" in parameters:
        return BoundRetriever(retriever, {"k": fetch_k, **kwargs})
    return BoundRetriever(_with_depth(retriever, fetch_k), kwargs)


def _with_depth(retriever: BaseRetriever, fetch_k: int) -> BaseRetriever:
    """Copy a retriever with its depth set: its own, or that of the retrievers that it wraps."""
    fields = type(retriever).model_fields
    update: dict[str, Any] = {
        name: with_fetch_k(getattr(retriever, name), fetch_k, {})
        for name in ("retriever", "base_retriever")
        if isinstance(getattr(retriever, name, None), BaseRetriever)
    }
    if isinstance(wrapped := getattr(retriever, "retrievers", None), list):
        update["retrievers"] = [with_fetch_k(one, fetch_k, {}) for one in wrapped]
    if isinstance(keywords := getattr(retriever, "search_kwargs", None), dict):
        update["search_kwargs"] = {**keywords, "k": fetch_k}
    update |= dict.fromkeys({"k", "top_k"} & fields.keys(), fetch_k)
    if not update:
        logger.info("%s can't be asked for a number of documents", type(retriever).__name__)
    return retriever.model_copy(update=update)


def _search_keywords(
    retriever: VectorStoreRetriever, fetch_k: int, kwargs: dict[str, Any]
) -> dict[str, Any]:
    keywords: dict[str, Any] = {"k": fetch_k, **kwargs}
    if retriever.search_type == "mmr":
        # MMR has a fetch_k of its own, the pool it picks k from; its default of 20 would cap k.
        pool: int = retriever.search_kwargs.get("fetch_k", 0)
        keywords["fetch_k"] = max(pool, 2 * fetch_k)
    return keywords
