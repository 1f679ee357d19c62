"""Running one system over the queries of a data set, watched by a tracer."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document
from langchain_core.runnables import Runnable
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from langchain_rerank.compressor import Reranker
from langchain_rerank.errors import EvaluationError
from langchain_rerank.evaluation.records import RankedDocument
from langchain_rerank.evaluation.runs import Run, ranking
from langchain_rerank.ranking import check_document

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.tracers.schemas import Run as TracedRun

    from langchain_rerank.evaluation.datasets import Dataset


@dataclass(frozen=True, slots=True)
class RerankedRun:
    """A system made of a run and a reranker, which reads its texts from the data set's corpus.

    All of the best `fetch_k` documents of a query are reranked and returned, whatever the
    reranker's `top_n`; those further down are dropped. The reranker's other settings hold: it
    drops documents below its `score_threshold`, and repeated texts unless `deduplicate=False`.
    An error is raised, also with `on_error="keep_order"`.

    Example:
        >>> from langchain_core.documents import Document
        >>> from langchain_rerank import Reranker
        >>> from langchain_rerank.evaluation import Dataset, RerankedRun, evaluate
        >>> from langchain_rerank.offline import offline_reranker
        >>> documents = [
        ...     Document("Berlin has famous museums.", id="museums"),
        ...     Document("Berlin had a population of 3,520,031 in 2015.", id="people"),
        ... ]
        >>> question = ("How many people live in Berlin?", ["people"])
        >>> dataset = Dataset.from_questions([question], documents)
        >>> bm25 = {"1": {"museums": 7.2, "people": 7.1}}  # or read_run("bm25.trec")
        >>> reranked = RerankedRun(bm25, Reranker(model=offline_reranker()))
        >>> systems = {"BM25": bm25, "reranked": reranked}
        >>> report = evaluate(systems, dataset, ["RR"], show_progress=False)
        >>> {name: result.summaries["RR"].mean for name, result in report.systems.items()}
        {'BM25': 0.5, 'reranked': 1.0}
    """

    run: Run
    reranker: Reranker
    fetch_k: int = 100

    def __post_init__(self) -> None:
        """Check the types and the depth."""
        if not isinstance(self.run, Mapping):
            msg = f"run must map query ids to results, got {type(self.run).__name__}"
            raise TypeError(msg)
        if not isinstance(self.reranker, Reranker):
            msg = f"reranker must be a Reranker, got {type(self.reranker).__name__}"
            raise TypeError(msg)
        if isinstance(self.fetch_k, bool) or not isinstance(self.fetch_k, int) or self.fetch_k < 1:
            msg = f"fetch_k must be a positive int, got {self.fetch_k!r}"
            raise ValueError(msg)


System = Runnable[str, list[Document]] | Run | RerankedRun
"""What can be evaluated: a retriever, a run made elsewhere, or such a run reranked."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a system gave for one query."""

    ranking: tuple[RankedDocument, ...]
    candidates: tuple[str, ...]
    seconds: Mapping[str, float]
    """By stage; none for a run."""
    texts: Mapping[str, str]
    """By document id, of the ranking, where they are known."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Puts a data set's queries to one system."""

    name: str
    system: System
    dataset: Dataset
    id_key: str | None = None

    def __post_init__(self) -> None:
        """Check that the system is one, and has what it needs."""
        if not isinstance(self.name, str) or not self.name:
            msg = f"a system's name must be a non-empty str, got {self.name!r}"
            raise TypeError(msg)
        if not isinstance(self.system, RerankedRun | Runnable | Mapping):
            msg = (
                f"system '{self.name}' must be a retriever, a run (query id to document id to "
                f"score) or a RerankedRun, got {type(self.system).__name__}"
            )
            raise TypeError(msg)
        if isinstance(self.system, RerankedRun) and self.dataset.corpus is None:
            msg = f"system '{self.name}' reranks a run: it needs a data set with a corpus"
            raise ValueError(msg)

    def warm_up(self, query_id: str) -> None:
        """Ask one query and forget the answer: models load at their first call."""
        if not isinstance(self.system, Mapping):
            self.ask(query_id)

    def ask(self, query_id: str) -> Answer:
        """Ask one query.

        Raises:
            EvaluationError: The system failed, or gave something that can't be measured; the
                message names system and query, and the real cause is chained.
        """
        try:
            if isinstance(self.system, RerankedRun):
                return self._rerank(self.system, query_id)
            if isinstance(self.system, Mapping):
                return self._look_up(self.system, query_id)
            return self._retrieve(self.system, self.dataset.queries[query_id])
        except Exception as error:
            query = self.dataset.queries[query_id]
            msg = (
                f"system '{self.name}' failed on query '{query_id}' ({query:.80}): "
                f"{type(error).__name__}: {error}"
            )
            raise EvaluationError(msg) from error

    def _look_up(self, run: Run, query_id: str) -> Answer:
        scores = run.get(query_id, {})
        found = tuple(RankedDocument(one, float(scores[one])) for one in ranking(scores))
        corpus = self.dataset.corpus or {}
        texts = {one.id: corpus[one.id].page_content for one in found if one.id in corpus}
        return Answer(found, tuple(one.id for one in found), {}, texts)

    def _rerank(self, system: RerankedRun, query_id: str) -> Answer:
        corpus = self.dataset.corpus or {}
        ids = ranking(system.run.get(query_id, {}))[: system.fetch_k]
        if lacking := next((one for one in ids if one not in corpus), None):
            msg = f"the run's document '{lacking}' is not in the corpus of the data set"
            raise ValueError(msg)
        reranker = system.reranker.model_copy(update={"top_n": None, "on_error": "raise"})
        trace = RunCollectorCallbackHandler()
        documents = reranker.compress_documents(
            [corpus[one] for one in ids], self.dataset.queries[query_id], [trace]
        )
        found, texts = as_ranking(documents, None)
        seconds = {"reranking": _duration(trace.traced_runs)}
        return Answer(found, tuple(ids), seconds, texts)

    def _retrieve(self, system: Runnable[str, list[Document]], query: str) -> Answer:
        trace = RunCollectorCallbackHandler()
        callbacks: list[BaseCallbackHandler] = [trace]
        start = time.perf_counter()
        documents = system.invoke(query, {"callbacks": callbacks})
        total = time.perf_counter() - start
        if not isinstance(documents, list):
            msg = f"expected a list of documents, got {type(documents).__name__}"
            raise TypeError(msg)
        found, texts = as_ranking(documents, self.id_key)
        stages = _stages(trace.traced_runs)
        seen = documents
        if "reranking" in stages:
            seen = stages["reranking"][0].inputs.get("documents", documents)
        ids = (_document_id(one, position, self.id_key) for position, one in enumerate(seen))
        seconds = {stage: _duration(runs) for stage, runs in stages.items()}
        return Answer(found, tuple(dict.fromkeys(ids)), {**seconds, "total": total}, texts)


def _stages(runs: Sequence[TracedRun]) -> dict[str, list[TracedRun]]:
    """Sort the steps of a trace into stages, each in order of time.

    A retriever in whose time something was reranked is no retrieval itself. Time tells, as the
    tree doesn't: inside a chain, LangChain hangs a first stage with bound keywords onto the chain.
    """
    steps = sorted(_with_descendants(runs), key=lambda run: run.start_time)
    reranking = [run for run in steps if run.name == "Reranker"]
    retrieval = [
        run
        for run in steps
        if run.run_type == "retriever"
        and not any(run.start_time <= one.start_time < _end(run) for one in reranking)
    ]
    found = {"retrieval": retrieval, "reranking": reranking}
    return {stage: steps for stage, steps in found.items() if steps}


def _with_descendants(runs: Sequence[TracedRun]) -> Iterator[TracedRun]:
    for run in runs:
        yield run
        yield from _with_descendants(run.child_runs)


def _end(run: TracedRun) -> datetime:
    return run.end_time or run.start_time


def _duration(runs: Sequence[TracedRun]) -> float:
    """Return the seconds in which at least one of the runs, in order of time, was under way."""
    busy = timedelta()
    last = runs[0].start_time
    for run in runs:
        busy += max(_end(run) - max(run.start_time, last), timedelta())
        last = max(last, _end(run))
    return busy.total_seconds()


def as_ranking(
    documents: Sequence[Document], id_key: str | None
) -> tuple[tuple[RankedDocument, ...], dict[str, str]]:
    """Make a ranking of documents, and keep their texts.

    Of several chunks of one judged document the first stands for it (MaxP: Dai and Callan,
    "Deeper text understanding for IR with contextual neural language modeling", SIGIR 2019).
    """
    found: dict[str, RankedDocument] = {}
    texts: dict[str, str] = {}
    for position, document in enumerate(documents):
        key = _document_id(document, position, id_key)
        rank, score = map(document.metadata.get, ("retrieval_rank", "relevance_score"))
        if rank is not None and score is None:
            msg = "reranking failed, and its on_error='keep_order' hid it: set on_error='raise'"
            raise ValueError(msg)
        number = None if score is None or math.isnan(score) else float(score)
        found.setdefault(key, RankedDocument(key, number, rank))
        texts.setdefault(key, document.page_content)
    return tuple(found.values()), texts


def _document_id(document: Any, position: int, id_key: str | None) -> str:
    """Return the id by which the judgments know a document."""
    check_document(document, position)
    key = document.id if id_key is None else document.metadata.get(id_key)
    if key in (None, ""):
        what = "id" if id_key is None else f"metadata field '{id_key}'"
        msg = (
            f"document {position} has no {what}, by which judgments name it: give documents the "
            "ids of the data set, or name the metadata field that holds them as id_key"
        )
        raise ValueError(msg)
    return str(key)
