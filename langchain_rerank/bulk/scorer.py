"""What an actor does: a model of its own, and one block after the other."""

from __future__ import annotations

import itertools
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_rerank.bulk.blocks import Block
from langchain_rerank.bulk.rows import Columns, Results, read_rows, write_rows
from langchain_rerank.cores import keep_to_cores
from langchain_rerank.cross_encoders.base import LocalCrossEncoder
from langchain_rerank.errors import ModelLoadError, ScoringError
from langchain_rerank.files import UNFINISHED
from langchain_rerank.ranking import best_first
from langchain_rerank.scoring import score_pairs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_core.cross_encoders import BaseCrossEncoder

# Ray starts an actor that has died again, and with it the same block, for ever.
_TRIES = 3
# What a block can fail by; the name crosses the process, as not every error can be pickled.
ERRORS: dict[str, type[Exception]] = {
    error.__name__: error for error in (ValueError, ScoringError, ModelLoadError, OSError)
}


class BlockScorer:
    """Scores blocks and writes their parts; runs in an actor, but needs no Ray."""

    def __init__(
        self,
        cross_encoder: BaseCrossEncoder,
        columns: Columns,
        top_n: int | None,
        threads: int,
    ) -> None:
        """Store the settings, `threads` being the cores of this actor; the first block loads."""
        self._cross_encoder = cross_encoder
        self._columns = columns
        self._top_n = top_n
        self._threads = threads
        self._ready = False

    def __call__(self, tasks: Any) -> Any:
        """Run a pyarrow table of tasks: fields of a `Block`, and `part`, the path to write."""
        import pyarrow as pa

        return pa.Table.from_pylist([self.run(**task) for task in tasks.to_pylist()])

    def run(self, part: str, **fields: Any) -> dict[str, Any]:
        """Score one block and write its part.

        Returns:
            The numbers of `rows` and `pairs`, when it `started` and `ended` in seconds since the
            epoch, and of an error the name of its type and its message, else "".
        """
        done: dict[str, Any] = {"rows": 0, "pairs": 0, "error": "", "message": ""}
        try:
            self._prepare()
            done["started"] = time.time()
            # Ray runs a task again whose actor ended before its report came through.
            if not Path(part).exists():
                done["rows"], done["pairs"] = self._score(Block(**fields), Path(part))
        except Exception as error:  # noqa: BLE001  # the driver raises it; Ray would run it again
            known = (name for name, kind in ERRORS.items() if isinstance(error, kind))
            done["error"] = next(known, ScoringError.__name__)
            plain = done["error"] == type(error).__name__ or isinstance(error, ValueError)
            done["message"] = str(error) if plain else f"{type(error).__name__}: {error}"
        done.setdefault("started", time.time())
        return {**done, "ended": time.time()}

    def _score(self, block: Block, part: Path) -> tuple[int, int]:
        """Score a block; gives its numbers of rows and pairs."""
        with _counted_try(part) as tries:
            if tries > _TRIES:
                msg = (
                    f"{block.path}, from row {block.first}: {_TRIES} times the process that scored "
                    f"{block.rows} rows came to a sudden end, as it does when memory runs out: "
                    "take fewer block_rows or workers"
                )
                raise ScoringError(msg)
            rows = read_rows(block, self._columns, Path(block.path))
            results = self._results(rows.queries, rows.documents)
            write_rows(part, rows, results, self._columns.results)
        return len(results), sum(map(len, rows.documents))

    def _prepare(self) -> None:
        if self._ready:
            return
        self._cross_encoder = keep_to_cores(self._cross_encoder, self._threads)
        if isinstance(self._cross_encoder, LocalCrossEncoder):
            self._cross_encoder.load()
        self._ready = True

    def _results(self, queries: list[str], documents: list[list[str]]) -> list[Results]:
        """Rank the documents of every query, all pairs scored in one pass."""
        pairs = [
            (query, text) for query, texts in zip(queries, documents, strict=True) for text in texts
        ]
        scores = score_pairs(self._cross_encoder, pairs)
        results = []
        start = 0
        for texts in documents:
            own = scores[start : start + len(texts)]
            start += len(texts)
            order = best_first(own)[: self._top_n]
            results.append([{"index": one, "relevance_score": own[one]} for one in order])
        return results


@contextmanager
def _counted_try(path: Path) -> Iterator[int]:
    """Count how often the writing of a file was begun by processes that did not live to end it."""
    marks: list[Path] = []
    for number in itertools.count(1):
        marks.append(path.with_name(f"{UNFINISHED}{path.name}-try-{number}"))
        try:
            marks[-1].touch(exist_ok=False)
        except FileExistsError:
            continue
        break
    try:
        yield len(marks)
    finally:
        for mark in marks:
            mark.unlink(missing_ok=True)
