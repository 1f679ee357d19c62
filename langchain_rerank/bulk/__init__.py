"""Bulk reranking: millions of (query, candidates) rows in files, over Ray Data."""

from langchain_rerank.bulk.rows import Columns
from langchain_rerank.bulk.run import BulkProgress, BulkResult, rerank_files

__all__ = ["BulkProgress", "BulkResult", "Columns", "rerank_files"]
