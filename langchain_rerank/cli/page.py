"""`langchain-rerank ui`: a page in the browser that shows what reranking does."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from langchain_rerank.cli.common import (
    OFFLINE,
    Backend,
    Docs,
    Llm,
    Model,
    build_cross_encoder,
    console,
    one_line_errors,
)
from langchain_rerank.cli.demo import open_chat_model, open_index

if TYPE_CHECKING:
    from langchain_chroma import Chroma


@one_line_errors()
def page(  # noqa: PLR0913  # one parameter an option
    *,
    docs: Docs = None,
    chroma: Annotated[Path | None, Option(help="Folder of a Chroma to ask.")] = None,
    collection: Annotated[str, Option(help="Its collection.")] = "langchain",
    embeddings: Annotated[
        str, Option(help="Its embeddings: 'offline', or provider:model as LangChain names them.")
    ] = OFFLINE,
    model: Model = OFFLINE,
    backend: Backend = "torch",
    llm: Llm = None,
    labels: Annotated[Path, Option(help="Folder of the questions that you label.")] = Path(
        "labelled"
    ),
    port: Annotated[int, Option(help="Port on this machine.", min=1, max=65535)] = 7860,
) -> None:
    """Show in the browser, on this machine alone, what reranking does to questions."""
    from langchain_rerank import ui

    opened = ui.Page(
        partial(_open, chroma, embeddings),
        partial(build_cross_encoder, backend=backend),
        labels,
        None if llm is None else open_chat_model(llm),
    )
    kind = ui.CHROMA if chroma else ui.FOLDER if docs else ui.REFERENCE
    place = collection if chroma else str(docs or "")
    if kind != ui.REFERENCE:
        with console.status("Opening the passages"):
            opened.store(kind, place)
    # Of a port that is taken, Gradio would name a variable of its own.
    socket.create_server(("127.0.0.1", port)).close()
    blocks = ui.create_page(opened, kind=kind, place=place, model=model)
    console.print(f"The page: http://127.0.0.1:{port} (Ctrl+C ends it)")
    ui.serve(blocks, port)


def _open(folder: Path | None, embeddings: str, kind: str, place: str) -> Chroma:
    from langchain_rerank import ui

    if kind == ui.PASTED:
        return ui.pasted_store(place)
    if kind != ui.CHROMA:
        return open_index(Path(place).expanduser() if kind == ui.FOLDER else None)
    if folder is None or not (folder / "chroma.sqlite3").is_file():
        msg = f"There is no Chroma in the folder {folder}: start with --chroma FOLDER."
        raise ValueError(msg)
    from langchain_chroma import Chroma

    from langchain_rerank.offline import OfflineEmbeddings

    embedder: Any = OfflineEmbeddings()
    if embeddings != OFFLINE:
        from langchain_classic.embeddings import init_embeddings

        embedder = init_embeddings(embeddings)
    return Chroma(
        place,
        embedder,
        persist_directory=str(folder),
        create_collection_if_not_exists=False,
    )
