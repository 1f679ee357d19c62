"""Bodies built and replies checked, without a server."""

from __future__ import annotations

import json
import math
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_rerank.cross_encoders import dialects
from langchain_rerank.cross_encoders.dialects import DIALECTS, WrongReplyError

COHERE = DIALECTS["cohere"]
TEXTS = [{"text": "a"}, {"text": "ü"}]

# The body for two passages, a reply as the server's reference shows it, with
# what else stands in it, and the scores that it gives.
GOLDEN = {
    "cohere": (
        {"query": "q", "documents": ["a", "ü"], "top_n": 2},
        {
            "id": "07734bd2-2473-4f07-94e1-0d9f0e6843cf",
            "results": [
                {"index": 1, "relevance_score": 0.9},
                {"index": 0, "relevance_score": 0.1},
            ],
            "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
        },
        [0.1, 0.9],
    ),
    "tei": (
        {"query": "q", "texts": ["a", "ü"], "truncate": True},
        [{"index": 1, "score": 1, "text": "ü"}, {"index": 0, "score": -2.5}],
        [-2.5, 1.0],
    ),
    "voyage": (
        {"query": "q", "documents": ["a", "ü"], "top_k": 2},
        {
            "object": "list",
            "data": [
                {"index": 0, "relevance_score": 0.4375},
                {"index": 1, "relevance_score": 0.421875},
            ],
            "model": "rerank-2.5",
            "usage": {"total_tokens": 26},
        },
        [0.4375, 0.421875],
    ),
    "nvidia": (
        {"query": {"text": "q"}, "passages": TEXTS, "truncate": "END"},
        {"rankings": [{"index": 1, "logit": 0.0}, {"index": 0, "logit": -1.2421875}]},
        [1 / (1 + math.exp(1.2421875)), 0.5],
    ),
    "pinecone": (
        {
            "query": "q",
            "documents": TEXTS,
            "top_n": 2,
            "return_documents": False,
            "parameters": {"truncate": "END"},
        },
        {
            "model": "bge-reranker-v2-m3",
            "data": [{"index": 1, "score": 0.48357219}, {"index": 0, "score": 0.048405956}],
            "usage": {"rerank_units": 1},
        },
        [0.048405956, 0.48357219],
    ),
    "llamacpp": (
        {"query": "q", "documents": ["a", "ü"], "top_n": 2},
        {
            "model": "bge-reranker",
            "object": "list",
            "usage": {"prompt_tokens": 42, "total_tokens": 42},
            "results": [
                {"index": 0, "relevance_score": 7.741800308227539},
                {"index": 1, "relevance_score": -11.016427993774414},
            ],
        },
        [1 / (1 + math.exp(-7.741800308227539)), 1 / (1 + math.exp(11.016427993774414))],
    ),
}


def cohere(*results: object) -> bytes:
    return json.dumps({"results": results}).encode()


def result(index: object, score: object = 0.5) -> dict[str, object]:
    return {"index": index, "relevance_score": score}


@pytest.mark.parametrize("name", DIALECTS)
def test_each_dialects_body_and_reply(name):
    dialect = DIALECTS[name]
    expected, reply, scores = GOLDEN[name]
    assert dialect.fields("q", ["a", "ü"]) == expected
    found = dialects.scores(dialect, json.dumps(reply).encode(), 2)
    assert found == pytest.approx(scores, rel=1e-12)
    assert [type(score) for score in found] == [float, float]


def test_logits_far_apart_stay_in_order_and_finite():
    scores = dialects.scores(
        DIALECTS["llamacpp"], cohere(*(result(n, 10.0**n) for n in range(3)), result(3, -1e308)), 4
    )
    assert scores == [*sorted(scores[:3]), 0.0]
    assert max(scores) <= 1


@given(
    pairs=st.lists(st.tuples(st.sampled_from("abc"), st.text(max_size=3))),
    max_documents=st.integers(1, 5),
)
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
        (b"", "0 bytes; the reply: Invalid JSON"),
        (b'{"results": [{"index": 0, "relev', "Invalid JSON"),
        (b"\xff\xfe\xff", "Invalid JSON"),
        (b"[" * 100_000, "Invalid JSON: recursion"),
        (b"1" * 5000, "Invalid JSON"),
        (b"null", "should be an object"),
        (b'[{"index": 0, "score": 1}]', "should be an object"),
        (b'{"data": []}', "results: Field required"),
        (cohere(), r"2 results, each index from 0 to 1 once, got \[\]"),
        (cohere(result(0)), r"got \[0\]"),
        (cohere(result(0), result(1), result(2)), r"got \[0, 1, 2\]"),
        (cohere(result(0), result(0)), r"got \[0, 0\]"),
        (cohere(result(0), result(-1)), r"got \[0, -1\]"),
        (cohere(result(0), result(10**300)), r"got \[0, 1000"),
        (cohere(result(0), result(True)), r"results.1.index: .* integer"),  # noqa: FBT003  # JSON's true
        (cohere(result(0), result(1.0)), r"results.1.index: .* integer"),
        (cohere(result(0), result(None)), r"results.1.index: .* integer"),
        (cohere(result(0), 7), r"results.1: .* object"),
        (
            cohere(result(0), {"index": 1, "text": "hush"}),
            r"results.1.relevance_score: .* required",
        ),
        (cohere(result(0), result(1, "hush")), r"results.1.relevance_score: .* number"),
        (cohere(result(0), result(1, True)), r"results.1.relevance_score: .* number"),  # noqa: FBT003
        (cohere(result(0), result(1, float("nan"))), "finite number"),
        (cohere(result(0), result(1, float("-inf"))), "finite number"),
        (cohere(result(0), result(1, 10**400)), "finite number"),
    ],
)
def test_a_wrong_reply_is_told_apart(reply, message):
    with pytest.raises(WrongReplyError, match=message) as caught:
        dialects.scores(COHERE, reply, 2)
    assert len(str(caught.value)) < 400
    assert "hush" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b'{"message": "invalid api token"}', "invalid api token"),
        (b'{"id": "x", "message": "too\\nmany\\u0000 tokens"}', "too many tokens"),
        (b'{"error": "Batch size", "error_type": "Validation"}', "Batch size"),
        (b'{"error": {"message": "no such model", "code": 404}}', "no such model"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b'{"detail": [{"msg": "Field required", "input": {"q": "private"}}]}', "Field required"),
        (b"upstream is down", "upstream is down"),
        (b"<html><h1>502</h1></html>", ""),
        (b'{"status": 3}', ""),
        (b"", ""),
        (b"[" * 100_000, "[" * 100_000),
    ],
)
def test_what_a_server_says_about_an_error_is_found(reply, message):
    assert dialects.error_message(reply) == message
