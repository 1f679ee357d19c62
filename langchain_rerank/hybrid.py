"""A first stage that adds BM25 to a vector store and fuses the two lists by reciprocal rank."""

from __future__ import annotations

import os
import re
import threading
import time
import unicodedata
from contextlib import suppress
from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np
from langchain_classic.retrievers import EnsembleRetriever
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import Field, PrivateAttr, model_validator

from langchain_rerank.errors import require
from langchain_rerank.shared_folder import local_folder
from langchain_rerank.text import well_formed

# Two writes within one tick of a file system's clock leave the same time; none ticks slower.
_SETTLED_S = 2.0
# Languages that are written without spaces between words, and Korean, whose particles stick to
# them; the mark that makes a kana long belongs to no script.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = rf"(?V1)([\w&&[{_UNSPACED}]]+)|([\w--[{_UNSPACED}]]{{2,}})"
_IGNORED = r"(?V1)[\p{Default_Ignorable_Code_Point}--\u200b]+"
_ACCENT = r"(?<=[\p{Latin}\p{Greek}\p{Cyrillic}\p{Arabic}\p{Hebrew}])\p{Mn}+"


class HybridRetriever(EnsembleRetriever):
    """Vector search and BM25 side by side, fused by reciprocal rank."""

    def weighted_reciprocal_rank(self, doc_lists: list[list[Document]]) -> list[Document]:
        """Fuse ranked lists; EnsembleRetriever's own would make one of two pages of equal text.

        Source: Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and
        individual Rank Learning Methods", SIGIR 2009.
        """
        documents: dict[str, Document] = {}
        scores: dict[str, float] = {}
        for weight, ranking in zip(self.weights, doc_lists, strict=True):
            for rank, document in enumerate(ranking, start=1):
                # By content, as langchain_community's Chroma finds documents without their ids.
                key = repr((document.page_content, sorted(document.metadata.items())))
                documents.setdefault(key, document)
                scores[key] = scores.get(key, 0) + weight / (self.c + rank)
        return [documents[key] for key in sorted(scores, key=scores.__getitem__, reverse=True)]


class _Index(NamedTuple):
    """What was read of a store and made of it: `bm25` is None where no document has a word."""

    marker: tuple[tuple[int, ...], ...] | None
    content: int
    ids: list[str]
    bm25: Any


class KeywordRetriever(BaseRetriever):
    """BM25 (library: bm25s) over the documents of a Chroma store, as they are at each question.

    A collection on this machine's disk is read again once its file says that it has changed, by
    whichever process. One in memory or on a server is read at each question, to see whether it has:
    .1 s for 20,000 short documents in memory. What is found is fetched from the store by id.

    Words lose case, width and accents; English stop words are left out. Chinese, Japanese, Korean,
    Thai, Lao, Khmer and Burmese are searched by single characters and pairs of them.

    Source: Lù, "BM25S: Orders of magnitude faster lexical search via eager sparse scoring", 2024.
    """

    store: Any
    """A Chroma vector store, of langchain_chroma or langchain_community."""
    k: int = Field(default=100, gt=0)
    """How many documents to return."""
    filter: dict[str, Any] | None = None
    """Which metadata a document must have; given per call, that one counts."""
    where_document: dict[str, Any] | None = None
    """What a text must hold; given per call, that one counts."""

    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)
    _index: _Index | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not callable(getattr(self.store, "get", None)):
            msg = (
                "hybrid search needs a store that lists its documents, a Chroma; got "
                f"{type(self.store).__name__}. For another, pass an EnsembleRetriever as source."
            )
            raise TypeError(msg)
        extra = "langchain-rerank[hybrid]"
        require("bm25s", "regex", install=extra, purpose="Hybrid search")
        return self

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002  # the interface's
        k: int | None = None,
        filter: dict[str, Any] | None = None,
        where_document: dict[str, Any] | None = None,
    ) -> list[Document]:
        where = {
            "where": self.filter if filter is None else filter,
            "where_document": self.where_document if where_document is None else where_document,
        }
        index = self._current_index()
        ids = _best(index, _words(query), k or self.k, self._allowed(where))
        if not ids:
            return []
        # Chroma takes .2 s for ids and a filter together, at 20,000 documents.
        found = self.store.get(ids=ids, include=["documents", "metadatas"])
        # The filter speaks of the documents as they are fetched, not as they were before.
        allowed = self._allowed(where)
        rows = zip(found["ids"], found["documents"], found["metadatas"], strict=True)
        documents = {
            key: Document(text or "", metadata=metadata or {}, id=key)
            for key, text, metadata in rows
            if allowed is None or key in allowed
        }
        return [documents[key] for key in ids if key in documents]

    def _allowed(self, where: dict[str, Any]) -> set[str] | None:
        """Ask which ids a filter allows; None without a filter."""
        return set(self.store.get(include=[], **where)["ids"]) if any(where.values()) else None

    def _current_index(self) -> _Index:
        with self._lock:
            known = self._index
            # Read before the documents: a change after it is seen at the next question.
            marker = _change_marker(self.store)
            if known and marker and marker == known.marker:
                return known
            stored = self.store.get(include=["documents"])
            ids, texts = stored["ids"], stored["documents"]
            content = hash((tuple(ids), tuple(texts)))
            bm25 = known.bm25 if known and content == known.content else _bm25(texts)
            self._index = _Index(marker, content, ids, bm25)
            return self._index


def _bm25(texts: list[str | None]) -> Any:
    import bm25s

    words = [_words(text or "") for text in texts]
    index = bm25s.BM25()
    if any(words):
        index.index(words, show_progress=False)
    return index if any(words) else None


def _best(index: _Index, words: list[str], k: int, allowed: set[str] | None) -> list[str]:
    """Ids of the best documents that hold a word, best first."""
    if index.bm25 is None:
        return []
    mask = np.array([allowed is None or key in allowed for key in index.ids], np.float32)
    k = min(k, len(index.ids))
    found = index.bm25.retrieve([words], k=k, show_progress=False, weight_mask=mask)
    ranking = zip(found.documents[0], found.scores[0], strict=True)
    return [index.ids[position] for position, score in ranking if score > 0]


def _change_marker(store: Any) -> tuple[tuple[int, ...], ...] | None:
    """Return what changes with every write to a collection on disk; None where nothing tells.

    The files are looked at from outside: to open and close SQLite's file would end the locks that
    Chroma holds on it in this process.
    """
    client = getattr(store, "_client", None)
    folder = local_folder(client) if client is not None else None
    if folder is None or os.name != "posix":  # Windows may be late with a file's times
        return None
    stats = []
    for name in ("chroma.sqlite3", "chroma.sqlite3-wal"):
        with suppress(FileNotFoundError):
            stats.append((folder / name).stat())
    if not stats or time.time() - max(stat.st_mtime for stat in stats) < _SETTLED_S:
        return None
    return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)


def _words(text: str) -> list[str]:
    """Split a text into what BM25 counts.

    Where a language has no spaces, single characters and pairs of them find more than words of a
    dictionary do. Accents go where they only mark: a Thai or Hindi vowel stays.
    """
    import regex
    from bm25s.stopwords import STOPWORDS_EN

    if text.isascii():
        found = re.findall(r"\w\w+", text.lower())
    else:
        # As Unicode's NFKC_Casefold, which would glue a trade mark's letters to the name before it.
        text = well_formed(text).replace("™", " ").replace("℠", " ")
        text = unicodedata.normalize("NFKC", regex.sub(_IGNORED, "", text)).casefold()
        text = regex.sub(_ACCENT, "", unicodedata.normalize("NFD", text))
        found = []
        for run, word in regex.findall(_WORD, unicodedata.normalize("NFC", text)):
            found += [*run, *map("".join, pairwise(run))] if run else [word]
    return [word for word in found if word not in STOPWORDS_EN]
