"""What a remote cross encoder sends, how its settings are checked, and who may use it at once."""

from __future__ import annotations

import asyncio
import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import httpx
import pytest
from pydantic import ValidationError

from langchain_rerank import RemoteCrossEncoder
from tests.fakes import WordOverlapCrossEncoder

PAIRS = [("red fish", "red"), ("blue", "blue"), ("red fish", "fish red"), ("red fish", "no")]
SCORES = [0.5, 1.0, 1.0, 0.0]
PRESETS = {
    "cohere": ("https://api.cohere.com/v2/rerank", "rerank-v4.0-fast", "cohere"),
    "jina": ("https://api.jina.ai/v1/rerank", "jina-reranker-v3", "cohere"),
    "voyage": ("https://api.voyageai.com/v1/rerank", "rerank-2.5", "voyage"),
    "nvidia": (
        "https://ai.api.nvidia.com/v1/retrieval/nvidia/llama-nemotron-rerank-1b-v2/reranking",
        "nvidia/llama-nemotron-rerank-1b-v2",
        "nvidia",
    ),
    "pinecone": ("https://api.pinecone.io/rerank", "bge-reranker-v2-m3", "pinecone"),
}


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch):
    for name in ("LANGCHAIN_RERANK", "CO", *map(str.upper, PRESETS)):
        monkeypatch.delenv(f"{name}_API_KEY", raising=False)


def test_pairs_of_a_query_go_together_and_fields_decide_the_body(server):
    url = f"{server.url}/x/rerank?a=b"
    cross_encoder = RemoteCrossEncoder(url=url, model="m", extra_body={"x": 1})
    assert (cross_encoder.score([]), cross_encoder.score(PAIRS)) == ([], SCORES)
    one, another = sorted(server.requests, key=lambda request: request.body["query"])
    assert one.body == {"model": "m", "query": "blue", "documents": ["blue"], "top_n": 1, "x": 1}
    assert another.body["documents"] == ["red", "fish red", "no"]
    assert one.target == "/x/rerank?a=b"


def test_coheres_sdk_sends_the_same_request(server):
    from cohere import ClientV2

    with httpx.Client() as connections:
        client = ClientV2(api_key="k", base_url=server.url, httpx_client=connections)
        read = client.rerank(model="rerank-v4.0-fast", query="q", documents=["a", "q"], top_n=2)
    ours = RemoteCrossEncoder.cohere(url=f"{server.url}/v2/rerank", api_key="k")
    assert ours.score([("q", "a"), ("q", "q")]) == [0.0, 1.0]
    assert [result.index for result in read.results] == [1, 0]
    theirs, own = server.requests
    assert (own.method, own.target, own.body) == (theirs.method, theirs.target, theirs.body)
    assert own.headers["authorization"] == theirs.headers["authorization"]


@pytest.mark.parametrize("name", PRESETS)
def test_the_hosted_services_addresses_models_and_keys(monkeypatch, name):
    preset = getattr(RemoteCrossEncoder, name)
    found = preset(api_key="k", extra_body={"x": 1})
    assert (found.url, found.model, found.dialect) == PRESETS[name]
    # Jina sends the documents back unless asked not to.
    assert found.extra_body == {"x": 1} | ({"return_documents": False} if name == "jina" else {})
    assert preset("other", api_key="k").model == "other"
    monkeypatch.setenv("LANGCHAIN_RERANK_API_KEY", "for-another-server")
    for key in (None, ""):
        with pytest.raises(ValueError, match=f"{name.upper()}_API_KEY"):
            preset(api_key=key)
    monkeypatch.setenv(f"{name.upper()}_API_KEY", "its-own")
    assert preset().api_key.get_secret_value() == "its-own"


def test_the_key_comes_from_the_environment_unless_there_are_other_credentials(monkeypatch):
    monkeypatch.setenv("LANGCHAIN_RERANK_API_KEY", "env")

    def key(url="http://host", **settings):
        given = RemoteCrossEncoder(url=url, **settings).api_key
        return given and given.get_secret_value()

    assert key() == key(api_key=None) == "env"
    assert key(api_key="own") == "own"
    assert key(headers={"Authorization": "x"}) is key("http://user:pw@host") is None
    assert not key(api_key="")
    monkeypatch.setenv("CO_API_KEY", "the-SDK's")
    assert RemoteCrossEncoder.cohere().api_key.get_secret_value() == "the-SDK's"


def test_user_and_password_of_the_url_are_sent_by_basic_authentication(server):
    url = server.url.replace("http://", "http://ann:p%40ss@")
    RemoteCrossEncoder(url=url, headers={"X-Team": "a b"}).score(PAIRS[:1])
    RemoteCrossEncoder(url=server.url, api_key="").score(PAIRS[:1])
    one, another = (request.headers for request in server.requests)
    assert (one["authorization"], one["x-team"]) == ("Basic YW5uOnBAc3M=", "a b")
    assert "authorization" not in another


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
        *(
            ({"url": url}, "url must be like 'http://localhost:8000/rerank'")
            for url in ("ftp://ann:hush@host", "http://ann:hu/sh@host", "ann:hush@host:80")
        ),
        *(({"url": url}, "must be like") for url in ("http://", "", ["http://ok", "hush\n"])),
        ({"url": []}, "at least 1 item"),
        *(
            ({"api_key": key}, "api_key.*\n.* printable ASCII")
            for key in ("hush\n", "hüsh", " hush")
        ),
        ({"headers": {"X": "hush\r\nY: 1"}}, "headers.X\n.*must be printable ASCII"),
        ({"headers": {"X:": "hush"}}, "headers.X:.*\n.*should match"),
        ({"apikey": "hush"}, "Extra inputs"),
        ({"extra_body": {"query": "hush"}}, r"can't set \['query'\]"),
        ({"extra_body": {"top_k": 3, "instruction": "hush"}}, r"\['instruction', 'top_k'\]"),
        ({"extra_body": {"x": float("nan")}}, "extra_body.x.*\n.*finite"),
        ({"extra_body": {"x": b"hush"}}, "valid JSON"),
        ({"dialect": "hush"}, "'cohere', 'tei', 'voyage'"),
        ({"timeout": 0}, "greater than 0"),
        ({"timeout": float("inf")}, "finite"),
        ({"max_documents": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_cannot_be_are_refused_without_showing_them(settings, message):
    with pytest.raises(ValidationError, match=message) as caught:
        RemoteCrossEncoder(**{"url": "http://host", **settings})
    assert "hush" not in f"{caught.value} {caught.value!r}"


async def test_an_instruction_is_sent_by_a_copy_on_the_same_connection(server):
    plain = RemoteCrossEncoder(url=server.url, api_key="k")
    plain.score(PAIRS[:1])
    newest = plain.with_instruction("newest first")
    assert newest == RemoteCrossEncoder(url=server.url, api_key="k", instruction="newest first")
    assert newest.score(PAIRS[:1]) == await newest.ascore(PAIRS[:1]) == SCORES[:1]
    sent = [request.body.get("instruction") for request in server.requests]
    assert sent == [None, "newest first", "newest first"]
    assert len(server.sockets) == 1
    plain.close()
    assert newest.score(PAIRS) == SCORES, "closing one copy takes nothing from another"


@pytest.mark.parametrize(
    "settings",
    [
        *({"dialect": name} for name in ("tei", "voyage", "nvidia", "pinecone", "llamacpp")),
        {"url": "https://api.cohere.com/v2/rerank"},
        {"url": ["http://host", "https://api.jina.ai/v1/rerank"]},
    ],
)
def test_an_instruction_for_servers_that_take_none_is_refused(settings):
    settings = {"url": "http://host", **settings}
    with pytest.raises(ValueError, match="take no instruction: leave it out"):
        RemoteCrossEncoder(**settings, instruction="newest first")
    with pytest.raises(ValueError, match="take no instruction"):
        RemoteCrossEncoder(**settings).with_instruction("newest first")


def test_copies_have_the_settings_and_connections_of_their_own(server):
    url = server.url.replace("http://", "http://ann:pw@")
    settings = {"url": (url, server.url), "headers": {"X": "secret"}}
    original = RemoteCrossEncoder(**settings, model="m")
    copies = [
        pickle.loads(pickle.dumps(original)),  # noqa: S301  # our own
        copy.copy(original),
        copy.deepcopy(original),
        original.model_copy(),
    ]
    for one in [original, *copies]:
        assert one.score(PAIRS) == SCORES
        assert (one, hash(one)) == (original, hash(original))
    assert len({id(one._connections) for one in [original, *copies]}) == 5
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
    start = Barrier(8)

    def work(worker: int) -> None:
        async def some() -> None:
            found = await asyncio.gather(*(cross_encoder.ascore(pairs) for _ in range(4)))
            assert found == [expected] * 4

        start.wait()
        for _ in range(3):
            assert cross_encoder.score(pairs[worker % 4 :]) == expected[worker % 4 :]
            asyncio.run(some())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
