"""The command line, a file a command; the only folder that prints."""

from __future__ import annotations

import typer

from langchain_rerank.cli.bulk_files import bulk
from langchain_rerank.cli.demo import demo
from langchain_rerank.cli.eval import evaluate
from langchain_rerank.cli.judge import judge
from langchain_rerank.cli.page import page
from langchain_rerank.cli.serve import serve

app = typer.Typer(
    help="Cross-encoder reranking for LangChain.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(demo)
app.command("eval")(evaluate)
app.command()(judge)
app.command()(bulk)
app.command()(serve)
app.command("ui")(page)
