"""Cross-encoder reranking for LangChain: retrieve many, score all, keep the best few.

All but the errors is imported when first used, so `import langchain_rerank` loads neither torch nor
chromadb.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from langchain_rerank.errors import (
    MissingDependencyError,
    ModelLoadError,
    RemoteError,
    RerankError,
    ScoringError,
)

if TYPE_CHECKING:
    from langchain_rerank.chain import create_rag_chain
    from langchain_rerank.chroma import index_documents
    from langchain_rerank.compressor import Reranker
    from langchain_rerank.cross_encoders.cached import CachedCrossEncoder
    from langchain_rerank.cross_encoders.flag_embedding import FlagEmbeddingCrossEncoder
    from langchain_rerank.cross_encoders.onnx import OnnxCrossEncoder
    from langchain_rerank.cross_encoders.remote import RemoteCrossEncoder
    from langchain_rerank.cross_encoders.torch import TorchCrossEncoder
    from langchain_rerank.middleware import RerankMiddleware
    from langchain_rerank.reader import ExtractiveReader
    from langchain_rerank.retriever import RerankRetriever, create_rerank_retriever
    from langchain_rerank.view import show_reranking

_HOMES = {
    "CachedCrossEncoder": "cross_encoders.cached",
    "ExtractiveReader": "reader",
    "FlagEmbeddingCrossEncoder": "cross_encoders.flag_embedding",
    "OnnxCrossEncoder": "cross_encoders.onnx",
    "RemoteCrossEncoder": "cross_encoders.remote",
    "RerankMiddleware": "middleware",
    "RerankRetriever": "retriever",
    "Reranker": "compressor",
    "TorchCrossEncoder": "cross_encoders.torch",
    "create_rag_chain": "chain",
    "create_rerank_retriever": "retriever",
    "index_documents": "chroma",
    "show_reranking": "view",
}
__all__ = [
    "CachedCrossEncoder",
    "ExtractiveReader",
    "FlagEmbeddingCrossEncoder",
    "MissingDependencyError",
    "ModelLoadError",
    "OnnxCrossEncoder",
    "RemoteCrossEncoder",
    "RemoteError",
    "RerankError",
    "RerankMiddleware",
    "RerankRetriever",
    "Reranker",
    "ScoringError",
    "TorchCrossEncoder",
    "create_rag_chain",
    "create_rerank_retriever",
    "index_documents",
    "show_reranking",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
