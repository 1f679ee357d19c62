"""A first stage that adds BM25 to a vector store and fuses the two lists by reciprocal rank."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from langchain_classic.retrievers import EnsembleRetriever
from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import run_in_executor
from langchain_core.vectorstores import VectorStoreRetriever
from pydantic import Field, PrivateAttr, field_validator, model_validator

from langchain_rerank.errors import require
from langchain_rerank.runnables import BoundRetriever
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    from collections.abc import Sequence


class KeywordRetriever(BaseRetriever):
    """BM25 (library: bm25s) over the documents of a Chroma store.

    The index holds the texts as they are at the first query, or at the last `refresh`. What it
    finds is fetched from the store by id, so a document deleted since is never returned and a
    changed one comes as it is now; one added since is found by the vector search alone until
    `refresh`. Words are split at Unicode word boundaries and English stop words are left out.

    Source: Lù, "BM25S: Orders of magnitude faster lexical search via eager sparse scoring", 2024.
    """

    store: Any
    """A Chroma vector store, of langchain_chroma or langchain_community."""
    k: int = Field(default=100, gt=0)
    """How many documents to return."""

    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)
    _index: tuple[Any, list[str]] | None = PrivateAttr(default=None)

    @field_validator("store")
    @classmethod
    def _check_store(cls, store: object) -> object:
        if not callable(getattr(store, "get", None)):
            msg = (
                "hybrid search needs a store that lists its documents, a Chroma; got "
                f"{type(store).__name__}. For another store, pass an EnsembleRetriever as source."
            )
            raise TypeError(msg)
        return store

    @model_validator(mode="after")
    def _check_library(self) -> Self:
        require("bm25s", install="langchain-rerank[hybrid]", purpose="Hybrid search")
        return self

    def refresh(self) -> None:
        """Index the store's documents anew at the next query."""
        with self._lock:
            self._index = None

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002  # the interface's
        k: int | None = None,
        filter: dict[str, Any] | None = None,
        where_document: dict[str, Any] | None = None,
    ) -> list[Document]:
        where = {"where": filter, "where_document": where_document}
        ids = self._search(query, k or self.k, where if filter or where_document else None)
        found = self.store.get(ids=ids, include=["documents", "metadatas"], **where) if ids else {}
        rows = zip(*(found.get(key, ()) for key in ("ids", "documents", "metadatas")), strict=True)
        documents = {
            key: Document(text, metadata=metadata or {}, id=key) for key, text, metadata in rows
        }
        return [documents[key] for key in ids if key in documents]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        sync = run_manager.get_sync()
        search = self._get_relevant_documents
        return await run_in_executor(None, search, query, run_manager=sync, **kwargs)

    def _search(self, query: str, k: int, where: dict[str, Any] | None) -> list[str]:
        """Ids of the best documents that hold a word of the query, best first."""
        index, ids = self._loaded_index()
        if not ids:
            return []
        mask = None
        if where is not None:
            allowed = set(self.store.get(include=[], **where)["ids"])
            mask = np.array([key in allowed for key in ids], dtype=np.float32)
        positions, scores = index.retrieve(
            _tokens([query]),
            k=min(k, len(ids)),
            show_progress=False,
            weight_mask=mask,
        )
        return [
            ids[position]
            for position, score in zip(positions[0], scores[0], strict=True)
            if score > 0
        ]

    def _loaded_index(self) -> tuple[Any, list[str]]:
        import bm25s

        with self._lock:
            if self._index is None:
                stored = self.store.get(include=["documents"])
                index = bm25s.BM25()
                tokens = _tokens(stored["documents"])
                if any(tokens):
                    index.index(tokens, show_progress=False)
                # An index without a word can't be searched.
                self._index = (index, stored["ids"] if any(tokens) else [])
            return self._index


class HybridRetriever(BaseRetriever):
    """Vector search and BM25 side by side, fused by LangChain's EnsembleRetriever.

    Source: Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and
    individual Rank Learning Methods", SIGIR 2009.
    """

    dense: VectorStoreRetriever
    """The vector search."""
    keyword: KeywordRetriever
    """The keyword search over the same store."""

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        ensemble = self._ensemble(k, kwargs)
        return ensemble.invoke(query, {"callbacks": run_manager.get_child()})[:k]

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        ensemble = self._ensemble(k, kwargs)
        return (await ensemble.ainvoke(query, {"callbacks": run_manager.get_child()}))[:k]

    def _ensemble(self, k: int | None, kwargs: dict[str, Any]) -> EnsembleRetriever:
        """Both searches with this call's keywords; EnsembleRetriever itself passes none on.

        A filter set for the vector search holds for the keyword search too.
        """
        if k is not None:
            kwargs = {**kwargs, "k": k}
        filters = {
            name: value
            for name, value in self.dense.search_kwargs.items()
            if name in ("filter", "where_document")
        }
        searches = [
            BoundRetriever(self.dense, kwargs),
            BoundRetriever(self.keyword, {**filters, **kwargs}),
        ]
        return EnsembleRetriever(retrievers=searches, weights=[0.5, 0.5])


def _tokens(texts: Sequence[str]) -> list[list[str]]:
    import bm25s

    tokens: list[list[str]] = bm25s.tokenize(
        [well_formed(text or "") for text in texts], return_ids=False, show_progress=False
    )
    return tokens
