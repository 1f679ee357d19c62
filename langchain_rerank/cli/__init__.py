"""The command line, a file a command; the only folder that prints."""

from __future__ import annotations

import typer

from langchain_rerank.cli.bulk import bulk
from langchain_rerank.cli.demo import demo
from langchain_rerank.cli.evaluate import evaluate
from langchain_rerank.cli.serve import serve

app = typer.Typer(
    help="Cross-encoder reranking for LangChain.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def main() -> None:
    """Cross-encoder reranking for LangChain."""


app.command()(demo)
app.command("eval")(evaluate)
app.command()(bulk)
app.command()(serve)
