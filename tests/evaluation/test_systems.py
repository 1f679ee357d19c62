"""Asking systems: chunks of one document, failures, and queries that are documents themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda

from langchain_rerank import Reranker, create_rerank_retriever
from langchain_rerank.evaluation import Dataset, EvaluationError, RerankedRun
from tests.evaluation.toy import only, random_run, toy
from tests.fakes import BrokenCrossEncoder, RecordingRetriever, WordOverlapCrossEncoder

DATASET = toy()
RERANKER = Reranker(model=WordOverlapCrossEncoder(), deduplicate=False)
EVERYTHING = RunnableLambda(lambda query: DATASET.documents)
HIDDEN = Reranker(model=BrokenCrossEncoder(), on_error="keep_order")


def test_first_chunk_stands_for_its_document_and_no_text_for_many_chunks():
    chunks = [
        Document("x", id=str(n), metadata={"topic": topic, "retrieval_rank": 9 - n, **score})
        for n, (topic, score) in enumerate(
            [("try", {"relevance_score": -1}), ("for", {}), ("try", {}), (7, {})]
        )
    ]
    labelled = Dataset({"1": "first"}, {"1": {"try": 1}})
    # A NaN, which the Reranker leaves out, is no score.
    values, documents, report = only(RunnableLambda(lambda _: chunks), labelled, id_key="topic")
    assert documents["id"].tolist() == ["try", "for", "7"]
    assert documents["score"].tolist() == pytest.approx([-1, np.nan, np.nan], nan_ok=True)
    assert documents["retrieval_rank"].tolist() == [9, 8, 6]
    assert values["candidates"].tolist() == [3]
    assert report.texts == {}


@pytest.mark.parametrize(
    ("system", "settings", "message"),
    [
        (RecordingRetriever(documents=[Document("x")]), {}, "document 0 has no id.*id_key"),
        (EVERYTHING, {"id_key": "topic"}, "no metadata field 'topic'"),
        (RunnableLambda(lambda query: "text"), {}, "expected a list of documents, got str"),
        (RunnableLambda(lambda query: ["text"]), {}, "document 0 must be a Document"),
        (RecordingRetriever(documents=[Document("x", id="\0")]), {}, "an id of UTF-8, without NUL"),
        (RerankedRun({"q0": {"lost": 1.0}}, RERANKER), {}, "'lost' is not in the corpus"),
        ({"q0": {"d1": 2.0, "d2": float("nan")}}, {}, "score of document 'd2', got NaN"),
        (RerankedRun(random_run(DATASET), HIDDEN), {}, "the device is gone"),
        (create_rerank_retriever(EVERYTHING, reranker=HIDDEN), {}, "on_error='raise'"),
    ],
)
def test_a_failure_names_system_and_query_and_has_its_cause(system, settings, message):
    with pytest.raises(EvaluationError, match=f"'it' failed on query 'q0'.*{message}") as error:
        only(system, DATASET, **settings)
    assert error.value.__cause__ is not None


TEXTS = {
    "a1": "school uniforms improve discipline in class",
    "a2": "uniforms do not improve discipline",
    "b1": "zoos protect endangered animals",
    "b2": "zoos harm wild animals",
}
CORPUS = {one: Document(text, id=one, metadata={"source": one}) for one, text in TEXTS.items()}
QUERIES = {key: TEXTS[key] for key in ("a1", "b1")}
COUNTER = Dataset(QUERIES, {"a1": {"a2": 1}, "b1": {"b2": 1}}, CORPUS)
RUN = {query: {key: 1 - n / 10 for n, key in enumerate(CORPUS)} for query in QUERIES}
OWN_FIRST = {"a1": {"a1": 2.0, "a2": 1.0}, "b1": {"b1": 2.0, "b2": 1.0}}
OWN = "own document is left out"
ALL = RunnableLambda(lambda query: RERANKER.compress_documents(CORPUS.values(), query))


@pytest.mark.parametrize(
    ("system", "settings"),
    [
        (RerankedRun(RUN, RERANKER, fetch_k=3), {}),
        (ALL, {}),
        (ALL, {"id_key": "source"}),
        (OWN_FIRST, {}),
        (OWN_FIRST, {"dataset": replace(COUNTER, corpus=None)}),
    ],
)
def test_a_query_that_is_a_document_is_left_out_of_its_results(system, settings):
    values, documents, report = only(system, **{"dataset": COUNTER, **settings})
    assert set(values["nDCG@10"]) == {1}
    assert set(values["candidates"]) <= {1, 2, 3}
    assert (documents["query"] != documents["id"]).all()
    assert OWN in report.notes[0]


@pytest.mark.parametrize(
    ("own_text", "grade", "kept"),
    [
        ("Zoos  protect\nendangered animals", 0, False),
        ("On zoos: zoos protect endangered animals", 0, False),
        ("zoos protect endangered animals", 1, True),
        ("another document of that number", 0, True),
        ("", 0, True),
    ],
)
def test_only_the_query_itself_is_left_out(own_text, grade, kept):
    corpus = {"b1": Document(own_text, id="b1"), "b2": CORPUS["b2"]}
    dataset = Dataset({"b1": QUERIES["b1"]}, {"b1": {"b2": 1, "b1": grade}}, corpus)
    _, documents, report = only({"b1": {"b1": 2.0, "b2": 1.0}}, dataset)
    assert ("b1" in documents["id"].tolist()) == kept
    assert any(OWN in note for note in report.notes) != kept
