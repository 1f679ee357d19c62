"""Labelled questions: queries, judgments of which documents answer them, and the documents."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from langchain_core.documents import Document

from langchain_rerank.chroma import document_id
from langchain_rerank.ranking import check_document
from langchain_rerank.text import well_formed

LARGEST_GRADE = 1_000_000
"""In either direction: trec_eval, which measures, counts in C and takes memory by grade."""


@dataclass(frozen=True, slots=True, repr=False)
class Dataset:
    """Queries with their judgments and, where they are at hand, the documents that were judged.

    Only queries that have judgments are evaluated, in the order of `qrels`, as trec_eval does it.

    Raises:
        ValueError: Queries, judgments or corpus are empty, a query is blank, an id is not UTF-8,
            judgments name a query or document that isn't there, or a document's id isn't its key.
        TypeError: A part is no mapping, a query no str, a grade no int, a document no `Document`.

    Example:
        >>> from langchain_core.documents import Document
        >>> from langchain_rerank.evaluation import Dataset
        >>> Dataset(
        ...     queries={"1": "How many people live in Berlin?"},
        ...     qrels={"1": {"berlin": 2}},
        ...     corpus={"berlin": Document("Berlin has 3,520,031 inhabitants.", id="berlin")},
        ... )
        Dataset('', queries=1, judgments=1, documents=1)
    """

    queries: Mapping[str, str]
    """Texts by query id."""
    qrels: Mapping[str, Mapping[str, int]]
    """Grades by query id and document id: 0 and below is not relevant, above the higher the more.
    What has no grade counts as not relevant."""
    corpus: Mapping[str, Document] | None = None
    """Documents by their id; None where a system brings its own."""
    name: str = ""
    """Shown in reports."""
    partial_corpus: bool = field(default=False, kw_only=True)
    """The corpus is only a part of the collection that was judged, such as the candidates of some
    systems: judgments may name documents that it lacks. They count in ideal rankings and recall."""

    def __post_init__(self) -> None:
        for part in ("queries", "qrels", "corpus"):
            value = getattr(self, part)
            if not isinstance(value, Mapping) and (part, value) != ("corpus", None):
                msg = f"{part} must be a mapping by id, got {type(value).__name__}"
                raise TypeError(msg)
            if value is not None and not value:
                msg = f"{part} must not be empty"
                raise ValueError(msg)
        for query_id, text in self.queries.items():
            check_query_text(query_id, text)
        for position, (key, document) in enumerate((self.corpus or {}).items()):
            check_document(document, position)
            if document.id != key:
                msg = f"expected the id {key!r} on the document of that key, got {document.id!r}"
                raise ValueError(msg)
        known = None if self.partial_corpus else self.corpus
        for query_id, grades in self.qrels.items():
            if query_id not in self.queries:
                msg = f"qrels name the query {query_id!r}, which is not in queries"
                raise ValueError(msg)
            for doc_id, grade in grades.items():
                check_judgment(query_id, doc_id, grade, known)

    def __repr__(self) -> str:
        judgments, documents = sum(map(len, self.qrels.values())), len(self.corpus or ())
        return (
            f"Dataset({self.name!r}, queries={len(self.queries)}, judgments={judgments}, "
            f"documents={documents})"
        )

    @classmethod
    def from_questions(
        cls,
        questions: Iterable[tuple[str, Iterable[str] | Mapping[str, int]]],
        documents: Iterable[Document] | None = None,
        *,
        name: str = "",
    ) -> Self:
        """Make a data set from lists.

        Args:
            questions: Each question with the ids of the documents that answer it, or with a grade
                for each id. Their query ids are "1", "2", … in this order.
            documents: The corpus. A document without id gets the one that `index_documents`
                gives it; the caller's documents are not changed.
            name: Shown in reports.

        Raises:
            ValueError: As `Dataset`, or one id names two different documents.
            TypeError: As `Dataset`.
        """
        queries: dict[str, str] = {}
        qrels: dict[str, Mapping[str, int]] = {}
        for number, (text, relevant) in enumerate(questions, start=1):
            if isinstance(relevant, str):
                msg = f"relevant ids of question {number} must be a list or dict, got a str"
                raise TypeError(msg)
            queries[str(number)] = text
            graded = relevant if isinstance(relevant, Mapping) else dict.fromkeys(relevant, 1)
            qrels[str(number)] = graded
        return cls(queries, qrels, None if documents is None else corpus_of(documents), name)

    @property
    def documents(self) -> list[Document]:
        """The corpus as a list, to hand to `index_documents`; a ValueError where there is none."""
        if self.corpus is None:
            msg = f"{self!r} was made without a corpus, so it has no documents"
            raise ValueError(msg)
        return list(self.corpus.values())

    def judged(self) -> Self:
        """Return the data set with those queries alone that have judgments.

        Raises:
            ValueError: No query has one.
        """
        if not any(self.qrels.values()):
            msg = f"no query of {self!r} has a judgment: give one document id or more for some"
            raise ValueError(msg)
        return self.subset(query_id for query_id, grades in self.qrels.items() if grades)

    def subset(self, query_ids: Iterable[str]) -> Self:
        """Return the data set with these of its judged queries alone, and the whole corpus.

        Raises:
            ValueError: A query id has no judgments here, or there is none.
        """
        chosen = list(query_ids)
        if unknown := [query_id for query_id in chosen if query_id not in self.qrels]:
            msg = f"expected ids of judged queries, got {unknown[0]!r}, which is none"
            raise ValueError(msg)
        queries = {one: self.queries[one] for one in chosen}
        return replace(self, queries=queries, qrels={one: self.qrels[one] for one in chosen})


def check_query_text(query_id: str, text: str) -> None:
    """Raise `TypeError` for a query that is no str, `ValueError` for a blank one, with its id."""
    check_id(query_id)
    if not isinstance(text, str):
        msg = f"text of query {query_id!r} must be a str, got {type(text).__name__}"
        raise TypeError(msg)
    if not text.strip():
        msg = f"query {query_id!r} must hold text, got {text!r}"
        raise ValueError(msg)


def check_id(text: str) -> None:
    """Raise `ValueError` for what no file can hold, or C code, which ends it at a NUL."""
    if well_formed(text) != text or "\0" in text:
        msg = f"expected an id of UTF-8, without NUL and lone surrogates, got {text!r}"
        raise ValueError(msg)


def check_judgment(
    query_id: str, doc_id: str, grade: int, corpus: Container[str] | None = None
) -> None:
    """Raise `TypeError` or `ValueError` for a wrong grade, or a document that a corpus lacks."""
    check_id(doc_id)
    what = f"grade of document {doc_id!r} for query {query_id!r} must be an int"
    if type(grade) is not int:
        msg = f"{what}, got {type(grade).__name__}"
        raise TypeError(msg)
    if abs(grade) > LARGEST_GRADE:
        # A number of thousands of digits can't be written out.
        msg = f"{what} of at most {LARGEST_GRADE:,} in size, got one of {grade.bit_length()} bits"
        raise ValueError(msg)
    if corpus is not None and doc_id not in corpus:
        msg = (
            f"query {query_id!r} names the document {doc_id!r}, which is not in the corpus. If "
            "the corpus is only a part of what was judged, pass partial_corpus=True"
        )
        raise ValueError(msg)


def corpus_of(documents: Iterable[Document]) -> dict[str, Document]:
    """Key documents by id; one without gets the id that `index_documents` gives it."""
    corpus: dict[str, Document] = {}
    for position, document in enumerate(documents):
        check_document(document, position)
        key = document_id(document)
        named = document.model_copy(update={"id": key})
        if corpus.setdefault(key, named) != named and document.id:
            msg = f"document {position} has the id {key!r} of an earlier, different document"
            raise ValueError(msg)
    return corpus
