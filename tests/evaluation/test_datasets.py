"""Data sets made by hand, and what is wrong with bad ones."""

from __future__ import annotations

import pytest
from langchain_core.documents import Document

from langchain_rerank.chroma import document_id
from langchain_rerank.evaluation import Dataset

QUERIES = {"q1": "Which city?", "q2": "Which river?"}
QRELS = {"q1": {"d1": 1}, "q2": {"d2": 2, "d1": 0}}
CORPUS = {key: Document(key, id=key) for key in ("d1", "d2")}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"queries": {}}, ValueError, "queries must not be empty"),
        ({"qrels": {}}, ValueError, "qrels must not be empty"),
        ({"corpus": {}}, ValueError, "corpus must not be empty"),
        ({"queries": ["Which?"]}, TypeError, "queries must be a mapping by id, got list"),
        ({"queries": {**QUERIES, "q4": "\n"}}, ValueError, "query 'q4' must hold text"),
        ({"queries": {**QUERIES, "q4": 4}}, TypeError, "query 'q4' must be a str, got int"),
        ({"queries": {**QUERIES, "\ud800": "?"}}, ValueError, "an id of UTF-8"),
        ({"qrels": {"q4": {"d1": 1}}}, ValueError, "the query 'q4', which is not in queries"),
        ({"qrels": {"q1": {"d4": 1}}}, ValueError, "query 'q1' names the document 'd4'"),
        ({"qrels": {"q1": {"d\0": 1}}, "corpus": None}, ValueError, "an id of .* without NUL"),
        ({"qrels": {"q1": {"d1": 1.0}}}, TypeError, "'d1' for query 'q1' must be an int, got fl"),
        ({"qrels": {"q1": {"d1": 2**62}}}, ValueError, "at most 1,000,000"),
        ({"qrels": {"q1": {"d1": -(2**70)}}}, ValueError, "at most 1,000,000"),
        ({"corpus": {"d1": "A city."}}, TypeError, "document 0 must be a Document"),
        ({"corpus": {"d1": Document("x")}, "partial_corpus": True}, ValueError, "id 'd1'.*None"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        Dataset(**{"queries": QUERIES, "qrels": QRELS, "corpus": CORPUS, **change})


def test_questions_from_lists_take_the_ids_that_the_index_gives():
    documents = [Document("A city.", metadata={"source": "a"}), Document("A river.", id="river")]
    before = [document.model_copy(deep=True) for document in documents]
    city = document_id(documents[0])
    questions = [("Which city?", [city]), ("Which river?", {"river": 3, city: 0})]
    dataset = Dataset.from_questions(questions, documents)
    assert dataset.queries == {"1": "Which city?", "2": "Which river?"}
    assert dataset.qrels == {"1": {city: 1}, "2": {"river": 3, city: 0}}
    assert [document.id for document in dataset.documents] == [city, "river"]
    assert documents == before
    with pytest.raises(ValueError, match="document 1 has the id 'a'"):
        Dataset.from_questions([("Which?", ["a"])], [Document(one, id="a") for one in "xy"])
    with pytest.raises(TypeError, match="question 2 must be a list or dict, got a str"):
        Dataset.from_questions([("Which?", ["a"]), ("Who?", "a")])


def test_subsets_and_judged_queries():
    dataset = Dataset(QUERIES, {"q2": {}, "q1": {"d1": 0}}, CORPUS)
    assert dataset.judged() == dataset.subset(["q1"])
    assert (dataset.judged().qrels, dataset.judged().corpus) == ({"q1": {"d1": 0}}, CORPUS)
    for call, message in (
        (lambda: dataset.subset(["q3"]), "'q3', which is none"),
        (Dataset(QUERIES, {"q2": {}}).judged, r"no query of Dataset\(.* has a judgment"),
        (lambda: Dataset(QUERIES, QRELS).documents, "without a corpus"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
