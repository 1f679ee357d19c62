"""`langchain-rerank demo`: retrieve, rerank and answer."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path  # noqa: TC003  # typer reads it
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.table import Table
from rich.text import Text

from langchain_rerank.cli.console import console, one_line_errors
from langchain_rerank.cli.models import (
    BACKEND_HELP,
    MODEL_HELP,
    OFFLINE,
    Backend,
    build_cross_encoder,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_chroma import Chroma
    from langchain_core.documents import Document
    from langchain_core.language_models import BaseChatModel
    from langchain_core.runnables import Runnable
    from langchain_core.tracers.schemas import Run

    from langchain_rerank.chain import Citation, RagOutput
    from langchain_rerank.cross_encoders.base import LocalCrossEncoder

DEFAULT_QUESTION = "What happens if no except clause matches?"
_SNIPPET_CHARACTERS = 160


def demo(  # noqa: PLR0913  # one parameter an option
    question: Annotated[str, typer.Argument(help="What to ask.")] = DEFAULT_QUESTION,
    *,
    docs: Annotated[
        Path | None,
        typer.Option(help="Folder of text, Markdown, reStructuredText and Python files to ask."),
    ] = None,
    k: Annotated[int, typer.Option("--k", help="Passages to keep.")] = 5,
    fetch_k: Annotated[int, typer.Option(help="Candidates to retrieve and rerank.")] = 50,
    model: Annotated[str, typer.Option(help=MODEL_HELP + "the default.")] = OFFLINE,
    backend: Annotated[Backend, typer.Option(help=BACKEND_HELP)] = "torch",
    llm: Annotated[
        str | None,
        typer.Option(
            help="Chat model that answers: 'offline', or provider:model such as openai:gpt-4.1."
        ),
    ] = None,
    show_prompt: Annotated[bool, typer.Option(help="Print the prompt of the answer.")] = False,
) -> None:
    """Retrieve, rerank and answer: by default from the Python language reference, offline."""
    with one_line_errors():
        from langchain_rerank.ranking import check_query
        from langchain_rerank.retriever import check_depths

        check_query(question)
        check_depths(k, fetch_k)
        cross_encoder = build_cross_encoder(model, backend)
        _demo(question, _Choices(docs, k, fetch_k, cross_encoder, llm, show_prompt))


class _Choices(NamedTuple):
    """What the user chose for a demo."""

    docs: Path | None
    k: int
    fetch_k: int
    cross_encoder: LocalCrossEncoder
    llm: str | None
    show_prompt: bool


def _demo(question: str, choices: _Choices) -> None:
    from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

    stages: dict[str, float] = {}
    chat_model = None
    if choices.llm is not None:
        with _timed(stages, "loading the chat model"):
            chat_model = _chat_model(choices.llm)
    with _timed(stages, "indexing"):
        store = _indexed(choices.docs)
    with _timed(stages, "loading the reranker"), console.status("Loading the reranker"):
        chain = _chain(store, chat_model, choices)

    console.print(Text(f"\nQuestion: {question}\n", style="bold"))
    collector = RunCollectorCallbackHandler()
    citations: list[Citation] = []
    for piece in chain.stream(question, {"callbacks": [collector]}):
        if "context" in piece:
            _print_passages(piece["context"], choices.fetch_k)
            if choices.show_prompt:
                _print_prompt(question, piece["context"])
            _print_answer_heading(choices.llm)
        console.print(Text(piece.get("answer", "")), end="")
        citations = piece.get("citations", citations)
    console.print()
    _print_citations(citations)
    _print_stages({**stages, **_traced_stages(collector.traced_runs)})


def _chain(
    store: Chroma, chat_model: BaseChatModel | None, choices: _Choices
) -> Runnable[str | dict[str, Any], RagOutput]:
    from langchain_rerank.chain import create_rag_chain
    from langchain_rerank.retriever import create_rerank_retriever

    choices.cross_encoder.load()
    retriever = create_rerank_retriever(
        store, reranker=choices.cross_encoder, k=choices.k, fetch_k=choices.fetch_k
    )
    return create_rag_chain(chat_model, retriever)


def _chat_model(llm: str) -> BaseChatModel:
    if llm == "offline":
        from langchain_rerank.offline import offline_chat_model

        return offline_chat_model()
    from langchain_classic.chat_models import init_chat_model

    return init_chat_model(llm)


def _indexed(folder: Path | None) -> Chroma:
    """Open the index of a folder's documents, or of the Python reference."""
    from langchain_rerank.cli.index import cached_index
    from langchain_rerank.corpus import python_reference, read_folder

    if folder is None:
        return cached_index("demo", "python-reference", python_reference())
    return cached_index("demo", str(folder.resolve()), read_folder(folder))


def _print_passages(documents: list[Document], fetch_k: int) -> None:
    table = Table(title=f"The best {len(documents)} of up to {fetch_k} retrieved passages")
    for heading in ("rank", "was", "score"):
        table.add_column(heading, justify="right")
    table.add_column("topic", overflow="fold")
    table.add_column("passage", overflow="fold")
    for rank, document in enumerate(documents, start=1):
        metadata = document.metadata
        table.add_row(
            str(rank),
            str(metadata["retrieval_rank"]),
            f"{metadata['relevance_score']:.3f}",
            Text(_place(document)),
            Text(_snippet(document)),
        )
    console.print(table)


def _place(document: Document) -> str:
    return str(document.metadata.get("topic", document.metadata.get("source", "")))


def _snippet(document: Document) -> str:
    text = " ".join(document.page_content.split())
    return text if len(text) <= _SNIPPET_CHARACTERS else text[: _SNIPPET_CHARACTERS - 1] + "…"


def _print_prompt(question: str, documents: list[Document]) -> None:
    from langchain_rerank.chain import DEFAULT_PROMPT, format_documents

    context = format_documents(documents)
    prompt = DEFAULT_PROMPT.invoke({"question": question, "context": context})
    console.rule("The prompt, as a chat model gets it")
    console.print(Text(prompt.to_string()))
    console.rule()


def _print_answer_heading(llm: str | None) -> None:
    console.print()
    if llm is None:
        console.print(
            Text("Answer, quoted by the extractive reader (no --llm given):", style="bold")
        )
    else:
        console.print(Text(f"Answer by {llm}:", style="bold"))


def _print_citations(citations: list[Citation]) -> None:
    console.print()
    if not citations:
        console.print("The answer cites no passage.")
    for citation in sorted(citations, key=lambda citation: citation["number"]):
        document = citation["document"]
        console.print(
            Text(f"[{citation['number']}] {_place(document)}: {_snippet(document)}", style="dim")
        )


@contextmanager
def _timed(stages: dict[str, float], stage: str) -> Iterator[None]:
    """Write a stage's wall time, in seconds, into `stages`."""
    start = time.perf_counter()
    yield
    stages[stage] = time.perf_counter() - start


def _traced_stages(runs: list[Run]) -> dict[str, float]:
    """Wall times of the chain's stages, in seconds, as their trace runs have them."""
    stages = {"VectorStoreRetriever": "retrieval", "Reranker": "reranking", "Answer": "answer"}
    times = {
        stages[run.name]: (run.end_time - run.start_time).total_seconds()
        for run in _with_descendants(runs)
        if run.name in stages and run.end_time
    }
    return {stage: times[stage] for stage in stages.values() if stage in times}


def _print_stages(stages: dict[str, float]) -> None:
    times = " · ".join(f"{stage} {seconds * 1000:,.0f} ms" for stage, seconds in stages.items())
    console.print(Text(f"\n{times}"))


def _with_descendants(runs: list[Run]) -> Iterator[Run]:
    for run in runs:
        yield run
        yield from _with_descendants(run.child_runs)
