"""Bulk reranking: millions of (query, candidates) rows in files, over Ray Data."""

from langchain_rerank.bulk.records import BulkProgress, BulkResult
from langchain_rerank.bulk.rows import Columns
from langchain_rerank.bulk.run import rerank_files

__all__ = ["BulkProgress", "BulkResult", "Columns", "rerank_files"]
