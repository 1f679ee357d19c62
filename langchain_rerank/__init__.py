"""Cross-encoder reranking for LangChain: retrieve many, score all, keep the best few.

All is imported when first used, so `import langchain_rerank` loads neither torch nor
chromadb.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langchain_rerank.chain import create_rag_chain as create_rag_chain
    from langchain_rerank.chroma import index_documents as index_documents
    from langchain_rerank.compressor import Reranker as Reranker
    from langchain_rerank.cross_encoders.cached import CachedCrossEncoder as CachedCrossEncoder
    from langchain_rerank.cross_encoders.flag_embedding import (
        FlagEmbeddingCrossEncoder as FlagEmbeddingCrossEncoder,
    )
    from langchain_rerank.cross_encoders.onnx import OnnxCrossEncoder as OnnxCrossEncoder
    from langchain_rerank.cross_encoders.remote import RemoteCrossEncoder as RemoteCrossEncoder
    from langchain_rerank.cross_encoders.torch import TorchCrossEncoder as TorchCrossEncoder
    from langchain_rerank.errors import MissingDependencyError as MissingDependencyError
    from langchain_rerank.errors import ModelLoadError as ModelLoadError
    from langchain_rerank.errors import RemoteError as RemoteError
    from langchain_rerank.errors import RerankError as RerankError
    from langchain_rerank.errors import ScoringError as ScoringError
    from langchain_rerank.middleware import RerankMiddleware as RerankMiddleware
    from langchain_rerank.reader import ExtractiveReader as ExtractiveReader
    from langchain_rerank.retriever import RerankRetriever as RerankRetriever
    from langchain_rerank.retriever import create_rerank_retriever as create_rerank_retriever
    from langchain_rerank.view import show_reranking as show_reranking

_HOMES = {
    "CachedCrossEncoder": "cross_encoders.cached",
    "ExtractiveReader": "reader",
    "FlagEmbeddingCrossEncoder": "cross_encoders.flag_embedding",
    "MissingDependencyError": "errors",
    "ModelLoadError": "errors",
    "OnnxCrossEncoder": "cross_encoders.onnx",
    "RemoteCrossEncoder": "cross_encoders.remote",
    "RemoteError": "errors",
    "RerankError": "errors",
    "RerankMiddleware": "middleware",
    "RerankRetriever": "retriever",
    "Reranker": "compressor",
    "ScoringError": "errors",
    "TorchCrossEncoder": "cross_encoders.torch",
    "create_rag_chain": "chain",
    "create_rerank_retriever": "retriever",
    "index_documents": "chroma",
    "show_reranking": "view",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
