"""What a remote cross encoder sends, how its settings are checked, and who may use it at once."""

from __future__ import annotations

import asyncio
import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from cohere.v2.types.v2rerank_response import V2RerankResponse
from langchain_core.stores import InMemoryByteStore
from pydantic import ValidationError

from langchain_rerank import CachedCrossEncoder, RemoteCrossEncoder
from tests.fakes import WordOverlapCrossEncoder
from tests.stand_ins import StandIn, as_json

PAIRS = [("red fish", "red"), ("blue", "blue"), ("red fish", "fish red"), ("red fish", "no")]
SCORES = [0.5, 1.0, 1.0, 0.0]


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch):
    for name in ("LANGCHAIN_RERANK_API_KEY", "COHERE_API_KEY", "CO_API_KEY", "JINA_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with StandIn() as server:
        yield server


def test_a_request_of_coheres_shape(server):
    cross_encoder = RemoteCrossEncoder(url=server.url, model="m", api_key="k", extra_body={"x": 1})
    assert cross_encoder.score(PAIRS) == SCORES
    one, another = sorted(server.requests, key=lambda request: request.body["query"])
    assert one.body == {"model": "m", "query": "blue", "documents": ["blue"], "top_n": 1, "x": 1}
    assert another.body["documents"] == ["red", "fish red", "no"]
    assert (one.method, one.target) == ("POST", "/rerank")
    assert one.headers["authorization"] == "Bearer k"
    assert one.headers["content-type"] == one.headers["accept"] == "application/json"


def test_a_request_of_teis_shape():
    with StandIn("tei") as server:
        cross_encoder = RemoteCrossEncoder(url=f"{server.url}/x/rerank?a=b", dialect="tei")
        assert cross_encoder.score(PAIRS[:1]) == SCORES[:1]
    (request,) = server.requests
    assert request.body == {"query": "red fish", "texts": ["red"], "truncate": True}
    assert request.target == "/x/rerank?a=b"
    assert "authorization" not in request.headers


def test_coheres_own_models_read_what_its_stand_in_answers(server, monkeypatch):
    monkeypatch.setenv("COHERE_API_KEY", "from-the-environment")
    monkeypatch.setenv("LANGCHAIN_RERANK_API_KEY", "for another server")
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    reply = server.reply([0.1, 0.9], id="07734bd2-2473-4f07-94e1-0d9f0e6843cf", meta=meta)
    read = V2RerankResponse.model_validate_json(reply.body)
    assert [result.relevance_score for result in read.results] == [0.9, 0.1]
    assert read.meta.billed_units.search_units == 1
    server.always = lambda request: reply
    cross_encoder = RemoteCrossEncoder.cohere(
        url=f"{server.url}/v2/rerank", extra_body={"max_tokens_per_doc": 512}
    )
    scores = cross_encoder.score([("q", "a"), ("q", "b")])
    by_index = {result.index: result.relevance_score for result in read.results}
    assert scores == [by_index[0], by_index[1]]
    (request,) = server.requests
    assert request.target == "/v2/rerank"
    assert request.headers["authorization"] == "Bearer from-the-environment"
    assert request.body == {
        "model": "rerank-v3.5",
        "query": "q",
        "documents": ["a", "b"],
        "top_n": 2,
        "max_tokens_per_doc": 512,
    }


def test_coheres_sdk_sends_the_same_request(server):
    from cohere import ClientV2

    client = ClientV2(api_key="k", base_url=server.url)
    read = client.rerank(model="rerank-v3.5", query="q", documents=["a", "q"], top_n=2)
    ours = RemoteCrossEncoder.cohere(url=f"{server.url}/v2/rerank", api_key="k")
    assert ours.score([("q", "a"), ("q", "q")]) == [0.0, 1.0]
    assert [result.index for result in read.results] == [1, 0]
    theirs, own = server.requests
    assert (own.method, own.target, own.body) == (theirs.method, theirs.target, theirs.body)
    assert own.headers["authorization"] == theirs.headers["authorization"]


def test_jinas_request_and_reply(server, monkeypatch):
    monkeypatch.setenv("JINA_API_KEY", "jina_key")
    server.always = lambda request: server.reply(
        [0.25, 0.75], model="m", usage={"total_tokens": 815, "prompt_tokens": 815}
    )
    cross_encoder = RemoteCrossEncoder.jina(url=f"{server.url}/v1/rerank")
    assert cross_encoder.score([("q", "a"), ("q", "b")]) == [0.25, 0.75]
    (request,) = server.requests
    assert request.target == "/v1/rerank"
    assert request.headers["authorization"] == "Bearer jina_key"
    assert request.body == {
        "model": "jina-reranker-v2-base-multilingual",
        "query": "q",
        "documents": ["a", "b"],
        "top_n": 2,
        "return_documents": False,
    }


def test_the_hosted_services_addresses_and_keys(monkeypatch):
    assert RemoteCrossEncoder.cohere(api_key="k").url == "https://api.cohere.com/v2/rerank"
    assert RemoteCrossEncoder.jina(api_key="k").url == "https://api.jina.ai/v1/rerank"
    monkeypatch.setenv("LANGCHAIN_RERANK_API_KEY", "for another server")
    with pytest.raises(ValueError, match="COHERE_API_KEY or CO_API_KEY"):
        RemoteCrossEncoder.cohere()
    with pytest.raises(ValueError, match="JINA_API_KEY"):
        RemoteCrossEncoder.jina(api_key="")
    monkeypatch.setenv("CO_API_KEY", "the SDK's".replace(" ", "-"))
    assert RemoteCrossEncoder.cohere().api_key.get_secret_value() == "the-SDK's"


def test_the_key_comes_from_the_environment_unless_there_are_other_credentials(monkeypatch):
    monkeypatch.setenv("LANGCHAIN_RERANK_API_KEY", "env")
    url = "http://host"
    assert RemoteCrossEncoder(url=url).api_key.get_secret_value() == "env"
    assert RemoteCrossEncoder(url=url, api_key=None).api_key.get_secret_value() == "env"
    assert RemoteCrossEncoder(url=url, api_key="own").api_key.get_secret_value() == "own"
    assert RemoteCrossEncoder(url=url, headers={"Authorization": "x"}).api_key is None
    assert RemoteCrossEncoder(url="http://user:pw@host").api_key is None
    assert RemoteCrossEncoder(url=url, api_key="").api_key.get_secret_value() == ""


def test_user_and_password_of_the_url_are_sent_by_basic_authentication(server):
    url = server.url.replace("http://", "http://ann:p%40ss@")
    assert RemoteCrossEncoder(url=url).score(PAIRS) == SCORES
    assert server.requests[0].headers["authorization"] == "Basic YW5uOnBAc3M="
    RemoteCrossEncoder(url=server.url, api_key="", headers={"X-Team": "a b"}).score(PAIRS)
    assert server.requests[-1].headers["x-team"] == "a b"
    assert "authorization" not in server.requests[-1].headers


def test_large_groups_are_split_and_sent_at_most_so_many_at_once(server):
    cross_encoder = RemoteCrossEncoder(url=server.url, max_documents=3, max_concurrency=2)
    # Both of the first two wait until the other is there: they run at once.
    barrier = Barrier(2, timeout=10)

    def meet(request):
        barrier.wait()
        return server.good(request)

    server.faults = [meet, meet]
    pairs = [("red fish", "red" if number % 2 else "none") for number in range(20)]
    assert cross_encoder.score(pairs) == [0.5 * (number % 2) for number in range(20)]
    assert sorted(len(request.body["documents"]) for request in server.requests) == [2] + [3] * 6
    assert server.most_at_once == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "ftp://ann:hush@host"}, "scheme 'ftp'"),
        ({"url": "http://ann:hu/sh@host"}, "http"),
        ({"url": "ann:hush@host:80"}, "scheme"),
        ({"url": "http://"}, "without a host"),
        ({"url": ""}, "at least one server"),
        ({"url": []}, "at least one server"),
        ({"url": ["http://ok", "hush\n"]}, "like"),
        ({"api_key": "hush\n"}, "printable ASCII without spaces"),
        ({"api_key": "hush hush"}, "printable ASCII without spaces"),
        ({"api_key": "hüsh"}, "printable ASCII without spaces"),
        ({"headers": {"X": "hush\r\nY: 1"}}, "header X must be printable ASCII"),
        ({"headers": {"X:": "hush"}}, "names of letters"),
        ({"apikey": "hush"}, "Extra inputs"),
        ({"extra_body": {"query": "hush"}}, r"can't set \['query'\]"),
        ({"extra_body": {"x": float("nan")}}, "must be JSON"),
        ({"extra_body": {"x": b"hush"}}, "must be JSON"),
        ({"dialect": "hush"}, "'cohere' or 'tei'"),
        ({"timeout": 0}, "greater than 0"),
        ({"timeout": float("inf")}, "finite"),
        ({"max_documents": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_cannot_be_are_refused_without_showing_them(settings, message):
    with pytest.raises(ValidationError, match=message) as caught:
        RemoteCrossEncoder(**{"url": "http://host", **settings})
    assert "hush" not in f"{caught.value} {caught.value!r}"


def test_a_wrong_key_in_the_environment_is_not_shown(monkeypatch):
    monkeypatch.setenv("LANGCHAIN_RERANK_API_KEY", "hush\n")
    with pytest.raises(ValidationError, match="printable ASCII") as caught:
        RemoteCrossEncoder(url="http://host")
    assert "hush" not in str(caught.value)


def test_copies_have_the_settings_and_connections_of_their_own(server):
    url = server.url.replace("http://", "http://ann:pw@")
    original = RemoteCrossEncoder(url=[url, "http://other"], headers={"X": "secret"})
    assert original.url == (url, "http://other")
    original = RemoteCrossEncoder(url=url, api_key="k", headers={"X": "secret"}, model="m")
    assert original.score(PAIRS) == SCORES
    copies = [
        pickle.loads(pickle.dumps(original)),
        copy.copy(original),
        copy.deepcopy(original),
        original.model_copy(),
    ]
    for one in copies:
        assert one == original
        assert hash(one) == hash(original)
        assert one._exchange is None
        assert one.score(PAIRS) == SCORES
        one.close()
    other = original.model_copy(update={"model": "n"})
    assert other != original
    assert other.score(PAIRS) == SCORES
    assert server.requests[-1].body["model"] == "n"
    assert server.requests[-1].headers["x"] == "secret"
    with pytest.raises(ValidationError, match="frozen"):
        original.model = "n"


def test_threads_and_event_loops_share_a_client(server):
    cross_encoder = RemoteCrossEncoder(url=server.url, max_documents=2)
    pairs = [("red fish", text) for text in ("red", "no", "fish red", "fish", "")] + PAIRS
    expected = WordOverlapCrossEncoder().score(pairs)
    start = Barrier(16)

    def in_a_thread(worker: int) -> None:
        start.wait()
        for _ in range(5):
            assert cross_encoder.score(pairs[worker % 4 :]) == expected[worker % 4 :]

    def in_a_loop(worker: int) -> None:
        async def some() -> None:
            found = await asyncio.gather(*(cross_encoder.ascore(pairs) for _ in range(16)))
            assert found == [expected] * 16

        start.wait()
        asyncio.run(some())

    with ThreadPoolExecutor(16) as pool:
        jobs = [pool.submit(in_a_thread, worker) for worker in range(12)]
        jobs += [pool.submit(in_a_loop, worker) for worker in range(4)]
        for job in jobs:
            job.result()


def test_closing_while_others_score_disturbs_nobody(server):
    cross_encoder = RemoteCrossEncoder(url=server.url)

    def work(worker: int) -> None:
        for number in range(10):
            if (worker + number) % 4 == 0:
                cross_encoder.close()
            assert cross_encoder.score(PAIRS) == SCORES

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert all(request.body for request in server.requests)


async def test_the_async_twin_holds_the_same_contract(server):
    cross_encoder = RemoteCrossEncoder(url=server.url)
    assert await cross_encoder.ascore([]) == []
    assert server.requests == []
    assert await cross_encoder.ascore(PAIRS) == SCORES
    with pytest.raises(TypeError, match="passage of pair 0"):
        await cross_encoder.ascore([("q", None)])


def test_its_scores_can_be_cached_under_a_name_of_their_own(server):
    remote = RemoteCrossEncoder(url=server.url)
    with pytest.raises(ValueError, match="namespace"):
        CachedCrossEncoder(remote, InMemoryByteStore())
    cached = CachedCrossEncoder(remote, InMemoryByteStore(), namespace="a-server")
    assert cached.score(PAIRS) == cached.score(PAIRS) == SCORES
    assert len(server.requests) == 2, "one for each query, and none the second time"


def test_replies_may_hold_more_than_scores(server):
    server.always = lambda request: as_json(
        {
            "object": "rerank",
            "results": [{"relevance_score": 0.5, "index": 0, "document": {"text": "red"}}],
            "usage": {"total_tokens": 3},
        }
    )
    assert RemoteCrossEncoder(url=server.url).score(PAIRS[:1]) == [0.5]
