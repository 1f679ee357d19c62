"""Asking systems: what they return for a query, and how long each stage took, by a tracer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_core.documents import Document
from langchain_core.runnables import Runnable
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from langchain_rerank.compressor import Reranker
from langchain_rerank.errors import EvaluationError
from langchain_rerank.evaluation.datasets import check_id
from langchain_rerank.evaluation.measures import Run, ranking
from langchain_rerank.ranking import check_document
from langchain_rerank.retriever import check_depths

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

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
        >>> report.to_dataframe()["RR"].to_dict()
        {'BM25': 0.5, 'reranked': 1.0}
    """

    run: Run
    reranker: Reranker
    fetch_k: int = 100

    def __post_init__(self) -> None:
        """Check the types and the depth."""
        if not isinstance(self.run, Mapping) or not isinstance(self.reranker, Reranker):
            kinds = f"{type(self.run).__name__} and {type(self.reranker).__name__}"
            msg = f"expected a run, which maps query ids to results, and a Reranker, got {kinds}"
            raise TypeError(msg)
        check_depths(1, self.fetch_k)


AnySystem = Runnable[str, list[Document]] | Run | RerankedRun
"""What can be evaluated: a retriever, a run made elsewhere, or such a run reranked."""


Scored = tuple[float | None, int | None]
"""The cross encoder's score, or the run's, and the place among the reranker's candidates, from 1:
each None where there is none."""


class Answer(NamedTuple):
    """What a system gave for one query, whose own document is left out: see `is_query_itself`."""

    documents: list[Document]
    ranking: dict[str, Scored]
    """By the ids that judgments know, best first. Of several chunks of one judged document the
    first stands for it (MaxP: Dai and Callan, "Deeper text understanding for IR with contextual
    neural language modeling", SIGIR 2019)."""
    candidates: list[str]
    """Ids of what the reranker saw; without one, those of the ranking."""
    seconds: dict[str, float]
    """By stage; none for a run."""
    own_left_out: bool


def check_system(name: str, system: AnySystem, dataset: Dataset) -> None:
    """Check that a system is one, and has what it needs."""
    if not isinstance(name, str) or not name:
        msg = f"a system's name must be a non-empty str, got {name!r}"
        raise TypeError(msg)
    check_id(name)
    if not isinstance(system, RerankedRun | Runnable | Mapping):
        kind = type(system).__name__
        msg = f"system '{name}' must be a retriever, a run or a RerankedRun, got {kind}"
        raise TypeError(msg)
    if isinstance(system, RerankedRun) and dataset.corpus is None:
        msg = f"system '{name}' reranks a run: it needs a data set with a corpus"
        raise ValueError(msg)


def ask(  # noqa: PLR0913, PLR0917  # what one query needs
    name: str,
    system: AnySystem,
    dataset: Dataset,
    query_id: str,
    id_key: str | None = None,
    fetch_k: int | None = None,
) -> Answer:
    """Put one query to a system; with `fetch_k`, return only so many documents, all with texts."""
    try:
        if isinstance(system, Runnable):
            return _retrieve(system, dataset, query_id, id_key, fetch_k)
        if isinstance(system, RerankedRun):
            return _rerank(system, dataset, query_id)
        return _look_up(system, dataset, query_id, fetch_k)
    except Exception as error:
        raise failure(name, dataset, query_id, error) from error


def failure(name: str, dataset: Dataset, query_id: str, error: Exception) -> EvaluationError:
    """Build the error of a query; the caller chains the cause."""
    query = f"query '{query_id}' ({dataset.queries[query_id]:.80})"
    return EvaluationError(f"'{name}' failed on {query}: {type(error).__name__}: {error}")


def progress(name: str, dataset: Dataset, *, show: bool) -> Iterable[str]:
    """Go through the judged queries, behind a bar that has a name."""
    from tqdm.auto import tqdm

    bar: Iterable[str] = tqdm(dataset.qrels, desc=name, unit="query", disable=not show)
    return bar


def is_query_itself(dataset: Dataset, query_id: str, doc_id: str, text: str | None) -> bool:
    """Tell whether a document is the query, as in ArguAna and Quora.

    BEIR leaves out every document of the query's id. Where data sets number both from 1, that
    would be another document: so its text, where it is known, must hold the query or be part of
    it, and it must not be judged relevant.
    """
    if doc_id != query_id or dataset.qrels[query_id].get(query_id, 0) > 0:
        return False
    if text is None:
        return True
    one, other = (" ".join(words.casefold().split()) for words in (text, dataset.queries[query_id]))
    return bool(one) and (one in other or other in one)


def _look_up(run: Run, dataset: Dataset, query_id: str, fetch_k: int | None) -> Answer:
    scores, corpus = run.get(query_id, {}), dataset.corpus or {}
    texts = {one: corpus[one].page_content if one in corpus else None for one in ranking(scores)}
    ids = [one for one, text in texts.items() if not is_query_itself(dataset, query_id, one, text)]
    own = len(ids) < len(texts)
    ids = ids[:fetch_k]
    if fetch_k and (lacking := next((one for one in ids if one not in corpus), None)):
        msg = f"the run's document '{lacking}' is not in the corpus of the data set"
        raise ValueError(msg)
    documents = [corpus.get(one) or Document("", id=one) for one in ids]
    return Answer(documents, {one: (float(scores[one]), None) for one in ids}, ids, {}, own)


def _rerank(system: RerankedRun, dataset: Dataset, query_id: str) -> Answer:
    before = _look_up(system.run, dataset, query_id, system.fetch_k)
    reranker = system.reranker.model_copy(update={"top_n": None, "on_error": "raise"})
    trace = RunCollectorCallbackHandler()
    query = dataset.queries[query_id]
    found = list(reranker.compress_documents(before.documents, query, [trace]))
    seconds = {"reranking": sum(map(_seconds, trace.traced_runs))}
    return before._replace(documents=found, ranking=as_ranking(found, None), seconds=seconds)


def _retrieve(
    system: Runnable[str, list[Document]],
    dataset: Dataset,
    query_id: str,
    id_key: str | None,
    fetch_k: int | None,
) -> Answer:
    trace = RunCollectorCallbackHandler()
    start = time.perf_counter()
    documents = system.invoke(dataset.queries[query_id], {"callbacks": [trace]})
    total = time.perf_counter() - start
    if not isinstance(documents, list):
        msg = f"expected a list of documents, got {type(documents).__name__}"
        raise TypeError(msg)
    documents = documents[:fetch_k]
    steps = list(_reranking(trace.traced_runs))
    seen = steps[0].inputs.get("documents", documents) if steps else documents
    kept, candidates = (
        [
            one
            for place, one in enumerate(found)
            if not is_query_itself(dataset, query_id, _key(one, place, id_key), one.page_content)
        ]
        for found in (documents, seen)
    )
    order = as_ranking(kept, id_key)
    # A Reranker leaves a NaN out, of one passage or another.
    hidden = [score is None for score, rank in order.values() if rank is not None]
    if hidden and all(hidden):
        msg = "reranking failed, and its on_error='keep_order' hid it: set on_error='raise'"
        raise ValueError(msg)
    seconds = {"retrieval": total, "total": total}
    if steps:
        reranking = min(total, sum(map(_seconds, steps)))
        seconds = {"retrieval": total - reranking, "reranking": reranking, "total": total}
    own = len(kept) < len(documents) or len(candidates) < len(seen)
    return Answer(kept, order, list(as_ranking(candidates, id_key)), seconds, own)


def _reranking(runs: Sequence[TracedRun]) -> Iterator[TracedRun]:
    """Yield the runs of Rerankers, wherever in the tree, in order of time."""
    for run in runs:
        yield from [run] if run.name == "Reranker" else _reranking(run.child_runs)


def _seconds(run: TracedRun) -> float:
    return ((run.end_time or run.start_time) - run.start_time).total_seconds()


def as_ranking(documents: Sequence[Document], id_key: str | None) -> dict[str, Scored]:
    """Make a ranking of documents, best first."""
    found: dict[str, Scored] = {}
    for place, document in enumerate(documents):
        scored = document.metadata.get("relevance_score"), document.metadata.get("retrieval_rank")
        found.setdefault(_key(document, place, id_key), scored)
    return found


def _key(document: Any, place: int, id_key: str | None) -> str:
    check_document(document, place)
    key = document.id if id_key is None else document.metadata.get(id_key)
    if key in (None, ""):
        what = "id" if id_key is None else f"metadata field '{id_key}'"
        msg = (
            f"document {place} has no {what}, by which judgments name it: give documents the "
            "ids of the data set, or name the metadata field that holds them as id_key"
        )
        raise ValueError(msg)
    check_id(str(key))
    return str(key)
