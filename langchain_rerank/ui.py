"""The page of `langchain-rerank ui`: see what reranking does to a question, and label it."""

from __future__ import annotations

import hashlib
import json
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
from langchain_rerank.files import replacing
from langchain_rerank.reader import ExtractiveReader
from langchain_rerank.retriever import create_rerank_retriever
from langchain_rerank.view import STYLE, answer_html, best_sentences, ranking_html, source_of

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
        self._store = lru_cache(maxsize=4)(open_store)
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
        threshold: float | None,
        *models: str,
    ) -> tuple[Any, ...]:
        """Rerank by one model or two: status, answer, view, passages to judge, what they are of."""
        import gradio as gr

        source = (kind, pasted if kind == PASTED else place.strip())
        reranker = {"first_stage_weight": weight, "score_threshold": threshold, "top_n": None}
        depths = {"k": int(fetch_k), "fetch_k": int(fetch_k), "hybrid": hybrid}
        shown = []
        try:
            _check(question)
            for number, name in enumerate(name.strip() for name in models if name.strip()):
                model = self._model(name)
                found = self._found(question, source, Reranker(model=model, **reranker), depths)
                shown.append((f"Model {name}", f"rr{number}", model, *found))
            status, answer, view = self._shown(question, shown, int(k))
        except Exception as error:  # noqa: BLE001  # whatever went wrong, the page says it
            text = escape(" ".join(str(error).split()) or type(error).__name__)
            return f'<p role="alert">⚠ {text}</p>', "", "", gr.update(choices=[]), {}
        kept = shown[0][3][: int(k)]
        choices = [(f"[{n}] {_line(one)}", _id(one)) for n, one in enumerate(kept, start=1)]
        judged = {"question": question, "source": source, "ids": [key for _, key in choices]}
        return status, answer, view, gr.update(choices=choices, value=[]), judged

    def _found(
        self, question: str, source: tuple[str, str], reranker: Reranker, depths: dict[str, Any]
    ) -> tuple[list[Document], float, float]:
        """The reranked candidates, and the seconds of first stage and reranking."""
        if hasattr(reranker.model, "load"):
            reranker.model.load()
        retriever = create_rerank_retriever(self._store(*source), reranker=reranker, **depths)
        collector = RunCollectorCallbackHandler()
        documents = retriever.invoke(question, {"callbacks": [collector]})
        [run] = collector.traced_runs
        ranking = sum(_seconds(one) for one in run.child_runs if one.name == "Reranker")
        return documents, _seconds(run) - ranking, ranking

    def _shown(self, question: str, shown: list[tuple[Any, ...]], k: int) -> tuple[str, str, str]:
        status, answers, views = [], [], []
        for name, anchor, model, documents, retrieval, ranking in shown:
            context = documents[:k]
            reader = self._llm or ExtractiveReader(model)
            started = time.perf_counter()
            answered = create_rag_chain(reader, RunnableLambda(lambda _, found=context: found))
            result = answered.invoke(question)
            times = {"first stage": retrieval, "reranking": ranking}
            times["answer"] = time.perf_counter() - started
            said = " · ".join(f"{stage} {1000 * time:,.0f} ms" for stage, time in times.items())
            status.append(f"<b>{escape(name)}</b>: {said}")
            answers.append(answer_html(result["answer"], result["citations"], anchor))
            best = best_sentences(model, question, documents[:_ROWS])
            view = ranking_html(documents, best, kept=k, rows=_ROWS, anchor=anchor)
            views.append(f'<div class="rr-model"><h3>{escape(name)}</h3>{view}</div>')
        said = f'<p role="status">{"<br>".join(status)}</p>'
        return said, answers[0], f'{STYLE}<div class="rr-models">{"".join(views)}</div>'

    def save(self, judged: dict[str, Any], ticked: list[str]) -> str:
        """Write which of the passages answer the question, for `langchain-rerank eval`."""
        if not judged or not ticked:
            return '<p role="alert">⚠ Ask, then tick at least one passage that answers it.</p>'
        stored = self._store(*judged["source"]).get()
        texts = zip(stored["ids"], stored["documents"], strict=True)
        grades = {key: int(key in ticked) for key in judged["ids"]}
        count = save_labels(self._labels, judged["question"], grades, dict(texts))
        where = escape(str(self._labels))
        return f'<p role="status">{count} labelled questions in {where}</p>'


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
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(question.encode()).hexdigest()[:16]
    for name, texts in (("corpus", corpus), ("queries", {key: question})):
        path = folder / f"{name}.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        known = {entry["_id"]: entry["text"] for entry in map(json.loads, lines)} | dict(texts)
        with replacing(path) as file:
            for one, text in known.items():
                file.write(json.dumps({"_id": one, "text": text}) + "\n")
    path = folder / "qrels" / "test.tsv"
    rows = path.read_text(encoding="utf-8").splitlines()[1:] if path.exists() else []
    rows = [row for row in rows if row.split("\t")[0] != key]
    rows += [f"{key}\t{one}\t{grade}" for one, grade in grades.items()]
    with replacing(path) as file:
        file.write("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")
    return len({row.split("\t")[0] for row in rows})


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
            threshold = gr.Number(None, label="Lowest score kept (empty: none)")
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


def _check(question: str) -> None:
    if not question.strip():
        msg = "The question is empty. Write one, then ask."
        raise ValueError(msg)


def _seconds(run: Run) -> float:
    return (run.end_time - run.start_time).total_seconds() if run.end_time else 0.0


def _id(document: Document) -> str:
    return document.id or document_id(document)


def _line(document: Document) -> str:
    return f"{source_of(document)}: {' '.join(document.page_content.split())[:_SNIPPET]}"
