"""Asking systems: what they return for a query, and how long each stage took, by a tracer."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document
from langchain_core.runnables import Runnable
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from langchain_rerank.compressor import Reranker
from langchain_rerank.errors import EvaluationError
from langchain_rerank.evaluation.runs import Run, ranking
from langchain_rerank.ranking import check_document

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
class RankedDocument:
    """One document of a ranking."""

    id: str
    score: float | None = None
    """The cross encoder's where it was reranked, the run's where it comes from a run."""
    retrieval_rank: int | None = None
    """Its place among the reranker's candidates, from 1; None if it was not reranked."""

    @property
    def was_reranked(self) -> bool:
        """Whether its score is a cross encoder's; a score of NaN is none."""
        return self.retrieval_rank is not None and self.score is not None


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
    except Exception as error:
        what = f"system '{name}'"
        raise failure(what, dataset, query_id, error) from error
    own = query_id in {one.id for one in answer.ranking}.union(answer.candidates)
    own = own and is_query_itself(dataset, query_id, answer.texts.get(query_id))
    ranking = tuple(one for one in answer.ranking if not (own and one.id == query_id))
    candidates = tuple(one for one in answer.candidates if not (own and one == query_id))
    texts = {one.id: answer.texts[one.id] for one in ranking if one.id in answer.texts}
    return Answer(ranking, candidates, answer.seconds, texts, own)


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
    ids = ranking(scores)
    corpus = dataset.corpus or {}
    texts = {one: corpus[one].page_content for one in ids if one in corpus}
    found = tuple(RankedDocument(one, float(scores[one])) for one in ids)
    return Answer(found, tuple(ids), {}, texts)


def _rerank(system: RerankedRun, dataset: Dataset, query_id: str) -> Answer:
    candidates, own = best_of_run(system.run, dataset, query_id, system.fetch_k)
    reranker = system.reranker.model_copy(update={"top_n": None, "on_error": "raise"})
    trace = RunCollectorCallbackHandler()
    documents = reranker.compress_documents(candidates, dataset.queries[query_id], [trace])
    found, texts = as_ranking(documents, None)
    seconds = {"reranking": sum(map(_seconds, trace.traced_runs))}
    return Answer(found, tuple(one.id or "" for one in candidates), seconds, texts, own)


def _retrieve(system: Runnable[str, list[Document]], query: str, id_key: str | None) -> Answer:
    trace = RunCollectorCallbackHandler()
    start = time.perf_counter()
    documents = system.invoke(query, {"callbacks": [trace]})
    total = time.perf_counter() - start
    if not isinstance(documents, list):
        msg = f"expected a list of documents, got {type(documents).__name__}"
        raise TypeError(msg)
    found, texts = as_ranking(documents, id_key)
    steps = list(_reranking(trace.traced_runs))
    seen = steps[0].inputs.get("documents", documents) if steps else documents
    candidates, seen_texts = as_ranking(seen, id_key, scored=False)
    seconds = {"retrieval": total, "total": total}
    if steps:
        reranking = min(total, sum(map(_seconds, steps)))
        seconds = {"retrieval": total - reranking, "reranking": reranking, "total": total}
    return Answer(found, tuple(one.id for one in candidates), seconds, seen_texts | texts)


def _reranking(runs: Sequence[TracedRun]) -> Iterator[TracedRun]:
    """Yield the runs of Rerankers, wherever in the tree, in order of time."""
    for run in runs:
        if run.name == "Reranker":
            yield run
        else:
            yield from _reranking(run.child_runs)


def _seconds(run: TracedRun) -> float:
    return ((run.end_time or run.start_time) - run.start_time).total_seconds()


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
        number = None if score is None or math.isnan(score) else float(score)
        found.setdefault(key, RankedDocument(key, number, rank))
        texts.setdefault(key, document.page_content)
    # A Reranker leaves a NaN out, of one passage or another.
    hidden = [one.score is None for one in found.values() if one.retrieval_rank is not None]
    if scored and hidden and all(hidden):
        msg = "reranking failed, and its on_error='keep_order' hid it: set on_error='raise'"
        raise ValueError(msg)
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
