"""Data sets from folders in BEIR's layout, and from ir_datasets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document

from langchain_rerank.evaluation.datasets import (
    Dataset,
    check_grade,
    check_query_text,
    unknown_document,
)
from langchain_rerank.evaluation.runs import line_error, numbered_lines, require_eval
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

_HEADER = ["query-id", "corpus-id", "score"]


def load_beir(
    folder: str | Path,
    qrels: str | Path = "test",
    *,
    load_corpus: bool = True,
    partial_corpus: bool = False,
) -> Dataset:
    """Load a data set from a folder in BEIR's layout.

    The folder holds `queries.jsonl` (`_id`, `text`), `corpus.jsonl` (`_id`, `text` and, if any,
    `title`) and `qrels/<name>.tsv` (query id, document id, grade, under the header line `query-id
    corpus-id score`; the four columns of TREC's qrels are read as well).

    Source: Thakur et al., "BEIR: A Heterogenous Benchmark for Zero-shot Evaluation of Information
    Retrieval Models", NeurIPS 2021.

    Args:
        folder: Path of the folder.
        qrels: Which judgments: the name of a file in `qrels/`, without `.tsv`, or a path.
        load_corpus: Whether to load the documents; a retriever with documents of its own that
            have the same ids doesn't need them.
        partial_corpus: Accept judgments of documents that are not in the corpus; see `Dataset`.

    Returns:
        The queries that have judgments. A document's text is its `page_content`; its title is
        `metadata["title"]`, which `rank_fields=("title",)` lets a Reranker read as BEIR's systems
        do.

    Raises:
        ValueError: A file is missing, empty or holds a bad line, an id comes twice, or judgments
            name a query or document that isn't there; the message names file and line.
    """
    folder = Path(folder).resolve()
    judgments = _qrels_file(folder, qrels)
    corpus = _read_corpus(_existing(folder / "corpus.jsonl")) if load_corpus else None
    texts = _read_queries(_existing(folder / "queries.jsonl"))
    grades = _read_qrels(judgments, texts, None if partial_corpus else corpus)
    return Dataset(
        queries={query_id: texts[query_id] for query_id in grades},
        qrels=grades,
        corpus=corpus,
        name=f"{folder.name}/{judgments.stem}",
        partial_corpus=partial_corpus,
    )


def _existing(path: Path) -> Path:
    if not path.is_file():
        msg = f"expected a folder in BEIR's layout, but there is no file {path}"
        raise ValueError(msg)
    return path


def _qrels_file(folder: Path, qrels: str | Path) -> Path:
    named = folder / "qrels" / f"{qrels}.tsv"
    for path in (named, Path(qrels)):
        if path.is_file():
            return path
    present = sorted(path.stem for path in named.parent.glob("*.tsv"))
    found = f"there are: {', '.join(present)}" if present else "there are none"
    msg = f"expected judgments in {named} or a path to some, got qrels={str(qrels)!r}; {found}"
    raise ValueError(msg)


def _read_corpus(path: Path) -> dict[str, Document]:
    corpus: dict[str, Document] = {}
    for number, record in _records(path):
        key = _new_id(record, corpus, path, number)
        title = _text(record, "title", path, number) if record.get("title") else ""
        metadata = {"title": title} if title else {}
        corpus[key] = Document(_text(record, "text", path, number), metadata=metadata, id=key)
    return corpus


def _read_queries(path: Path) -> dict[str, str]:
    queries: dict[str, str] = {}
    for number, record in _records(path):
        key = _new_id(record, queries, path, number)
        queries[key] = _text(record, "text", path, number)
        try:
            check_query_text(key, queries[key])
        except ValueError as error:
            raise line_error(path, number, str(error)) from error
    return queries


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield a JSONL file's objects with their line numbers."""
    number = 0
    for number, line in numbered_lines(path):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise line_error(path, number, f"expected a JSON object: {error}") from error
        if not isinstance(record, dict):
            problem = f"expected a JSON object, got a {type(record).__name__}"
            raise line_error(path, number, problem)
        yield number, record
    if not number:
        msg = f"expected JSON objects, one a line, got an empty file: {path}"
        raise ValueError(msg)


def _new_id(record: dict[str, Any], known: Container[str], path: Path, number: int) -> str:
    key = _text(record, "_id", path, number)
    if not key:
        raise line_error(path, number, "expected an id, got an empty '_id'")
    if "\0" in key or well_formed(key) != key:
        problem = f"expected an id without NUL and lone surrogates, got {key!r}"
        raise line_error(path, number, problem)
    if key in known:
        raise line_error(path, number, f"the id {key!r} stands in an earlier line already")
    return key


def _text(record: dict[str, Any], name: str, path: Path, number: int) -> str:
    if name not in record:
        problem = f"expected the field {name!r}, got the fields {sorted(record)}"
        raise line_error(path, number, problem)
    value = record[name]
    if not isinstance(value, str):
        problem = f"expected a string in the field {name!r}, got {type(value).__name__}"
        raise line_error(path, number, problem)
    return value


def _read_qrels(
    path: Path, queries: Container[str], corpus: Container[str] | None
) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for number, line in numbered_lines(path):
        if number == 1 and line.split() == _HEADER:
            continue
        query_id, doc_id, grade = _judgment(line, path, number)
        if query_id not in queries:
            problem = f"the query {query_id!r} is not in queries.jsonl"
            raise line_error(path, number, problem)
        if corpus is not None and doc_id not in corpus:
            raise line_error(path, number, f"names {unknown_document(doc_id)}")
        grades = qrels.setdefault(query_id, {})
        # Published files repeat judgments; only those that don't agree are wrong.
        if grades.setdefault(doc_id, grade) != grade:
            problem = (
                f"document {doc_id!r} is judged twice for query {query_id!r}, "
                f"{grades[doc_id]} in an earlier line and {grade} here"
            )
            raise line_error(path, number, problem)
    if not qrels:
        msg = f"expected judgments, got a file without any: {path}"
        raise ValueError(msg)
    return qrels


def _judgment(line: str, path: Path, number: int) -> tuple[str, str, int]:
    """Split a line of three columns (BEIR) or four (TREC, with an iteration in the second)."""
    # Some published files end lines in tabs.
    columns = line.rstrip().split("\t") if "\t" in line.rstrip() else line.split()
    match columns:
        case [query_id, doc_id, grade] | [query_id, _, doc_id, grade]:
            pass
        case _:
            problem = (
                f"expected query id, document id and grade, got {len(columns)} columns: "
                f"{line[:100]!r}"
            )
            raise line_error(path, number, problem)
    try:
        number_of_grade = int(grade)
    except ValueError as error:
        problem = f"expected a whole number as grade, got {grade[:100]!r}"
        raise line_error(path, number, problem) from error
    try:
        check_grade(query_id, doc_id, number_of_grade)
    except ValueError as error:
        raise line_error(path, number, str(error)) from error
    return query_id, doc_id, number_of_grade


def load_ir_dataset(
    name: str, *, load_corpus: bool = True, partial_corpus: bool = False
) -> Dataset:
    """Load a data set by its ir_datasets id, which downloads it where it isn't on disk yet.

    Source: MacAvaney et al., "Simplified Data Wrangling with ir_datasets", SIGIR 2021.

    Args:
        name: Such as "beir/scifact/test"; see https://ir-datasets.com.
        load_corpus: Whether to load the documents; all of them go into memory.
        partial_corpus: As `load_beir`'s.

    Raises:
        MissingDependencyError: ir_datasets is not installed.
        ValueError: There is no such set, it lacks a part, or it judges a document differently.
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
