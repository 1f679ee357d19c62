"""Bodies built, and replies checked."""

from __future__ import annotations

import json
import math
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_rerank import RemoteCrossEncoder
from langchain_rerank.cross_encoders import dialects
from langchain_rerank.cross_encoders.dialects import DIALECTS
from tests.stand_ins import as_json

COHERE = DIALECTS["cohere"]
TEXTS = [{"text": "a"}, {"text": "ü"}]


def result(index, score=0.5):
    return {"index": index, "relevance_score": score}


def cohere(*results):
    return json.dumps({"results": results}).encode()


# The path, the body for two passages, a reply as the server's reference shows it, with what else
# stands in it, and the scores that it gives.
GOLDEN = {
    "cohere": (
        "/rerank",
        {"query": "q", "documents": ["a", "ü"], "top_n": 2},
        {"id": "07734bd2", "results": [result(1, 0.9), result(0, 0.1)], "meta": {"units": 1}},
        [0.1, 0.9],
    ),
    "tei": (
        "/rerank",
        {"query": "q", "texts": ["a", "ü"], "truncate": True},
        [{"index": 1, "score": 1, "text": "ü"}, {"index": 0, "score": -2.5}],
        [-2.5, 1.0],
    ),
    "voyage": (
        "/v1/rerank",
        {"query": "q", "documents": ["a", "ü"], "top_k": 2},
        {"object": "list", "data": [result(0, 0.4375), result(1, 0.421875)], "model": "rerank-2.5"},
        [0.4375, 0.421875],
    ),
    "nvidia": (
        "/v1/ranking",
        {"query": {"text": "q"}, "passages": TEXTS, "truncate": "END"},
        {"rankings": [{"index": 1, "logit": 0.0}, {"index": 0, "logit": -1.2421875}]},
        [1 / (1 + math.exp(1.2421875)), 0.5],
    ),
    "pinecone": (
        "/rerank",
        {
            "query": "q",
            "documents": TEXTS,
            "top_n": 2,
            "return_documents": False,
            "parameters": {"truncate": "END"},
        },
        {"data": [{"index": 1, "score": 0.48357219}, {"index": 0, "score": 0.048405956}]},
        [0.048405956, 0.48357219],
    ),
    "llamacpp": (
        "/rerank",
        {"query": "q", "documents": ["a", "ü"], "top_n": 2},
        {"object": "list", "results": [result(0, 7.741800308227539), result(1, -11.0)]},
        [1 / (1 + math.exp(-7.741800308227539)), 1 / (1 + math.exp(11.0))],
    ),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_each_dialects_request_and_reply(server, name):
    path, body, reply, scores = GOLDEN[name]
    server.always = lambda request: as_json(reply)
    remote = RemoteCrossEncoder(url=server.url, dialect=name, api_key="k")
    found = remote.score([("q", "a"), ("q", "ü")])
    assert found == pytest.approx(scores, rel=1e-12)
    assert [type(score) for score in found] == [float, float]
    (request,) = server.requests
    assert (request.method, request.target, request.body) == ("POST", path, body)
    keys = {header: request.headers.get(header) for header in ("authorization", "api-key")}
    for_pinecone = {"authorization": None, "api-key": "k"}
    others = {"authorization": "Bearer k", "api-key": None}
    assert keys == (for_pinecone if name == "pinecone" else others)
    assert request.headers.get("x-pinecone-api-version") == {"pinecone": "2026-07"}.get(name)
    assert request.headers["content-type"] == request.headers["accept"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"


def test_logits_far_apart_stay_in_order_and_finite():
    reply = cohere(*(result(n, 10.0**n) for n in range(3)), result(3, -1e308))
    scores = dialects.scores(DIALECTS["llamacpp"], reply, 4)
    assert scores == [*sorted(scores[:3]), 0.0]
    assert max(scores) <= 1


@given(st.lists(st.tuples(st.sampled_from("abc"), st.text(max_size=1))), st.integers(1, 5))
def test_every_pair_is_sent_once_with_its_query_in_even_requests(pairs, max_documents):
    requests = list(dialects.split(pairs, max_documents))
    assert sorted(at for _, positions in requests for at in positions) == list(range(len(pairs)))
    assert all(pairs[at][0] == query for query, positions in requests for at in positions)
    for query in "abc":
        sizes = [len(positions) for one, positions in requests if one == query]
        assert len(sizes) == -(-sum(sizes) // max_documents)
        assert not sizes or max(sizes) - min(sizes) <= 1


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1), st.randoms())
def test_scores_come_back_in_the_order_in_which_they_were_sent(scores, shuffle):
    results = [result(index, score) for index, score in enumerate(scores)]
    shuffle.shuffle(results)
    assert dialects.scores(COHERE, cohere(*results), len(scores)) == scores


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        *(
            (reply, "Invalid JSON")
            for reply in (b"", b'{"results": [{"index": 0, "re', b"\xff\xfe")
        ),
        (b"[" * 100_000, "Invalid JSON: recursion"),
        *((reply, "should be an object") for reply in (b"null", b'[{"index": 0, "score": 1}]')),
        (b'{"data": []}', "results: Field required"),
        (cohere(), r"2 results, each index from 0 to 1 once, got \[\]"),
        (cohere(result(0), result(1), result(2)), r"got \[0, 1, 2\]"),
        *((cohere(result(0), result(n)), rf"got \[0, {n}\]") for n in (0, -1, 2)),
        *(
            (cohere(result(0), result(index)), r"results.1.index: .* integer")
            for index in (True, 1.0, None, "hush")
        ),
        (cohere(result(0), 7), r"results.1: .* object"),
        (cohere(result(0), {"index": 1, "text": "hush"}), r"1.relevance_score: .* required"),
        *(
            (cohere(result(0), result(1, score)), r"results.1.relevance_score: .* number")
            for score in ("hush", True, float("nan"), float("-inf"), 10**400)
        ),
    ],
)
def test_a_wrong_reply_is_told_apart(reply, message):
    with pytest.raises(ValueError, match=message) as caught:
        dialects.scores(COHERE, reply, 2)
    assert len(str(caught.value)) < 400
    assert "hush" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b'{"id": "x", "message": "too\\nmany\\u0000 \\"tokens\\""}', 'too many "tokens"'),
        (b'{"error": "Batch size", "error_type": "Validation"}', "Batch size"),
        (b'{"error": {"message": "no such model", "code": 404}}', "no such model"),
        (b'{"detail": [{"msg": "Field required", "input": {"q": "private"}}]}', "Field required"),
        (b"upstream is down", "upstream is down"),
        *((reply, "") for reply in (b"<html>502</html>", b'{"status": 3}', b'{"error": "\\q"}')),
        *((reply, "") for reply in (b"", b"[" * 100_000)),
    ],
)
def test_what_a_server_says_about_an_error_is_found(reply, message):
    assert dialects.error_message(reply) == message
