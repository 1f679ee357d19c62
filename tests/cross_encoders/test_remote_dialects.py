"""Bodies built and replies checked, without a server."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_rerank.cross_encoders import remote_dialects
from langchain_rerank.cross_encoders.remote_dialects import Part, WrongReplyError

PART = Part("q", [0, 1], ["a", "ü"])


def cohere(*results: object) -> bytes:
    return json.dumps({"results": results}).encode()


def result(index: object, score: object = 0.5) -> dict[str, object]:
    return {"index": index, "relevance_score": score}


def test_the_bodies():
    body = remote_dialects.body("cohere", PART, "m", {"max_tokens_per_doc": 9})
    assert json.loads(body) == {
        "model": "m",
        "query": "q",
        "documents": ["a", "ü"],
        "top_n": 2,
        "max_tokens_per_doc": 9,
    }
    body = remote_dialects.body("tei", PART, None, {"raw_scores": True})
    expected = {"query": "q", "texts": ["a", "ü"], "truncate": True, "raw_scores": True}
    assert json.loads(body) == expected
    assert json.loads(remote_dialects.body("tei", PART, None, {"truncate": False})) == {
        "query": "q",
        "texts": ["a", "ü"],
        "truncate": False,
    }


@given(
    pairs=st.lists(st.tuples(st.sampled_from("abc"), st.text(max_size=3))),
    max_documents=st.integers(1, 5),
)
def test_every_pair_is_sent_once_with_its_query_in_even_parts(pairs, max_documents):
    parts = remote_dialects.split(pairs, max_documents)
    sent = [
        (position, part.query, passage)
        for part in parts
        for position, passage in zip(part.positions, part.passages, strict=True)
    ]
    assert sorted(sent) == [(at, query, text) for at, (query, text) in enumerate(pairs)]
    for query in "abc":
        sizes = [len(part.passages) for part in parts if part.query == query]
        count = sum(sizes)
        assert len(sizes) == -(-count // max_documents)
        assert not sizes or max(sizes) - min(sizes) <= 1


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1), st.randoms())
def test_scores_come_back_in_the_order_in_which_they_were_sent(scores, shuffle: random.Random):
    results = [result(index, score) for index, score in enumerate(scores)]
    shuffle.shuffle(results)
    assert remote_dialects.scores("cohere", cohere(*results), len(scores)) == scores


def test_whole_numbers_are_scores_and_more_fields_are_left_aside():
    reply = b'[{"index": 1, "score": 1, "text": "b"}, {"index": 0, "score": -2.5}]'
    scores = remote_dialects.scores("tei", reply, 2)
    assert scores == [-2.5, 1.0]
    assert [type(score) for score in scores] == [float, float]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"", "0 bytes that are not JSON"),
        (b'{"results": [{"index": 0, "relev', "not JSON"),
        (b"\xff\xfe\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"1" * 5000, "not JSON"),
        (b"null", "got NoneType"),
        (b'[{"index": 0, "score": 1}]', "got list"),
        (b'{"data": []}', r"keys \['data'\]"),
        (cohere(), "expected 2 results, one a document, got 0"),
        (cohere(result(0)), "expected 2 results, one a document, got 1"),
        (cohere(result(0), result(1), result(2)), "got 3"),
        (cohere(result(0), result(0)), "each index once, got 0 twice"),
        (cohere(result(0), result(2)), "from 0 to 1, got 2"),
        (cohere(result(0), result(-1)), "from 0 to 1, got -1"),
        (cohere(result(0), result(10**300)), "from 0 to 1, got 1000"),
        (cohere(result(0), result(True)), "int as index, got bool"),  # noqa: FBT003  # JSON's true
        (cohere(result(0), result(1.0)), "int as index, got float"),
        (cohere(result(0), result(None)), "int as index, got NoneType"),
        (cohere(result(0), 7), "got int"),
        (cohere(result(0), result(1, None)), "relevance_score, got NoneType"),
        (cohere(result(0), result(1, "0.5")), "relevance_score, got str"),
        (cohere(result(0), result(1, True)), "relevance_score, got bool"),  # noqa: FBT003
        (cohere(result(0), result(1, float("nan"))), "finite relevance_score, got nan"),
        (cohere(result(0), result(1, float("-inf"))), "finite relevance_score, got -inf"),
        (cohere(result(0), result(1, 10**400)), "finite relevance_score, got inf"),
    ],
)
def test_a_wrong_reply_is_told_apart(reply, message):
    with pytest.raises(WrongReplyError, match=message) as caught:
        remote_dialects.scores("cohere", reply, 2)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b'{"message": "invalid api token"}', "invalid api token"),
        (b'{"id": "x", "message": "too\\nmany\\u0000 tokens"}', "too many tokens"),
        (b'{"error": "Batch size", "error_type": "Validation"}', "Batch size"),
        (b'{"error": {"message": "no such model", "code": 404}}', "no such model"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (
            b'{"detail": [{"loc": ["body"], "msg": "Field required", "input": {"q": "private"}}]}',
            "Field required",
        ),
        (b"upstream is down", "upstream is down"),
        (b"<html><h1>502</h1></html>", ""),
        (b'{"status": 3}', ""),
        (b"", ""),
        (b"[" * 100_000, "[" * 100_000),
    ],
)
def test_what_a_server_says_about_an_error_is_found(reply, message):
    assert remote_dialects.error_message(reply) == message
    assert len(remote_dialects.trimmed(message)) <= 301
