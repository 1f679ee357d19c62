"""`langchain-rerank demo`: retrieve, rerank and answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from rich.table import Table
from rich.text import Text
from typer import Argument, Option

from langchain_rerank.cli.common import (
    OFFLINE,
    Backend,
    Docs,
    Llm,
    Model,
    build_cross_encoder,
    cached_index,
    console,
    one_line_errors,
)

if TYPE_CHECKING:
    from pathlib import Path

    from langchain_chroma import Chroma
    from langchain_core.documents import Document
    from langchain_core.language_models import BaseChatModel
    from langchain_core.runnables import Runnable
    from langchain_core.tracers.schemas import Run

    from langchain_rerank.chain import Citation, RagOutput

DEFAULT_QUESTION = "What happens if no except clause matches?"
_SNIPPET_CHARACTERS = 160
# Stages of the chain by the names of their trace runs, in order.
_STAGES = {"VectorStoreRetriever": "retrieval", "Reranker": "reranking", "Answer": "answer"}


@one_line_errors()
def demo(  # noqa: PLR0913  # one parameter an option
    question: Annotated[str, Argument(help="What to ask.")] = DEFAULT_QUESTION,
    *,
    docs: Docs = None,
    k: Annotated[int, Option("--k", help="Passages to keep.")] = 5,
    fetch_k: Annotated[int, Option(help="Candidates to retrieve and rerank.")] = 50,
    model: Model = OFFLINE,
    backend: Backend = "torch",
    llm: Llm = None,
) -> None:
    """Retrieve, rerank and answer: by default from the Python language reference, offline."""
    from langchain_rerank import create_rag_chain, create_rerank_retriever
    from langchain_rerank.ranking import check_query
    from langchain_rerank.retriever import check_depths

    # What is wrong with these is said before minutes of indexing.
    check_query(question)
    check_depths(k, fetch_k)
    cross_encoder = build_cross_encoder(model, backend)
    chat_model = None if llm is None else open_chat_model(llm)
    with console.status("Loading the reranker"):
        cross_encoder.load()
    store = open_index(docs)
    retriever = create_rerank_retriever(store, reranker=cross_encoder, k=k, fetch_k=fetch_k)
    console.print(Text(f"\nQuestion: {question}\n", style="bold"))
    author = f"by {llm}" if llm else "quoted by the extractive reader (no --llm given)"
    _answer(create_rag_chain(chat_model, retriever), question, author)


def _answer(chain: Runnable[Any, RagOutput], question: str, author: str) -> None:
    """Print passages, answer and citations as they come, then the time of each stage."""
    from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

    citations: list[Citation] = []
    collector = RunCollectorCallbackHandler()
    for piece in chain.stream(question, {"callbacks": [collector]}):
        if "context" in piece:
            title = f"The best {len(piece['context'])} passages, and where retrieval had them"
            table = Table("rank", "was", "score", "source", "passage", title=title)
            for rank, document in enumerate(piece["context"], start=1):
                was, score = map(document.metadata.get, ("retrieval_rank", "relevance_score"))
                table.add_row(str(rank), str(was), f"{score:.3f}", *_shown(document))
            console.print(table)
            console.print(Text(f"\nAnswer, {author}:", style="bold"))
        console.print(Text(piece.get("answer", "")), end="")
        citations = piece.get("citations", citations)
    console.print("\n" if citations else "\n\nThe answer cites no passage.")
    for one in sorted(citations, key=lambda citation: citation["number"]):
        place, passage = _shown(one["document"])
        console.print(Text(f"[{one['number']}] {place}: {passage}", style="dim"))
    seconds = _seconds(collector.traced_runs)
    stages = [(stage, seconds[name]) for name, stage in _STAGES.items() if name in seconds]
    console.print("\n" + " · ".join(f"{stage} {time * 1000:,.0f} ms" for stage, time in stages))


def _shown(document: Document) -> tuple[Text, Text]:
    """Return where a document is from, and the start of its text."""
    place = document.metadata.get("topic", document.metadata.get("source", ""))
    text = " ".join(document.page_content.split())
    cut = text if len(text) <= _SNIPPET_CHARACTERS else f"{text[: _SNIPPET_CHARACTERS - 1]}…"
    return Text(str(place)), Text(cut)


def open_chat_model(llm: str) -> BaseChatModel:
    """Make the chat model that `--llm` names."""
    if llm == OFFLINE:
        from langchain_rerank.offline import offline_chat_model

        return offline_chat_model()
    from langchain_classic.chat_models import init_chat_model

    return init_chat_model(llm)


def open_index(folder: Path | None) -> Chroma:
    """Open the index of a folder's documents, or of the Python reference."""
    from langchain_rerank.corpus import python_reference, read_folder

    if folder is None:
        return cached_index("demo", "python-reference", python_reference())
    return cached_index("demo", str(folder.resolve()), read_folder(folder))


def _seconds(runs: list[Run]) -> dict[str, float]:
    """Return the seconds of trace runs, and of those within them, by their names."""
    found: dict[str, float] = {}
    for run in runs:
        found |= _seconds(run.child_runs)
        if run.end_time:
            found[run.name] = (run.end_time - run.start_time).total_seconds()
    return found
