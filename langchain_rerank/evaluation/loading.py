"""Data sets from folders in BEIR's layout, and from ir_datasets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document

from langchain_rerank.evaluation.datasets import Dataset, check_judgment, check_query_text
from langchain_rerank.evaluation.runs import line_error, numbered_lines, require_eval
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    from collections.abc import Container

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
    records = _read_jsonl(folder / "corpus.jsonl") if load_corpus else {}
    corpus = {key: _document(key, one["text"], one.get("title")) for key, one in records.items()}
    queries = _read_jsonl(folder / "queries.jsonl", queries=True)
    grades = _read_qrels(judgments, queries, corpus if load_corpus and not partial_corpus else None)
    return Dataset(
        queries={query_id: queries[query_id]["text"] for query_id in grades},
        qrels=grades,
        corpus=corpus if load_corpus else None,
        name=f"{folder.name}/{judgments.stem}",
        partial_corpus=partial_corpus,
    )


def _document(key: str, text: str, title: str | None) -> Document:
    return Document(text, metadata={"title": title} if title else {}, id=key)


def _qrels_file(folder: Path, qrels: str | Path) -> Path:
    named = folder / "qrels" / f"{qrels}.tsv"
    for path in (named, Path(qrels)):
        if path.is_file():
            return path
    present = sorted(path.stem for path in named.parent.glob("*.tsv"))
    found = f"there are: {', '.join(present)}" if present else "there are none"
    msg = f"expected judgments in {named} or a path to some, got qrels={str(qrels)!r}; {found}"
    raise ValueError(msg)


def _read_jsonl(path: Path, *, queries: bool = False) -> dict[str, dict[str, Any]]:
    """Read a file's objects by their ids."""
    if not path.is_file():
        msg = f"expected a folder in BEIR's layout, but there is no file {path}"
        raise ValueError(msg)
    records: dict[str, dict[str, Any]] = {}
    for number, line in numbered_lines(path):
        try:
            record = _record(line)
            if queries:
                check_query_text(record["_id"], record["text"])
            if record["_id"] in records:
                msg = f"the id {record['_id']!r} stands in an earlier line already"
                raise ValueError(msg)  # noqa: TRY301  # below it gets its file and line
        except (ValueError, TypeError) as error:
            raise line_error(path, number, error) from error
        records[record["_id"]] = record
    if not records:
        msg = f"expected JSON objects, one a line, got an empty file: {path}"
        raise ValueError(msg)
    return records


def _record(line: str) -> dict[str, Any]:
    try:
        record: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        msg = f"expected a JSON object: {error}"
        raise ValueError(msg) from error
    if not isinstance(record, dict):
        msg = f"expected a JSON object, got a {type(record).__name__}"
        raise TypeError(msg)
    for name in ("_id", "text", "title") if record.get("title") else ("_id", "text"):
        if name not in record:
            msg = f"expected the field {name!r}, got the fields {sorted(record)}"
            raise ValueError(msg)
        if not isinstance(record[name], str):
            msg = f"expected a string in the field {name!r}, got {type(record[name]).__name__}"
            raise TypeError(msg)
    key = record["_id"]
    if not key or "\0" in key or well_formed(key) != key:
        msg = f"expected an id without NUL and lone surrogates, and not empty, got {key!r}"
        raise ValueError(msg)
    return record


def _read_qrels(
    path: Path, queries: Container[str], corpus: Container[str] | None
) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for number, line in numbered_lines(path):
        if number == 1 and line.split() == _HEADER:
            continue
        try:
            query_id, doc_id, grade = _judgment(line)
            if query_id not in queries:
                msg = f"the query {query_id!r} is not in queries.jsonl"
                raise ValueError(msg)  # noqa: TRY301  # below it gets its file and line
            check_judgment(query_id, doc_id, grade, corpus)
            _add(qrels, query_id, doc_id, grade)
        except ValueError as error:
            raise line_error(path, number, error) from error
    if not qrels:
        msg = f"expected judgments, got a file without any: {path}"
        raise ValueError(msg)
    return qrels


def _judgment(line: str) -> tuple[str, str, int]:
    """Split a line of three columns (BEIR) or four (TREC, with an iteration in the second)."""
    # Some published files end lines in tabs.
    columns = line.rstrip().split("\t") if "\t" in line.rstrip() else line.split()
    match columns:
        case [query_id, doc_id, grade] | [query_id, _, doc_id, grade]:
            pass
        case _:
            msg = (
                f"expected query id, document id and grade, got {len(columns)} columns: "
                f"{line[:100]!r}"
            )
            raise ValueError(msg)
    try:
        return query_id, doc_id, int(grade)
    except ValueError as error:
        msg = f"expected a whole number as grade, got {grade[:100]!r}"
        raise ValueError(msg) from error


def _add(qrels: dict[str, dict[str, int]], query_id: str, doc_id: str, grade: int) -> None:
    """Add a judgment. Published files repeat some; only those that don't agree are wrong."""
    known = qrels.setdefault(query_id, {}).setdefault(doc_id, grade)
    if known != grade:
        msg = (
            f"document {doc_id!r} is judged twice for query {query_id!r}, {known} before and "
            f"{grade} here"
        )
        raise ValueError(msg)


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
        _add(qrels, qrel.query_id, qrel.doc_id, qrel.relevance)
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
    if hasattr(doc, "text"):
        return _document(doc.doc_id, doc.text, getattr(doc, "title", None))
    return _document(doc.doc_id, doc.default_text(), None)
