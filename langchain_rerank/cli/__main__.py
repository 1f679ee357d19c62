"""`python -m langchain_rerank.cli`."""

from langchain_rerank.cli import app

app()
