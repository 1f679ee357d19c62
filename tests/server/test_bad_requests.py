"""Bad requests get the right status and one sentence, and the service goes on."""

from __future__ import annotations

import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from langchain_rerank.server.app import create_app
from langchain_rerank.server.schemas import Limits
from tests.server.serving import GOOD, JSON, PATHS, GatedCrossEncoder, client_of
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKS = [not_a_server_error, response_schema_conformance, status_code_conformance]
JUST_Q = b'{"query": "q", "documents": ["a"], "top_n": %s}'


@pytest.fixture(scope="module")
def served() -> Iterator[httpx.Client]:
    """A server of small limits."""
    limits = Limits(text_characters=100, body_bytes=2**20)
    with client_of(GatedCrossEncoder(is_open=True), limits=limits) as client:
        yield client


@pytest.fixture
def small(served: httpx.Client) -> Iterator[httpx.Client]:
    """Whatever a test sends, the next request is answered."""
    yield served
    reply = served.post("/v2/rerank", json=GOOD)
    assert [result["index"] for result in reply.json()["results"]] == [1, 0]


def check(reply: httpx.Response, status: int, *said: str) -> None:
    assert reply.status_code == status, reply.text[:200]
    assert reply.headers["content-type"] == "application/json"
    assert set(reply.json()) == {"message"}
    message = reply.json()["message"]
    assert len(message) < 300
    assert "\n" not in message
    assert [part for part in said if part not in message] == [], message


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"query": " \n"}, 422, ["query", "must hold text"]),
        ({"query": {"text": "x" * 10_000}}, 422, ["query", "{'text'", "..."]),
        ({"query": "q" * 101}, 413, ["query", "100 characters", "101"]),
        ({"documents": []}, 422, ["documents", "at least 1"]),
        ({"documents": "a"}, 422, ["documents", "list", "'a'"]),
        ({"documents": ["a", 7]}, 422, ["documents.1", "string", "7"]),
        ({"documents": ["a", {"title": "b"}]}, 422, ["documents.1", "'text'"]),
        ({"documents": [{"text": "a"}], "rank_fields": ["title"]}, 422, ["0", "'title'"]),
        ({"documents": ["a"] * 1001}, 413, ["documents", "at most 1,000", "1,001"]),
        ({"documents": ["a", "b" * 101]}, 413, ["documents.1", "100 characters", "101"]),
        ({"instruction": "newest first"}, 422, ["instruction", "'newest first'"]),
        ({"top_n": 0}, 422, ["top_n", "1", "0"]),
        ({"top_n": "3"}, 422, ["top_n", "integer", "'3'"]),
        ({"texts": ["a"]}, 422, ["either", "documents", "texts"]),
        ({"raw_scores": 1}, 422, ["raw_scores", "boolean"]),
        ({"truncation_direction": "Left"}, 422, ["Right"]),
    ],
)
def test_wrong_fields(small, change, status, said):
    for path in PATHS:
        check(small.post(path, json={**GOOD, **change}), status, *said)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b'{"documents": ["a"]}', 422, "query"),
        (b'{"query": "q"}', 422, "documents"),
        (b"{", 422, "JSON"),
        (b"null", 422, "None"),
        (b"[" * 100_000, 422, "recursion"),
        (b"[" * 500_001, 413, "brackets"),
        (b'{"query": "q", "documents": ["\xff"]}', 422, "utf-8"),
        ('{"query": "q", "documents": ["a"]}'.encode("utf-16"), 422, "utf-8"),
        (JUST_Q % b"NaN", 422, "NaN"),
        (JUST_Q % b"1e999", 422, "inf"),
        (JUST_Q % (b"9" * 5000), 422, "digits"),
        (JUST_Q % b"1} {", 422, "JSON"),
        (json.dumps({"query": "q", "documents": ["a"] * 10**6}).encode(), 413, "1,048,576 bytes"),
        # Without their length.
        ((b"x" * 2**20 for _ in range(100)), 413, "1,048,576 bytes"),
    ],
    ids=lambda value: str(value)[:10],
)
def test_bodies_that_are_none(small, body, status, said):
    check(small.post("/v1/rerank", content=body, headers=JSON), status, said)


def test_oddities_that_json_allows(small):
    deep = '{"a":' * 100 + "1" + "}" * 100
    twice = '{"query": 3, "query": "q", "documents": ["a"], "\\ud800": "\\udfff", "x": '
    for kind in ({"content-type": "application/vnd.x+json; x=y"}, {}):
        assert small.post("/v2/rerank", content=twice + deep + "}", headers=kind).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "kind", "status"),
    [
        ("GET", "/v1/rerank", "", 405),
        ("BREW", "/rerank", "", 405),
        ("POST", "/health", "", 405),
        ("GET", "/", "", 404),
        ("POST", "/v1/rerank/", "application/json", 404),
        ("GET", "/%ff%00/../x", "", 404),
        *(("POST", "/v2/rerank", kind, 415) for kind in ("text/plain", "", "é")),
    ],
)
def test_unknown_paths_methods_and_content_types(small, method, path, kind, status):
    headers = {"content-type": kind.encode()}
    check(small.request(method, path, content=b"x" * 1000, headers=headers), status)


def test_json_that_can_not_be_given_back_is_refused(lengths):
    depths = (1, 150, *range(196, 204), 500, *range(900, 1000, 10), 100_000)
    odd = ["[" * depth + "]" * depth for depth in depths]
    statuses = []
    for more in [*odd, "NaN", "-Infinity", "1e999"]:
        documents = f'"documents":[{{"text":"a","more":{more}}}],"return_documents":true'
        body = f'{{"query":"q",{documents}}}'
        statuses.append(lengths.post("/v1/rerank", content=body, headers=JSON).status_code)
    assert set(statuses[:-3]) == {200, 422}
    assert set(statuses[-3:]) == {422}


DEAR = {
    "wrong entries": '{"query":"q","documents":[' + "7," * 2_000_000 + "7]}",
    "nested": '{"query":"q","documents":[{"text":"a","x":[' + "[]," * 450_000 + "[]]}]}",
    "many lists": '{"query":"q","documents":["a"],"x":[' + "[]," * 2_000_000 + "[]]}",
    "wrong query": '{"query":[' + "{}," * 450_000 + '{}],"documents":["a"]}',
    "escapes": '{"query":"\\ud800' + "\\n" * 2_000_000 + '","documents":["a"]}',
    "fields": '{"query":"q",' + '"a":7,' * 1_000_000 + '"documents":["a"]}',
}


@pytest.mark.parametrize("body", DEAR.values(), ids=DEAR)
def test_a_body_that_is_dear_to_parse_does_not_stop_the_others(lengths, body):
    done = threading.Event()

    def probe() -> None:
        with httpx.Client(base_url=lengths.base_url, timeout=5) as own:
            while not done.is_set():
                assert own.get("/health").status_code == 200

    with ThreadPoolExecutor(1) as pool:
        probing = pool.submit(probe)
        reply = lengths.post("/v1/rerank", content=body, headers=JSON)
        done.set()
        probing.result()
    assert reply.status_code in (200, 413, 422)


def test_all_bodies_together_are_bounded_and_freed(model):
    body = {"query": "q", "documents": ["x" * 1000]}
    limits = Limits(held_bytes=2500)
    with client_of(model, limits=limits) as client, ThreadPoolExecutor(2) as pool:
        held = [pool.submit(client.post, "/rerank", json=body) for _ in range(2)]
        batcher = client.app.state.batcher
        wait_until(
            lambda: sum(map(len, model.passes)) + len(batcher._waiting) == 2, "both to be held"
        )
        refused = client.post("/rerank", json=body)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        model.open()
        assert [one.result().status_code for one in held] == [200, 200]
        wait_until(lambda: client.app.state.held_bytes == 0, "them to be let go")
        assert client.post("/rerank", json=body).status_code == 200


def test_settings_that_can_not_be():
    with pytest.raises(ValueError, match="API key must hold text"):
        create_app("model", api_keys=["key", " "])
    with pytest.raises(ValueError, match=r"(?s)documents.*greater than 0"):
        Limits(documents=0)


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("path", ["/v2/rerank", "/rerank"])
def test_no_generated_request_ends_in_a_server_error_or_an_undocumented_reply(lengths, path, mode):
    api = schemathesis.openapi.from_dict(lengths.get("/openapi.json").json())
    statuses: Counter[int] = Counter()

    @seed(1)
    @settings(
        max_examples=40,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=api[path]["POST"].as_strategy(generation_mode=mode))
    def ask(case):
        reply = case.call_and_validate(base_url=str(lengths.base_url), checks=CHECKS)
        statuses[reply.status_code] += 1

    ask()
    assert set(statuses) <= {200, 413, 415, 422}
    if mode is GenerationMode.POSITIVE:
        assert statuses[200] > 0, "else nothing was tried but refusals"
