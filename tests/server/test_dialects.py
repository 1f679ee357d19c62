"""Each dialect's body is answered in its own shape, with the scores that the model gives here."""

from __future__ import annotations

import json
from contextlib import closing

import cohere
import pytest
from langchain_cohere import CohereRerank
from langchain_core.documents import Document

from langchain_rerank.server.schemas import RerankReply, TeiResult
from tests.fakes import WordOverlapCrossEncoder
from tests.server.serving import JSON, PATHS, client_of

QUERY = "How many people live in Berlin?"
PASSAGES = [
    "Berlin is well known for its museums.",
    "Berlin had a population of 3,520,031 registered inhabitants in an area of 891.82 km2.",
    "Der Hund schläft. 🐕",
    "Berlin",
    "How many people live here? Nobody knows. " * 5,
]
BODY = {"query": QUERY, "documents": PASSAGES}


def by_index(results, score="relevance_score"):
    return pytest.approx({result["index"]: result[score] for result in results}, abs=1e-5)


@pytest.fixture(scope="module")
def expected(in_process):
    return in_process.score([(QUERY, passage) for passage in PASSAGES])


@pytest.fixture(scope="module")
def order(expected):
    return sorted(range(len(PASSAGES)), key=lambda place: -expected[place])


@pytest.fixture(scope="module")
def overlap():
    with client_of(WordOverlapCrossEncoder()) as client:
        yield client


def test_documents_come_best_first_with_the_scores_of_the_model(client, expected, order):
    for path in PATHS:
        reply = client.post(path, json={"model": "any", **BODY}).json()
        assert [result["index"] for result in reply["results"]] == order
        assert dict(enumerate(expected)) == by_index(reply["results"])
        assert RerankReply.model_validate(reply).model == "minilm"
    for most in (2, 10**30):
        best = client.post("/v2/rerank", json={**BODY, "top_n": most}).json()["results"]
        assert [result["index"] for result in best] == order[:most]


def test_ties_keep_the_order_of_the_request(overlap):
    documents = ["b", "a", "b", "a b", "a"]
    reply = overlap.post("/v2/rerank", json={"query": "a b", "documents": documents}).json()
    assert [result["index"] for result in reply["results"]] == [3, 0, 1, 2, 4]
    assert reply["model"] == "WordOverlapCrossEncoder"


@pytest.mark.parametrize(
    ("path", "wish", "given"),
    [
        ("/v1/rerank", {}, False),
        ("/v1/rerank", {"return_documents": None}, False),
        ("/v1/rerank", {"return_documents": True}, True),
        ("/v2/rerank", {}, False),
        ("/rerank", {}, True),
        ("/rerank", {"return_documents": None}, True),
        ("/rerank", {"return_documents": False}, False),
    ],
)
def test_documents_are_given_back_whole_by_default_of_the_dialect(overlap, path, wish, given):
    objects = [{"text": "a", "id": "x"}, "b", {"text": "c", "n": [1, {}], "o": None}]
    body = {"query": "q", "documents": objects, **wish}
    results = overlap.post(path, json=body).json()["results"]
    found = {result["index"]: result.get("document") for result in results}
    whole = {0: objects[0], 1: {"text": "b"}, 2: objects[2]}
    assert found == (whole if given else dict.fromkeys(range(3)))


def test_rank_fields_count_in_their_order(overlap):
    documents = [{"title": "a b", "text": "c", "body": "d"}, {"body": "c"}, {"body": "d"}]
    body = {"query": "b d", "documents": documents, "rank_fields": ["title", "body"]}
    results = overlap.post("/v1/rerank", json=body).json()["results"]
    assert by_index(results) == {0: 1.0, 1: 0.0, 2: 0.5}


def test_tei_gives_a_sorted_list_of_scores_with_texts_if_asked_and_logits_if_it_has_them(
    client, expected, order, cross_encoder
):
    body = {"query": QUERY, "texts": PASSAGES, "truncate": True}
    results = client.post("/rerank", json=body).json()
    assert [set(result) for result in results] == [{"index", "score"}] * len(PASSAGES)
    assert [TeiResult.model_validate(result).index for result in results] == order
    assert dict(enumerate(expected)) == by_index(results, "score")
    results = client.post("/rerank", json={**body, "return_text": True}).json()
    assert [result["text"] for result in results] == [PASSAGES[place] for place in order]
    refused = client.post("/rerank", json={**body, "raw_scores": True})
    assert (refused.status_code, "logits" in refused.text) == (422, True)
    with client_of(cross_encoder) as of_logits:
        results = of_logits.post("/rerank", json={**body, "raw_scores": True}).json()
    logits = cross_encoder.score([(QUERY, passage) for passage in PASSAGES])
    assert dict(enumerate(logits)) == by_index(results, "score")


def test_odd_texts_are_scored_as_in_process(client, in_process):
    query = "a \udc00 question"
    texts = ["lone \ud83d surrogate", "NUL\x00", "", "👩‍👩‍👧‍👦", "\u2028", "x" * 1_000_000]
    # As Python spells them in JSON, lone surrogates as well, which httpx would not send.
    body = json.dumps({"query": query, "documents": texts})
    reply = client.post("/v2/rerank", content=body, headers=JSON)
    scores = in_process.score([(query, text) for text in texts])
    assert dict(enumerate(scores)) == by_index(reply.json()["results"])


def test_coheres_sdks_and_langchain_cohere(client, expected, order):
    url, best = str(client.base_url), sorted(expected, reverse=True)
    sdk = cohere.ClientV2("any key", base_url=url)
    with closing(sdk._client_wrapper.httpx_client.httpx_client):
        reply = sdk.rerank(model="rerank-v3.5", query=QUERY, documents=PASSAGES, top_n=3)
    assert [result.index for result in reply.results] == order[:3]
    scores = [result.relevance_score for result in reply.results]
    assert scores == pytest.approx(best[:3], abs=1e-6)
    assert reply.meta.api_version.version == "2"
    objects = [{"text": passage, "place": str(i)} for i, passage in enumerate(PASSAGES)]
    older = cohere.Client("any key", base_url=url)
    with closing(older._client_wrapper.httpx_client.httpx_client):
        reply = older.rerank(query=QUERY, documents=objects, return_documents=True)
    assert [result.document.text for result in reply.results] == [PASSAGES[i] for i in order]
    assert reply.meta.billed_units.search_units == 1
    reranker = CohereRerank(cohere_api_key="any key", base_url=url, model="m", top_n=5)
    with closing(reranker.client._client_wrapper.httpx_client.httpx_client):
        kept = reranker.compress_documents([Document(passage) for passage in PASSAGES], QUERY)
    assert [document.page_content for document in kept] == [PASSAGES[place] for place in order]
    scores = [document.metadata["relevance_score"] for document in kept]
    assert scores == pytest.approx(best, abs=1e-6)
