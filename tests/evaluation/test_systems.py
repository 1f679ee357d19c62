"""Asking systems: what they return, what the reranker saw, how long each stage took."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda

from langchain_rerank import Reranker, create_rerank_retriever, index_documents
from langchain_rerank.errors import EvaluationError
from langchain_rerank.evaluation import Dataset, RerankedRun
from langchain_rerank.evaluation import systems as asked
from langchain_rerank.evaluation.results import RankedDocument
from langchain_rerank.evaluation.systems import _duration
from tests.fakes import WordOverlapCrossEncoder

QUESTION = "how high is the eiffel tower"
TEXTS = {
    "tower": "the eiffel tower is 330 metres high",
    "paris": "paris is the capital of france",
    "wine": "wine is made of grapes",
    "high": "how high is it",
}
CORPUS = {key: Document(text, id=key) for key, text in TEXTS.items()}
DATASET = Dataset({"q": QUESTION}, {"q": {"tower": 2, "wine": 0}}, CORPUS)
RUN = {"q": {"wine": 4.0, "paris": 3.0, "high": 2.0, "tower": 1.0}}


class FixedRetriever(BaseRetriever):
    """Returns what it was given."""

    documents: list[Document]

    def _get_relevant_documents(self, query, *, run_manager):
        return self.documents


class FailingCrossEncoder(WordOverlapCrossEncoder):
    def score(self, text_pairs):
        msg = "out of coffee"
        raise RuntimeError(msg)


@pytest.fixture(scope="module")
def store():
    return index_documents(
        CORPUS.values(), DeterministicFakeEmbedding(size=16), collection_name="systems"
    )


def ask(system, dataset=DATASET, **kwargs):
    asked.check_system("mine", system, dataset)
    return asked.ask("mine", system, dataset, "q", **kwargs)


def ids(answer):
    return [document.id for document in answer.ranking]


def test_retriever_that_reranks_shows_both_stages_and_its_candidates(store):
    retriever = create_rerank_retriever(store, reranker=WordOverlapCrossEncoder(), k=2, fetch_k=4)

    answer = ask(retriever)

    # "tower" holds 5 of the 6 words, "high" 3 of them, as "paris" does not.
    assert ids(answer) == ["tower", "high"]
    assert [document.score for document in answer.ranking] == pytest.approx([5 / 6, 3 / 6])
    first_stage = [one.id for one in store.similarity_search(QUESTION, k=4)]
    assert list(answer.candidates) == first_stage
    ranks = [first_stage.index(key) + 1 for key in ("tower", "high")]
    assert [document.retrieval_rank for document in answer.ranking] == ranks
    assert list(answer.seconds) == ["retrieval", "reranking", "total"]
    assert min(answer.seconds.values()) > 0
    assert answer.seconds["retrieval"] + answer.seconds["reranking"] <= answer.seconds["total"]
    assert answer.texts["tower"] == TEXTS["tower"]


def test_plain_retriever_has_no_reranking_stage(store):
    answer = ask(store.as_retriever(search_kwargs={"k": 3}))
    assert list(answer.seconds) == ["retrieval", "total"]
    assert list(answer.candidates) == ids(answer)
    assert {(one.score, one.retrieval_rank) for one in answer.ranking} == {(None, None)}


def test_reranking_is_found_inside_chains_and_cascades(store):
    inner = create_rerank_retriever(store, reranker=WordOverlapCrossEncoder(), k=3, fetch_k=4)
    cascade = create_rerank_retriever(inner, reranker=WordOverlapCrossEncoder(), k=1, fetch_k=3)
    chain = RunnableLambda(str.strip) | cascade | RunnableLambda(lambda found: found[:1])

    answer = ask(chain)

    assert ids(answer) == ["tower"]
    assert set(answer.candidates) == set(TEXTS)
    assert list(answer.seconds) == ["retrieval", "reranking", "total"]


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [
        ([(0, 3)], 3),
        ([(0, 3), (5, 6)], 4),
        ([(0, 3), (1, 2)], 3),
        ([(0, 3), (1, 5), (2, 4)], 5),
        ([(0, 3), (3, 4)], 4),
    ],
)
def test_steps_side_by_side_or_one_in_another_count_once(spans, seconds):
    start = datetime(2026, 1, 1, tzinfo=UTC)
    runs = [
        SimpleNamespace(
            start_time=start + timedelta(seconds=begin), end_time=start + timedelta(seconds=end)
        )
        for begin, end in spans
    ]
    assert _duration(runs) == seconds


def test_first_stage_that_finds_nothing_leaves_nothing_to_rerank():
    retriever = create_rerank_retriever(
        FixedRetriever(documents=[]), reranker=WordOverlapCrossEncoder()
    )
    answer = ask(retriever)
    assert answer.ranking == answer.candidates == ()
    assert "reranking" not in answer.seconds


def test_run_is_read_in_trec_evals_order():
    answer = ask({"q": {"a": 1.0, "b": 2.0, "c": 1.0}, "other": {"x": 1.0}})
    assert [(one.id, one.score) for one in answer.ranking] == [("b", 2.0), ("c", 1.0), ("a", 1.0)]
    assert answer.seconds == {}
    assert ask({"other": {"x": 1.0}}).ranking == ()


def test_reranked_run_ranks_all_candidates_and_keeps_no_more():
    reranker = Reranker(model=WordOverlapCrossEncoder(), top_n=1)

    answer = ask(RerankedRun(RUN, reranker, fetch_k=3))

    assert ids(answer) == ["high", "paris", "wine"]
    assert list(answer.candidates) == ["wine", "paris", "high"]
    assert [document.retrieval_rank for document in answer.ranking] == [3, 2, 1]
    assert list(answer.seconds) == ["reranking"]
    assert reranker.top_n == 1


def test_reranked_run_without_results_for_a_query():
    answer = ask(RerankedRun({"other": {"wine": 1.0}}, Reranker(model=WordOverlapCrossEncoder())))
    assert answer.ranking == ()


def test_first_chunk_stands_for_its_document():
    chunks = [
        Document(
            f"chunk {number}",
            id=str(number),
            metadata={"topic": topic, "retrieval_rank": 9 - number, "relevance_score": -number},
        )
        for number, topic in enumerate(["try", "for", "try", 7])
    ]
    answer = ask(FixedRetriever(documents=chunks), id_key="topic")
    assert ids(answer) == ["try", "for", "7"]
    assert answer.ranking[0] == RankedDocument("try", score=0, retrieval_rank=9)
    assert answer.texts["try"] == "chunk 0"
    assert answer.candidates == ("try", "for", "7")


def test_a_nan_score_is_no_score():
    document = Document("x", id="x", metadata={"relevance_score": float("nan")})
    assert ask(FixedRetriever(documents=[document])).ranking[0].score is None


@pytest.mark.parametrize(
    ("system", "kwargs", "message"),
    [
        (FixedRetriever(documents=[Document("x")]), {}, "document 0 has no id.*id_key"),
        (
            FixedRetriever(documents=[Document("x", id="x")]),
            {"id_key": "topic"},
            "no metadata field 'topic'",
        ),
        (RunnableLambda(lambda query: "text"), {}, "expected a list of documents, got str"),
        (RunnableLambda(lambda query: ["text"]), {}, "document 0 must be a Document"),
        (RerankedRun({"q": {"lost": 1.0}}, Reranker(model="x")), {}, "'lost' is not in the corpus"),
        ({"q": {"tower": 2.0, "wine": float("nan")}}, {}, "score of document 'wine', got NaN"),
        (RerankedRun(RUN, Reranker(model=FailingCrossEncoder())), {}, "out of coffee"),
        (
            RerankedRun(RUN, Reranker(model=FailingCrossEncoder(), on_error="keep_order")),
            {},
            "out of coffee",
        ),
        (
            create_rerank_retriever(
                FixedRetriever(documents=list(CORPUS.values())),
                reranker=Reranker(model=FailingCrossEncoder(), on_error="keep_order"),
            ),
            {},
            "on_error='raise'",
        ),
    ],
)
def test_a_failure_names_system_and_query_and_has_its_cause(system, kwargs, message):
    with pytest.raises(EvaluationError, match=f"'mine' failed on query 'q'.*{message}") as error:
        ask(system, **kwargs)
    assert error.value.__cause__ is not None


def test_ctrl_c_passes_through():
    def interrupted(query):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(RunnableLambda(interrupted))


def test_what_is_no_system_is_named():
    with pytest.raises(TypeError, match=r"'mine' must be a retriever, a run.*got str"):
        ask("bm25.trec")
    with pytest.raises(TypeError, match="name must be"):
        asked.check_system("", RUN, DATASET)
    without_corpus = Dataset(DATASET.queries, DATASET.qrels)
    with pytest.raises(ValueError, match="needs a data set with a corpus"):
        ask(RerankedRun(RUN, Reranker(model=WordOverlapCrossEncoder())), without_corpus)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"fetch_k": 0}, ValueError),
        ({"fetch_k": True}, ValueError),
        ({"run": "bm25.trec"}, TypeError),
        ({"reranker": WordOverlapCrossEncoder()}, TypeError),
    ],
)
def test_wrong_reranked_run_is_refused_at_once(changes, error):
    fields = {"run": RUN, "reranker": Reranker(model=WordOverlapCrossEncoder()), **changes}
    with pytest.raises(error, match=next(iter(changes))):
        RerankedRun(**fields)
