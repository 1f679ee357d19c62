"""Data sets from ir_datasets."""

from __future__ import annotations

from typing import Any

from langchain_core.documents import Document

from langchain_rerank.evaluation.datasets import Dataset
from langchain_rerank.evaluation.extra import require_eval


def load_ir_dataset(
    name: str, *, load_corpus: bool = True, partial_corpus: bool = False
) -> Dataset:
    """Load a data set by its ir_datasets id, which downloads it where it isn't on disk yet.

    Source: MacAvaney et al., "Simplified Data Wrangling with ir_datasets", SIGIR 2021.

    Args:
        name: Such as "beir/scifact/test"; see https://ir-datasets.com.
        load_corpus: Whether to load the documents; all of them go into memory.
        partial_corpus: Accept judgments of documents that are not in the corpus; see `Dataset`.

    Returns:
        The queries that have judgments. A document's title, where the set has that field, is
        `metadata["title"]`.

    Raises:
        MissingDependencyError: ir_datasets is not installed.
        ValueError: There is no set of that id, it lacks queries, judgments or documents, or it
            judges a document twice with different grades.
    """
    require_eval("ir_datasets", purpose="load_ir_dataset")
    import ir_datasets

    try:
        source = ir_datasets.load(name)
    except KeyError as error:
        msg = f"expected an id that ir_datasets knows, such as 'beir/scifact/test', got {name!r}"
        raise ValueError(msg) from error
    for part in ("queries", "qrels", "docs") if load_corpus else ("queries", "qrels"):
        if not source.has(part):
            msg = f"ir_datasets has no {part} for {name!r}; its id may go on, as in '…/test'"
            raise ValueError(msg)
    qrels: dict[str, dict[str, int]] = {}
    for qrel in source.qrels_iter():
        grades = qrels.setdefault(qrel.query_id, {})
        if grades.setdefault(qrel.doc_id, qrel.relevance) != qrel.relevance:
            msg = f"{name} judges {qrel.doc_id!r} twice for query {qrel.query_id!r}, differently"
            raise ValueError(msg)
    texts = {query.query_id: query.default_text() for query in source.queries_iter()}
    return Dataset(
        queries={query_id: text for query_id, text in texts.items() if query_id in qrels},
        qrels=qrels,
        corpus={doc.doc_id: _ir_document(doc) for doc in source.docs_iter()}
        if load_corpus
        else None,
        name=name,
        partial_corpus=partial_corpus,
    )


def _ir_document(doc: Any) -> Document:
    """Text and title apart where the set has both fields, else all of its text as one."""
    title = getattr(doc, "title", "") if hasattr(doc, "text") else ""
    text = doc.text if hasattr(doc, "text") else doc.default_text()
    return Document(text, metadata={"title": title} if title else {}, id=doc.doc_id)
