"""Data sets in BEIR's layout and TREC runs, in and out; data sets from ir_datasets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from langchain_core.documents import Document

from langchain_rerank.errors import require
from langchain_rerank.evaluation.datasets import Dataset, check_id, check_judgment, check_query_text
from langchain_rerank.evaluation.measures import Run, ranking
from langchain_rerank.files import replacing
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

Read = TypeVar("Read", bound=Mapping[str, Any])
_HEADER = ["query-id", "corpus-id", "score"]
_TREC_COLUMNS = ("query id", "Q0", "document id", "rank", "score", "tag")


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
        The queries that have judgments. A document's title is `metadata["title"]`, which
        `rank_fields=("title",)` lets a Reranker read as BEIR's systems do.

    Raises:
        ValueError: A file is missing, empty or holds a bad line, an id comes twice, or judgments
            name a query or document that isn't there; the message names file and line.
    """
    folder = Path(folder).resolve()
    judgments = _qrels_file(folder, qrels)
    corpus = None
    if load_corpus:
        records = read_jsonl(folder / "corpus.jsonl").items()
        corpus = {key: _document(key, one["text"], one.get("title")) for key, one in records}
    queries = {key: one["text"] for key, one in read_jsonl(folder / "queries.jsonl").items()}
    grades = _read_qrels(judgments, queries, None if partial_corpus else corpus)
    asked = {query_id: queries[query_id] for query_id in grades}
    name = f"{folder.name}/{judgments.stem}"
    return Dataset(asked, grades, corpus, name, partial_corpus=partial_corpus)


def _document(key: str, text: str, title: str | None) -> Document:
    return Document(text, metadata={"title": title} if title else {}, id=key)


def _qrels_file(folder: Path, qrels: str | Path) -> Path:
    named = folder / "qrels" / f"{qrels}.tsv"
    for path in (named, Path(qrels)):
        if path.is_file():
            return path
    present = ", ".join(sorted(path.stem for path in named.parent.glob("*.tsv"))) or "none"
    msg = f"expected judgments in {named} or a path to some, got qrels={str(qrels)!r}; there are: "
    raise ValueError(msg + present)


@contextmanager
def _lines(path: Path) -> Iterator[Iterator[tuple[int, str]]]:
    """Open a UTF-8 file as its numbered lines that hold text; an error with one names both."""
    number = 0

    def lines() -> Iterator[tuple[int, str]]:
        nonlocal number
        for number, line in enumerate(file, start=1):
            # Editors on Windows put a byte order mark before the first line.
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            if text.strip():
                yield number, text

    with path.open("rb") as file:
        try:
            yield lines()
        except (ValueError, TypeError, RecursionError) as error:
            msg = f"{path}, line {number}: {error}"
            raise ValueError(msg) from error


def _filled(found: Read, path: Path, what: str) -> Read:
    if not found:
        msg = f"expected {what}, got a file without any: {path}"
        raise ValueError(msg)
    return found


def read_jsonl(path: Path) -> dict[str, dict[str, str]]:
    """Read the objects of a file in BEIR's layout by their ids."""
    if not path.is_file():
        msg = f"expected a folder in BEIR's layout, but there is no file {path}"
        raise ValueError(msg)
    records: dict[str, dict[str, str]] = {}
    with _lines(path) as lines:
        for _, line in lines:
            record = json.loads(line)
            if not isinstance(record, dict):
                msg = f"expected a JSON object, got a {type(record).__name__}"
                raise TypeError(msg)
            for name in ("_id", "text", "title") if record.get("title") else ("_id", "text"):
                if not isinstance(record.get(name), str):
                    kind = type(record[name]).__name__ if name in record else f"only {[*record]}"
                    msg = f"expected a string in the field {name!r}, got {kind}"
                    raise TypeError(msg)
            check_id(record["_id"])
            if record["_id"] in records or not record["_id"]:
                msg = f"expected an id that no earlier line has, got {record['_id']!r}"
                raise ValueError(msg)
            if path.stem == "queries":
                check_query_text(record["_id"], record["text"])
            records[record["_id"]] = record
    return _filled(records, path, "JSON objects, one a line")


def _read_qrels(
    path: Path, queries: Container[str], corpus: Container[str] | None
) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    with _lines(path) as lines:
        for number, line in lines:
            if number == 1 and line.split() == _HEADER:
                continue
            # Some published files end lines in tabs; TREC's have an iteration in the second column.
            columns = line.rstrip().split("\t") if "\t" in line.rstrip() else line.split()
            if len(columns) not in {3, 4}:
                msg = f"expected query id, document id and grade, got {len(columns)} columns"
                raise ValueError(msg)
            query_id, *_, doc_id, grade = columns
            if query_id not in queries:
                msg = f"the query {query_id!r} is not in queries.jsonl"
                raise ValueError(msg)
            check_judgment(query_id, doc_id, int(grade), corpus)
            # Published files repeat some judgments; only those that don't agree are wrong.
            known = qrels.setdefault(query_id, {}).setdefault(doc_id, int(grade))
            if known != int(grade):
                msg = f"{doc_id!r} is judged twice for query {query_id!r}: {known}, then {grade}"
                raise ValueError(msg)
    return _filled(qrels, path, "judgments")


def write_beir(dataset: Dataset, folder: str | Path, qrels: str = "test") -> None:
    """Write a data set as `load_beir` reads it; files that are there are replaced.

    Args:
        dataset: Of its documents' metadata the title alone is kept: BEIR has no more.
        folder: Made if missing.
        qrels: The judgments' file is `qrels/<qrels>.tsv`.

    Raises:
        ValueError: The data set has no corpus, or an id holds a tab or a line break.
    """
    folder = Path(folder)
    documents = [
        {"_id": one.id, "title": one.metadata.get("title") or "", "text": one.page_content}
        for one in dataset.documents
    ]
    queries = [{"_id": key, "text": text} for key, text in dataset.queries.items()]
    _check_columns(dataset.qrels)
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    # Judgments last: whatever ends this before, none names what isn't there.
    for name, records in (("corpus", documents), ("queries", queries)):
        with replacing(folder / f"{name}.jsonl") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
    write_qrels(folder / "qrels" / f"{qrels}.tsv", dataset.qrels)


def write_qrels(path: Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Write judgments in BEIR's layout; a ValueError for an id that its columns can't hold."""
    _check_columns(qrels)
    with replacing(path) as file:
        file.write("\t".join(_HEADER) + "\n")
        for query_id, grades in qrels.items():
            file.writelines(f"{query_id}\t{key}\t{grade}\n" for key, grade in grades.items())


def _check_columns(qrels: Mapping[str, Mapping[str, int]]) -> None:
    ids = {*qrels, *(key for grades in qrels.values() for key in grades)}
    if wrong := next((key for key in ids if "\t" in key or key.splitlines() != [key]), None):
        msg = f"expected ids without tabs and line breaks, got {wrong!r}"
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
        ValueError: There is no such set, or it lacks a part.
    """
    require("ir_datasets", install="ir-datasets", purpose="load_ir_dataset")
    import ir_datasets

    try:
        source = ir_datasets.load(name)
    except KeyError as error:
        msg = f"expected an id that ir_datasets knows, such as 'beir/scifact/test', got {name!r}"
        raise ValueError(msg) from error
    try:
        qrels = source.qrels_dict()
        asked = {one.query_id: one for one in source.queries_iter()}
        documents = source.docs_iter() if load_corpus else None
    except AttributeError as error:
        msg = f"ir_datasets has not all of {name!r}: {error}; its id may go on, as in '…/test'"
        raise ValueError(msg) from error
    queries = {key: asked[key].default_text() for key in qrels if key in asked}
    corpus = None if documents is None else {one.doc_id: _ir_document(one) for one in documents}
    return Dataset(queries, qrels, corpus, name, partial_corpus=partial_corpus)


def _ir_document(doc: Any) -> Document:
    """Text and title apart where the set has both fields, else all of its text as one."""
    if hasattr(doc, "text"):
        return _document(doc.doc_id, doc.text, getattr(doc, "title", None))
    return _document(doc.doc_id, doc.default_text(), None)


def read_run(path: str | Path) -> dict[str, dict[str, float]]:
    """Read a TREC run file: query id, "Q0", document id, rank, score and tag on each line.

    Returns:
        The queries in the order of the file, the documents of each best first.

    Raises:
        ValueError: A line has other columns, a score that is no number, or a document that its
            query has already; or there is no line. The message names file and line.
    """
    path = Path(path)
    run: dict[str, dict[str, float]] = {}
    with _lines(path) as lines:
        for _, line in lines:
            columns = line.split()
            if len(columns) != len(_TREC_COLUMNS):
                msg = f"expected the 6 columns {', '.join(_TREC_COLUMNS)}, got {line[:100]!r}"
                raise ValueError(msg)
            query_id, _, doc_id, _, score, _ = columns
            if doc_id in run.setdefault(query_id, {}):
                msg = f"document {doc_id!r} stands twice for query {query_id!r}"
                raise ValueError(msg)
            run[query_id][doc_id] = float(score)
            ranking({doc_id: float(score)})
    found = _filled(run, path, "results in TREC's format")
    return {query: {one: given[one] for one in ranking(given)} for query, given in found.items()}


def write_run(path: str | Path, run: Run, *, tag: str = "langchain_rerank") -> None:
    """Write a TREC run file, ranked as trec_eval ranks it, with scores that read back the same.

    Args:
        path: Overwritten where it exists; left as it was where anything goes wrong.
        run: A query without results leaves no line: the format has no place for it.
        tag: Name of the system, for the last column.

    Raises:
        ValueError: An id or the tag is empty, holds white space or what is not UTF-8, which the
            format can't carry, or a score is NaN.
    """
    _check_word("tag", tag)
    with replacing(Path(path)) as file:
        for query_id, scores in run.items():
            _check_word("query id", query_id)
            for rank, doc_id in enumerate(ranking(scores), start=1):
                _check_word("document id", doc_id)
                file.write(f"{query_id} Q0 {doc_id} {rank} {float(scores[doc_id])!r} {tag}\n")


def _check_word(what: str, text: str) -> None:
    if text.split() != [text] or well_formed(text) != text:
        msg = f"a TREC file needs a {what} of one word of UTF-8, got {text!r}"
        raise ValueError(msg)
