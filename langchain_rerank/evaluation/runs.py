"""Runs: which documents a system returned for each query, as TREC files and in trec_eval's order.

A run's order is trec_eval's: by falling score in single precision, equal scores by falling document
id; neither the order of a mapping nor a file's rank column counts. Measures don't agree on ties
(RR@10 is MS MARCO's script, which goes by rising id): `falling_scores` has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from ctypes import c_float
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from langchain_rerank.errors import require
from langchain_rerank.files import replacing
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Run = Mapping[str, Mapping[str, float]]
"""Query id → document id → score, higher is better."""


def ranking(scores: Mapping[str, float]) -> list[str]:
    """Return one query's document ids, best first, as trec_eval orders them."""
    for doc_id, score in scores.items():
        if math.isnan(score):
            msg = f"expected a number as score of document {doc_id!r}, got NaN"
            raise ValueError(msg)
    return sorted(scores, key=lambda doc_id: (c_float(scores[doc_id]).value, doc_id), reverse=True)


def falling_scores(
    doc_ids: Sequence[str], scores: Sequence[float] | None = None
) -> dict[str, float]:
    """Give a ranking of distinct documents scores that fall, in single precision.

    Where all are finite, the given ones stay, those that don't fall lowered by the least.
    """
    falling: list[float] = []
    previous = np.float32(math.inf)
    with np.errstate(over="ignore"):
        for score in scores or ():
            falls = np.float32(score) < previous
            lowered = np.nextafter(previous, np.float32(-math.inf))
            falling.append(float(score if falls else lowered))
            previous = np.float32(falling[-1])
        finite = bool(np.isfinite(np.array([*(scores or [math.nan]), *falling], np.float32)).all())
    by_rank = [float(rank) for rank in range(len(doc_ids), 0, -1)]
    return dict(zip(doc_ids, falling if finite else by_rank, strict=True))


def read_run(path: str | Path) -> dict[str, dict[str, float]]:
    """Read a TREC run file: query id, "Q0", document id, rank, score and tag on each line.

    Args:
        path: A UTF-8 file. Its columns stand apart by any white space.

    Returns:
        The queries in the order of the file, the documents of each best first.

    Raises:
        ValueError: A line has other columns, a score that is no number, or a document that its
            query has already; or there is no line. The message names file and line.
        OSError: The file can't be read.
        MissingDependencyError: The extra `eval` is not installed.
    """
    require_eval("ir_measures", purpose="read_run")
    from ir_measures import read_trec_run

    path = Path(path)
    run: dict[str, dict[str, float]] = {}
    for number, line in numbered_lines(path):
        try:
            # Of one line, so that an error can name it; it takes a text without "\n" for a path.
            [row] = read_trec_run(f"{line}\n")  # type: ignore[no-untyped-call]  # theirs has no types
        except ValueError as error:
            problem = (
                "expected the 6 columns query id, Q0, document id, rank, score and tag, with a "
                f"number as score, got {line[:100]!r}"
            )
            raise line_error(path, number, problem) from error
        results = run.setdefault(row.query_id, {})
        if row.doc_id in results:
            problem = f"document {row.doc_id!r} stands twice, for query {row.query_id!r}"
            raise line_error(path, number, problem)
        if math.isnan(row.score):
            raise line_error(path, number, "expected a number as score, got NaN")
        results[row.doc_id] = row.score
    if not run:
        msg = f"expected a TREC run file, got one without a result: {path}"
        raise ValueError(msg)
    return {
        query_id: {doc_id: results[doc_id] for doc_id in ranking(results)}
        for query_id, results in run.items()
    }


def write_run(path: str | Path, run: Run, *, tag: str = "langchain_rerank") -> None:
    """Write a TREC run file, ranked as trec_eval ranks it, with scores that read back the same.

    Args:
        path: Overwritten where it exists; left as it was where anything goes wrong.
        run: A query without results leaves no line: the format has no place for it.
        tag: Name of the system, for the last column.

    Raises:
        ValueError: An id or the tag is empty, holds white space or what is not UTF-8, which the
            format can't carry, or a score is NaN.
        OSError: The file can't be written.
    """
    _check_word(tag, "tag")
    with replacing(Path(path)) as file:
        for query_id, scores in run.items():
            _check_word(query_id, "query id")
            try:
                ranked = ranking(scores)
            except ValueError as error:
                msg = f"query {query_id!r}: {error}"
                raise ValueError(msg) from error
            for rank, doc_id in enumerate(ranked, start=1):
                _check_word(doc_id, "document id")
                file.write(f"{query_id} Q0 {doc_id} {rank} {float(scores[doc_id])!r} {tag}\n")


def _check_word(text: str, what: str) -> None:
    if text.split() != [text] or well_formed(text) != text:
        msg = f"a TREC file needs a {what} of one word of UTF-8, without white space; got {text!r}"
        raise ValueError(msg)


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a UTF-8 file that hold text, numbered from 1, without their line ends."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                # Editors on Windows put a byte order mark before the first line.
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise line_error(path, number, f"expected UTF-8 text: {error}") from error
            if text.strip():
                yield number, text.rstrip("\r\n")


def line_error(path: Path, number: int, problem: object) -> ValueError:
    """Return the error for a bad line of a data file; the caller raises it."""
    return ValueError(f"{path}, line {number}: {problem}")


def require_eval(package: str, *, purpose: str) -> None:
    """Raise `MissingDependencyError`, which names the extra, unless a package of it is there."""
    require(package, install="langchain-rerank[eval]", purpose=purpose)
