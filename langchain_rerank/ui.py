"""The page of `langchain-rerank ui`: see what reranking does to a question, and label it."""

from __future__ import annotations

import hashlib
import os
import re
import time
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from langchain_rerank.chain import create_rag_chain
from langchain_rerank.chroma import document_id, index_documents
from langchain_rerank.compressor import Reranker
from langchain_rerank.errors import require
from langchain_rerank.evaluation import Dataset, load_beir, write_beir
from langchain_rerank.evaluation.loading import read_jsonl
from langchain_rerank.ranking import check_query
from langchain_rerank.reader import ExtractiveReader
from langchain_rerank.retriever import create_rerank_retriever
from langchain_rerank.view import (
    STYLE,
    answer_html,
    best_sentences,
    by_threshold,
    ranking_html,
    source_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import gradio as gr
    from langchain_chroma import Chroma
    from langchain_core.cross_encoders import BaseCrossEncoder
    from langchain_core.language_models import BaseChatModel
    from langchain_core.tracers.schemas import Run

REFERENCE, FOLDER, CHROMA, PASTED = "Python reference", "Folder", "Chroma", "Pasted passages"
_ROWS = 10
_SNIPPET = 70


class Page:
    """What the page does: opens stores and models once, asks, and saves judgments."""

    def __init__(
        self,
        open_store: Callable[[str, str], Chroma],
        build_model: Callable[[str], BaseCrossEncoder],
        labels: Path,
        llm: BaseChatModel | None = None,
    ) -> None:
        """Store the settings; nothing is opened or loaded yet.

        Args:
            open_store: Takes a kind (a constant above) and the folder's path, the collection's
                name or the pasted passages.
            build_model: Makes a cross encoder of what a user names.
            labels: Folder of the labelled questions, in BEIR's layout.
            llm: Answers; without one the best sentences are quoted.
        """
        self.store = lru_cache(maxsize=4)(open_store)
        self._model = lru_cache(maxsize=4)(build_model)
        self._labels = labels
        self._llm = llm

    def ask(  # noqa: PLR0913, PLR0917  # the page's controls, one each
        self,
        question: str,
        kind: str,
        place: str,
        pasted: str,
        k: int,
        fetch_k: int,
        hybrid: bool,  # noqa: FBT001  # Gradio gives values by position
        weight: float,
        threshold: float,
        *models: str,
    ) -> tuple[Any, ...]:
        """Rerank by one model or two: status, answer, view, passages to judge, what they are of."""
        import gradio as gr

        source = (kind, pasted if kind == PASTED else place.strip())
        depths = {"k": int(fetch_k), "fetch_k": int(fetch_k), "hybrid": hybrid}
        try:
            check_query(question)
            shown = []
            for number, name in enumerate(_named(models)):
                reranker = Reranker(model=self._model(name), first_stage_weight=weight, top_n=None)
                found, seconds = self._found(question, source, reranker, depths)
                documents, above = by_threshold(found, threshold or None)
                limits = {"kept": min(int(k), above), "above": above, "anchor": f"rr{number}"}
                shown.append(
                    self._shown(question, name, reranker.model, documents, seconds, limits)
                )
        except Exception as error:  # noqa: BLE001  # whatever went wrong, the page says it
            return _alert(error), "", "", gr.update(choices=[]), {}
        statuses, answers, views, [context, *_] = zip(*shown, strict=True)
        choices = [(f"[{n}] {_line(one)}", _id(one)) for n, one in enumerate(context, start=1)]
        judged = {"question": question, "source": source, "ids": [key for _, key in choices]}
        view = f'{STYLE}<div class="rr-models">{"".join(views)}</div>'
        ticks = gr.update(choices=choices, value=[])
        return _status("<br>".join(statuses)), answers[0], view, ticks, judged

    def _found(
        self, question: str, source: tuple[str, str], reranker: Reranker, depths: dict[str, Any]
    ) -> tuple[list[Document], dict[str, float]]:
        """The reranked candidates, and the seconds of both stages."""
        if hasattr(reranker.model, "load"):
            reranker.model.load()
        retriever = create_rerank_retriever(self.store(*source), reranker=reranker, **depths)
        collector = RunCollectorCallbackHandler()
        documents = retriever.invoke(question, {"callbacks": [collector]})
        [run] = collector.traced_runs
        ranking = sum(_seconds(one) for one in run.child_runs if one.name == "Reranker")
        return documents, {"first stage": _seconds(run) - ranking, "reranking": ranking}

    def _shown(  # noqa: PLR0913, PLR0917  # all that was found by one model
        self,
        question: str,
        name: str,
        model: BaseCrossEncoder,
        documents: list[Document],
        seconds: dict[str, float],
        limits: dict[str, Any],
    ) -> tuple[str, str, str, list[Document]]:
        """How long each stage took, the answer, the view and the kept passages of one model."""
        kept = documents[: limits["kept"]]
        reader = self._llm or ExtractiveReader(model)
        started = time.perf_counter()
        result = create_rag_chain(reader, RunnableLambda(lambda _: kept)).invoke(question)
        seconds["answer"] = time.perf_counter() - started
        times = " · ".join(f"{stage} {1000 * time:,.0f} ms" for stage, time in seconds.items())
        title = f"Model {escape(name)}"
        answer = answer_html(result["answer"], result["citations"], limits["anchor"])
        best = best_sentences(model, question, documents[:_ROWS])
        view = ranking_html(documents, best, rows=_ROWS, **limits)
        view = f'<div class="rr-model"><h3>{title}</h3>{view}</div>'
        return f"<b>{title}</b>: {times}", answer, view, kept

    def save(self, judged: dict[str, Any], ticked: list[str]) -> str:
        """Write which of the passages answer the question, for `langchain-rerank eval`."""
        try:
            if not judged or not ticked:
                return _alert("Ask, then tick at least one passage that answers it.")
            stored = self.store(*judged["source"]).get()
            texts = dict(zip(stored["ids"], stored["documents"], strict=True))
            grades = {key: int(key in ticked) for key in judged["ids"]}
            count = save_labels(self._labels, judged["question"], grades, texts)
        except Exception as error:  # noqa: BLE001  # such as a folder that can't be written
            return _alert(error)
        return _status(f"{count} labelled questions in {escape(str(self._labels))}")


def save_labels(
    folder: Path, question: str, grades: Mapping[str, int], corpus: Mapping[str, str]
) -> int:
    """Add a judged question, or judge it anew, in a folder that `langchain-rerank eval` reads.

    Args:
        folder: In BEIR's layout: corpus.jsonl, queries.jsonl, qrels/test.tsv; made if missing.
        question: Its text.
        grades: By document id: 1 for those that answer it, 0 for those that don't.
        corpus: All texts by id.

    Returns:
        How many questions have judgments now.
    """
    key = hashlib.sha256(question.encode()).hexdigest()[:16]
    known, asked = (
        read_jsonl(path) if path.exists() else {}
        for path in (folder / "corpus.jsonl", folder / "queries.jsonl")
    )
    documents = {
        one: Document(record["text"], id=one, metadata={"title": record.get("title")})
        for one, record in {**known, **{one: {"text": corpus[one]} for one in corpus}}.items()
    }
    # Those without judgments, or with others, stay as well.
    queries = {one: record["text"] for one, record in asked.items()}
    judged = (folder / "qrels" / "test.tsv").exists()
    qrels = dict(load_beir(folder, load_corpus=False).qrels) if judged else {}
    dataset = Dataset({**queries, key: question}, {**qrels, key: grades}, documents)
    write_beir(dataset, folder)
    return len(dataset.qrels)


def pasted_store(text: str) -> Chroma:
    """Put passages, which empty lines divide, into a Chroma in memory."""
    passages = [one.strip() for one in re.split(r"\n\s*\n", text) if one.strip()]
    if not passages:
        msg = "There are no passages. Paste some, with empty lines between them."
        raise ValueError(msg)
    from langchain_rerank.offline import OfflineEmbeddings

    name = f"pasted-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    documents = [Document(one, metadata={"source": f"{n}"}) for n, one in enumerate(passages, 1)]
    return index_documents(
        documents, OfflineEmbeddings(), collection_name=name, show_progress=False
    )


def create_page(page: Page, *, kind: str = REFERENCE, place: str = "", model: str) -> gr.Blocks:
    """Lay the page out; `kind`, `place` and `model` are what it begins with."""
    require("gradio", install="langchain-rerank[ui]", purpose="The page")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read once, at its import
    import gradio as gr

    blocks: gr.Blocks
    with gr.Blocks(title="langchain-rerank", analytics_enabled=False) as blocks:
        gr.Markdown("# What reranking does")
        question = gr.Textbox("", label="Question", autofocus=True, placeholder="Ask the passages")
        ask = gr.Button("Ask", variant="primary")
        with gr.Accordion("Passages", open=False):
            kinds = [REFERENCE, FOLDER, CHROMA, PASTED]
            source = gr.Radio(kinds, value=kind, label="Ask")
            where = gr.Textbox(place, label="Folder of texts, or collection of the Chroma")
            pasted = gr.Textbox("", label="Passages, with empty lines between them", lines=5)
        with gr.Accordion("Settings", open=False), gr.Row():
            k = gr.Slider(1, 20, value=5, step=1, label="k: passages kept")
            fetch_k = gr.Slider(1, 200, value=50, step=1, label="fetch_k: candidates")
            weight = gr.Slider(0, 1, value=0, label="Weight of the first stage")
            threshold = gr.Slider(0, 1, value=0, step=0.01, label="Lowest score kept")
            hybrid = gr.Checkbox(label="Hybrid: BM25 beside the vectors")
            first = gr.Textbox(model, label="Model A: offline, a hub's name or a folder")
            second = gr.Textbox("", label="Model B, to compare (empty: none)")
        status, answer = gr.HTML(), gr.HTML()
        view = gr.HTML(apply_default_css=False)
        ticked = gr.CheckboxGroup([], label="Which of the kept passages answer the question?")
        save, saved, judged = gr.Button("Save as a labelled question"), gr.HTML(), gr.State({})
        controls = [question, source, where, pasted, k, fetch_k, hybrid, weight, threshold]
        gr.on(
            [question.submit, ask.click],
            page.ask,
            [*controls, first, second],
            [status, answer, view, ticked, judged],
        )
        save.click(page.save, [judged, ticked], saved)
    return blocks


def serve(blocks: gr.Blocks, port: int, *, wait: bool = True) -> None:
    """Serve the page on loopback, with nothing from elsewhere in it."""
    import gradio as gr

    blocks.launch(
        server_name="127.0.0.1",
        server_port=port,
        prevent_thread_lock=not wait,
        share=False,
        quiet=True,
        footer_links=[],
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
    )


def _alert(error: object) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return f'<p role="alert">⚠ {escape(text)}</p>'


def _status(html: str) -> str:
    return f'<p role="status">{html}</p>'


def _named(models: tuple[str, ...]) -> list[str]:
    names = [name.strip() for name in models if name.strip()]
    if not names:
        msg = "There is no model. Name one: offline, a hub's name or a folder."
        raise ValueError(msg)
    return names


def _seconds(run: Run) -> float:
    return (run.end_time - run.start_time).total_seconds() if run.end_time else 0.0


def _id(document: Document) -> str:
    return document.id or document_id(document)


def _line(document: Document) -> str:
    return f"{source_of(document)}: {' '.join(document.page_content.split())[:_SNIPPET]}"
