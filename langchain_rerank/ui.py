"""The page of `langchain-rerank ui`: see what reranking does to a question, and label it."""

from __future__ import annotations

import hashlib
import json
import os
import time
from functools import lru_cache
from html import escape
from itertools import chain
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from langchain_rerank.chain import create_rag_chain
from langchain_rerank.chroma import document_id
from langchain_rerank.compressor import Reranker
from langchain_rerank.errors import require
from langchain_rerank.files import replacing
from langchain_rerank.reader import reader_of
from langchain_rerank.retriever import create_rerank_retriever
from langchain_rerank.view import STYLE, answer_html, best_sentences, ranking_html, source_of

require("gradio", install="langchain-rerank[ui]", purpose="The page")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr  # noqa: E402  # reads the environment once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from langchain_chroma import Chroma
    from langchain_core.cross_encoders import BaseCrossEncoder
    from langchain_core.documents import Document
    from langchain_core.language_models import BaseChatModel

REFERENCE, FOLDER, CHROMA, PASTED = "Python reference", "Folder", "Chroma", "Pasted passages"
_ROWS = 10
_SNIPPET = 70


class Page:
    """What the page does: opens sources and models once, asks, and saves judgments.

    Args:
        open_source: Makes a store of a kind (a constant above), a folder's path, the name of a
            collection and pasted passages.
        build_model: Makes a cross encoder of what a user names.
        labels: Folder of the labelled questions, in BEIR's layout.
        llm: Answers; without one the best sentences are quoted.
    """

    def __init__(
        self,
        open_source: Callable[[str, str, str, str], Chroma],
        build_model: Callable[[str], BaseCrossEncoder],
        labels: Path,
        llm: BaseChatModel | None = None,
    ) -> None:
        """Open and load nothing yet."""
        self._store = lru_cache(maxsize=4)(open_source)
        self._model = lru_cache(maxsize=4)(build_model)
        self._labels = labels
        self._llm = llm

    def ask(
        self, question: str, source: tuple[str, str, str, str], settings: dict[str, Any]
    ) -> list[Any]:
        """Rerank by one model or two; values of the page's outputs, or an error's message."""
        try:
            if not question.strip():
                msg = "The question is empty: write one above."
                raise ValueError(msg)
            store = self._store(*source)
            names = [name.strip() for name in settings["models"] if name.strip()]
            shown = [self._reranked(store, question, name, settings, f"rr{i}") for i, name in enumerate(names)]
        except Exception as error:  # noqa: BLE001  # whatever it is, the page says it
            return [_alert(error), "", "", "", gr.CheckboxGroup(choices=[]), {}]
        (documents, first, answer, times), *others = shown
        best = documents[: settings["k"]]
        choices = [(f"[{n}] {_line(one)}", one.id or document_id(one)) for n, one in enumerate(best, start=1)]
        return [
            f'<p role="status">{times}</p>',
            answer,
            STYLE + first,
            others[0][1] + f"<p>{others[0][3]}</p>" if others else "",
            gr.CheckboxGroup(choices=choices, value=[]),
            {"question": question, "source": source, "ids": [key for _, key in choices]},
        ]
