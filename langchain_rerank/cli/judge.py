"""`langchain-rerank judge`: a person looks at questions that a chat model wrote, one key each."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer reads it
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text
from typer import Argument, Option

from langchain_rerank.cli.common import console, one_line_errors
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEPT, _DROPPED = "judged", "dropped"
_CHARACTERS = 2000  # of a text that are shown


@one_line_errors()
def judge(
    folder: Annotated[Path, Argument(help="In BEIR's layout, as `write_beir` writes it.")],
    *,
    qrels: Annotated[str, Option(help="The questions to judge: qrels/NAME.tsv.")] = "test",
) -> None:
    """Keep the questions that users would ask and their passage answers; leave out the others.

    What is kept goes to qrels/judged.tsv, what is left out to qrels/dropped.tsv, after each key.
    Whoever stops goes on with the same command.
    """
    from langchain_rerank.evaluation import load_beir
    from langchain_rerank.evaluation.loading import write_qrels

    data = load_beir(folder, qrels)
    files = {name: folder / "qrels" / f"{name}.tsv" for name in (_KEPT, _DROPPED)}
    done: dict[str, dict[str, Mapping[str, int]]] = {
        name: dict(load_beir(folder, name, load_corpus=False).qrels) if file.exists() else {}
        for name, file in files.items()
    }
    left = [query for query in data.qrels if not any(query in one for one in done.values())]
    for number, query in enumerate(left, start=1):
        relevant = [key for key, grade in data.qrels[query].items() if grade > 0]
        texts = [(data.corpus or {})[key].page_content for key in relevant]
        said = "\n".join(f"    {' '.join(text.split())[:_CHARACTERS]}" for text in texts)
        asked = f"\n{number} of {len(left)}: {data.queries[query]}\n{said}"
        console.print(Text(well_formed(asked)))
        console.print("Would somebody ask this, and does the text answer it? y, n, or q to stop ")
        key = ""
        while key not in {"y", "n", "q"}:
            try:
                key = typer.getchar().lower()
            except EOFError:  # Ctrl+D
                key = "q"
        if key == "q":
            break
        name = _KEPT if key == "y" else _DROPPED
        done[name][query] = data.qrels[query]
        write_qrels(files[name], done[name])
    console.print(
        f"\n{len(done[_KEPT])} questions kept, {len(done[_DROPPED])} left out, of "
        f"{len(data.qrels)}. What they tell, and how many more would: "
        f"langchain-rerank eval {folder} --qrels {_KEPT}"
    )
