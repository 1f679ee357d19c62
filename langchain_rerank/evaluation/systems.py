"""Asking systems: what they return for a query, and how long each stage took, by a tracer."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document
from langchain_core.runnables import Runnable
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from langchain_rerank.compressor import Reranker
from langchain_rerank.errors import EvaluationError
from langchain_rerank.evaluation.results import RankedDocument
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


AnySystem = Runnable[str, list[Document]] | Run | RerankedRun
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
    own_left_out: bool = False
    """Whether the query's own document was among them; see `is_query_itself`."""


def check_system(name: str, system: AnySystem, dataset: Dataset) -> None:
    """Check that a system is one, and has what it needs."""
    if not isinstance(name, str) or not name:
        msg = f"a system's name must be a non-empty str, got {name!r}"
        raise TypeError(msg)
    if not isinstance(system, RerankedRun | Runnable | Mapping):
        msg = (
            f"system '{name}' must be a retriever, a run (query id to document id to "
            f"score) or a RerankedRun, got {type(system).__name__}"
        )
        raise TypeError(msg)
    if isinstance(system, RerankedRun) and dataset.corpus is None:
        msg = f"system '{name}' reranks a run: it needs a data set with a corpus"
        raise ValueError(msg)


def ask(
    name: str, system: AnySystem, dataset: Dataset, query_id: str, id_key: str | None = None
) -> Answer:
    """Put one query to a system, and leave the query's own document out of what comes back."""
    try:
        if isinstance(system, RerankedRun):
            return _rerank(system, dataset, query_id)
        if isinstance(system, Mapping):
            answer = _look_up(system, dataset, query_id)
        else:
            answer = _retrieve(system, dataset.queries[query_id], id_key)
        return without_query_itself(answer, dataset, query_id)
    except Exception as error:
        what = f"system '{name}'"
        raise failure(what, dataset, query_id, error) from error


def failure(what: str, dataset: Dataset, query_id: str, error: Exception) -> EvaluationError:
    """Build the error of a query; the caller chains the cause."""
    query = dataset.queries[query_id]
    return EvaluationError(
        f"{what} failed on query '{query_id}' ({query:.80}): {type(error).__name__}: {error}"
    )


def is_query_itself(dataset: Dataset, query_id: str, text: str | None) -> bool:
    """Tell whether the document of a query's id is the query, as in ArguAna and Quora.

    BEIR leaves out every document of the query's id. Where data sets number both from 1, that
    would be another document: so its text, where it is known, must hold the query or be part of
    it, and it must not be judged relevant.
    """
    if dataset.qrels.get(query_id, {}).get(query_id, 0) > 0:
        return False
    if text is None:
        return True
    one, other = (" ".join(words.casefold().split()) for words in (text, dataset.queries[query_id]))
    return bool(one) and (one in other or other in one)


def without_query_itself(answer: Answer, dataset: Dataset, query_id: str) -> Answer:
    """Leave the query's own document out of an answer."""
    texts, found = answer.texts, {one.id for one in answer.ranking}.union(answer.candidates)
    own = query_id in found and is_query_itself(dataset, query_id, texts.get(query_id))
    kept = tuple(one for one in answer.ranking if one.id != query_id or not own)
    return replace(
        answer,
        ranking=kept,
        candidates=tuple(one for one in answer.candidates if one != query_id or not own),
        texts={one.id: texts[one.id] for one in kept if one.id in texts},
        own_left_out=own,
    )


def best_of_run(
    run: Run, dataset: Dataset, query_id: str, fetch_k: int
) -> tuple[list[Document], bool]:
    """Return a run's first documents of a query, and whether its own was left out of them."""
    corpus = dataset.corpus or {}
    ids = ranking(run.get(query_id, {}))
    own = query_id in corpus and is_query_itself(dataset, query_id, corpus[query_id].page_content)
    kept = [one for one in ids if one != query_id or not own][:fetch_k]
    if lacking := next((one for one in kept if one not in corpus), None):
        msg = f"the run's document '{lacking}' is not in the corpus of the data set"
        raise ValueError(msg)
    return [corpus[one] for one in kept], own and query_id in ids


def _look_up(run: Run, dataset: Dataset, query_id: str) -> Answer:
    scores = run.get(query_id, {})
    found = tuple(RankedDocument(one, float(scores[one])) for one in ranking(scores))
    corpus = dataset.corpus or {}
    texts = {one.id: corpus[one.id].page_content for one in found if one.id in corpus}
    return Answer(found, tuple(one.id for one in found), {}, texts)


def _rerank(system: RerankedRun, dataset: Dataset, query_id: str) -> Answer:
    candidates, own = best_of_run(system.run, dataset, query_id, system.fetch_k)
    reranker = system.reranker.model_copy(update={"top_n": None, "on_error": "raise"})
    trace = RunCollectorCallbackHandler()
    query = dataset.queries[query_id]
    documents = reranker.compress_documents(candidates, query, [trace])
    found, texts = as_ranking(documents, None)
    seconds = {"reranking": _duration(trace.traced_runs)}
    return Answer(found, tuple(one.id or "" for one in candidates), seconds, texts, own)


def _retrieve(system: Runnable[str, list[Document]], query: str, id_key: str | None) -> Answer:
    trace = RunCollectorCallbackHandler()
    callbacks: list[BaseCallbackHandler] = [trace]
    start = time.perf_counter()
    documents = system.invoke(query, {"callbacks": callbacks})
    total = time.perf_counter() - start
    if not isinstance(documents, list):
        msg = f"expected a list of documents, got {type(documents).__name__}"
        raise TypeError(msg)
    found, texts = as_ranking(documents, id_key)
    stages = _stages(trace.traced_runs)
    seen = documents
    if "reranking" in stages:
        seen = stages["reranking"][0].inputs.get("documents", documents)
    candidates, seen_texts = as_ranking(seen, id_key, scored=False)
    seconds = {stage: _duration(runs) for stage, runs in stages.items()}
    ids = tuple(one.id for one in candidates)
    return Answer(found, ids, {**seconds, "total": total}, seen_texts | texts)


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
    documents: Sequence[Document], id_key: str | None, *, scored: bool = True
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
        if scored and rank is not None and score is None:
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
