"""The rerank service: an ASGI app that answers Cohere's, Jina's and TEI's bodies each in kind."""

from langchain_rerank.errors import require

require(
    "fastapi",
    "prometheus_client",
    "uvicorn",
    install="langchain-rerank[server]",
    purpose="The rerank service",
)
