"""`python -m langchain_rerank.cli`."""

from langchain_rerank.cli import app

if __name__ == "__main__":
    app()
