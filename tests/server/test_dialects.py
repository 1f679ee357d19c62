"""Each dialect's body is answered in its own shape, with the scores that the model gives here."""

from __future__ import annotations

import json
import math
from contextlib import contextmanager

import cohere
import pytest
from langchain_cohere import CohereRerank
from langchain_core.documents import Document

from langchain_rerank import TorchCrossEncoder
from langchain_rerank.server.schemas import CohereV2Reply, RerankReply, TeiResult
from tests.fakes import WordOverlapCrossEncoder
from tests.server.serving import client_of

QUERY = "How many people live in Berlin?"
PASSAGES = [
    "Berlin is well known for its museums.",
    "Berlin had a population of 3,520,031 registered inhabitants in an area of 891.82 km2.",
    "Der Hund schläft. 🐕",
    "Berlin",
    "How many people live here? Nobody knows. " * 5,
]


@pytest.fixture(scope="module")
def expected(in_process):
    return in_process.score([(QUERY, passage) for passage in PASSAGES])


@pytest.fixture(scope="module")
def order(expected):
    return sorted(range(len(PASSAGES)), key=lambda place: -expected[place])


@pytest.fixture
def overlap():
    with client_of(WordOverlapCrossEncoder()) as client:
        yield client


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_documents_come_best_first_with_the_scores_of_the_model(client, path, expected, order):
    reply = client.post(path, json={"model": "x", "query": QUERY, "documents": PASSAGES})
    assert reply.status_code == 200
    results = reply.json()["results"]
    assert [result["index"] for result in results] == order
    scores = [result["relevance_score"] for result in results]
    assert scores == pytest.approx([expected[place] for place in order], abs=1e-6)
    (CohereV2Reply if path == "/v2/rerank" else RerankReply).model_validate(reply.json())


def test_top_n_keeps_the_best(client, order):
    body = {"query": QUERY, "documents": PASSAGES}
    two = client.post("/v2/rerank", json={**body, "top_n": 2}).json()["results"]
    assert [result["index"] for result in two] == order[:2]
    many = client.post("/v2/rerank", json={**body, "top_n": 10**30}).json()["results"]
    assert len(many) == len(PASSAGES)


def test_ties_keep_the_order_of_the_request(overlap):
    documents = ["b", "a", "b", "a b", "a"]
    results = overlap.post("/v2/rerank", json={"query": "a b", "documents": documents}).json()
    assert [result["index"] for result in results["results"]] == [3, 0, 1, 2, 4]


def test_cohere_v2_has_an_id_and_meta_and_no_documents(client):
    reply = client.post("/v2/rerank", json={"query": QUERY, "documents": PASSAGES}).json()
    assert set(reply) == {"id", "results", "meta"}
    assert set(reply["results"][0]) == {"index", "relevance_score"}
    assert reply["meta"]["api_version"] == {"version": "2"}


def test_cohere_v1_takes_objects_and_gives_them_back(client):
    objects = [{"text": PASSAGES[0], "id": "a"}, PASSAGES[1], {"text": PASSAGES[2], "n": [1, {}]}]
    body = {"query": QUERY, "documents": objects}
    without = client.post("/v1/rerank", json=body).json()
    assert all("document" not in result for result in without["results"])
    given = client.post("/v1/rerank", json={**body, "return_documents": True}).json()["results"]
    by_index = {result["index"]: result["document"] for result in given}
    assert by_index == {0: objects[0], 1: {"text": PASSAGES[1]}, 2: objects[2]}


def test_rank_fields_count_in_their_order(in_process, client):
    documents = [
        {"title": "Berlin", "text": "not read", "body": "3,520,031 people live there."},
        {"body": "Museums."},
    ]
    body = {"query": QUERY, "documents": documents, "rank_fields": ["title", "body"]}
    results = client.post("/v1/rerank", json=body).json()["results"]
    texts = ["Berlin\n3,520,031 people live there.", "Museums."]
    expected = in_process.score([(QUERY, text) for text in texts])
    assert {result["index"]: result["relevance_score"] for result in results} == pytest.approx(
        dict(enumerate(expected)), abs=1e-6
    )


def test_jina_has_a_model_usage_and_documents(client, in_process):
    body = {"model": "jina-reranker-v2", "query": QUERY, "documents": PASSAGES}
    reply = client.post("/rerank", json=body).json()
    assert reply["model"] == "minilm"
    before = in_process.tokens_scored
    in_process.score([(QUERY, passage) for passage in PASSAGES])
    assert reply["usage"] == {"total_tokens": in_process.tokens_scored - before}
    assert [result["document"]["text"] for result in reply["results"]] == [
        PASSAGES[result["index"]] for result in reply["results"]
    ]
    without = client.post("/rerank", json={**body, "return_documents": False}).json()
    assert all("document" not in result for result in without["results"])


def test_tei_gives_a_sorted_list(client, expected, order):
    reply = client.post("/rerank", json={"query": QUERY, "texts": PASSAGES, "truncate": True})
    results = reply.json()
    assert [set(result) for result in results] == [{"index", "score"}] * len(PASSAGES)
    assert [result["index"] for result in results] == order
    scores = [result["score"] for result in results]
    assert scores == pytest.approx([expected[place] for place in order], abs=1e-6)
    assert [TeiResult.model_validate(result) for result in results]


def test_tei_raw_scores_are_the_logits_and_return_text_the_texts(client, cross_encoder):
    body = {"query": QUERY, "texts": PASSAGES, "raw_scores": True, "return_text": True}
    results = client.post("/rerank", json=body).json()
    logits = cross_encoder.score([(QUERY, passage) for passage in PASSAGES])
    assert min(logits) < 0 < max(logits)
    for result in results:
        assert result["score"] == pytest.approx(logits[result["index"]], abs=1e-5)
        assert result["text"] == PASSAGES[result["index"]]


def test_a_model_set_to_logits_gives_them_in_every_dialect_but_tei(checkpoint, cross_encoder):
    logits = cross_encoder.score([(QUERY, passage) for passage in PASSAGES])
    with client_of(TorchCrossEncoder(model=checkpoint, normalize=False)) as client:
        cohere_reply = client.post("/v2/rerank", json={"query": QUERY, "documents": PASSAGES})
        tei_reply = client.post("/rerank", json={"query": QUERY, "texts": PASSAGES})
    for result in cohere_reply.json()["results"]:
        assert result["relevance_score"] == pytest.approx(logits[result["index"]], abs=1e-5)
    for result in tei_reply.json():
        probability = 1 / (1 + math.exp(-logits[result["index"]]))
        assert result["score"] == pytest.approx(probability, abs=1e-6)


def test_raw_scores_of_a_model_without_logits_are_refused(overlap):
    body = {"query": "a", "texts": ["a", "b"]}
    assert [result["score"] for result in overlap.post("/rerank", json=body).json()] == [1, 0]
    refused = overlap.post("/rerank", json={**body, "raw_scores": True})
    assert refused.status_code == 422
    assert "logits" in refused.json()["message"]


def test_a_model_that_counts_no_tokens_gives_no_usage(overlap):
    reply = overlap.post("/v1/rerank", json={"query": "a", "documents": ["a"]}).json()
    assert "usage" not in reply
    assert reply["model"] == "WordOverlapCrossEncoder"


def test_odd_texts_are_scored_as_in_process(client, in_process):
    texts = ["lone \ud83d surrogate", "NUL\x00", "", "👩‍👩‍👧‍👦", "x" * 1_000_000, "\u2028"]
    # As JSON spells them, lone surrogates as well, which httpx would not send.
    body = json.dumps({"query": "a \udc00 question", "documents": texts[:4]})
    reply = client.post("/v2/rerank", content=body, headers={"content-type": "application/json"})
    expected = in_process.score([("a \udc00 question", text) for text in texts[:4]])
    assert _by_index(reply.json()) == pytest.approx(dict(enumerate(expected)), abs=1e-6)
    reply = client.post("/v2/rerank", json={"query": "q", "documents": texts[1:]})
    expected = in_process.score([("q", text) for text in texts[1:]])
    assert _by_index(reply.json()) == pytest.approx(dict(enumerate(expected)), abs=1e-6)


def _by_index(reply):
    return {result["index"]: result["relevance_score"] for result in reply["results"]}


@contextmanager
def closing(sdk):
    """Close the connections of a Cohere client, which it leaves open."""
    yield sdk
    sdk._client_wrapper.httpx_client.httpx_client.close()


def test_coheres_sdk_v2(client, expected, order):
    with closing(cohere.ClientV2("any key", base_url=str(client.base_url))) as sdk:
        reply = sdk.rerank(model="rerank-v3.5", query=QUERY, documents=PASSAGES, top_n=3)
    assert [result.index for result in reply.results] == order[:3]
    scores = [result.relevance_score for result in reply.results]
    assert scores == pytest.approx([expected[place] for place in order[:3]], abs=1e-6)
    assert reply.meta.api_version.version == "2"


def test_coheres_sdk_v1(client, order):
    documents = [{"text": passage, "place": str(i)} for i, passage in enumerate(PASSAGES)]
    with closing(cohere.Client("any key", base_url=str(client.base_url))) as sdk:
        reply = sdk.rerank(query=QUERY, documents=documents, return_documents=True)
    assert [result.index for result in reply.results] == order
    assert [result.document.text for result in reply.results] == [PASSAGES[i] for i in order]
    assert reply.meta.billed_units.search_units == 1


def test_langchain_cohere(client, expected, order):
    reranker = CohereRerank(
        cohere_api_key="any key", base_url=str(client.base_url), model="m", top_n=len(PASSAGES)
    )
    with closing(reranker.client):
        kept = reranker.compress_documents([Document(passage) for passage in PASSAGES], QUERY)
    assert [document.page_content for document in kept] == [PASSAGES[place] for place in order]
    scores = [document.metadata["relevance_score"] for document in kept]
    assert scores == pytest.approx([expected[place] for place in order], abs=1e-6)
