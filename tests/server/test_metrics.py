"""What `/metrics` and traces say about requests, and that both hold no texts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.server.serving import GatedCrossEncoder, client_of
from tests.support import wait_until


def samples(client: httpx.Client) -> dict[tuple[str, ...], float]:
    """Every sample of a scrape by its name and labels."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def post(client: httpx.Client, documents: list[str], path: str = "/v2/rerank") -> httpx.Response:
    return client.post(path, json={"query": "a secret", "documents": documents})


def test_requests_are_counted_by_path_and_status():
    with client_of(GatedCrossEncoder(is_open=True)) as client:
        for _ in range(3):
            post(client, ["a"])
        post(client, [])
        post(client, ["poison"], "/rerank")
        client.get("/nowhere")
        client.get("/health")
        found = samples(client)
    assert found["rerank_requests_total", "/v2/rerank", "200"] == 3
    assert found["rerank_requests_total", "/v2/rerank", "422"] == 1
    assert found["rerank_requests_total", "/rerank", "500"] == 1
    assert found["rerank_requests_total", "other", "404"] == 1
    assert found["rerank_request_seconds_count",] == 7
    assert found["process_resident_memory_bytes",] > 2**20


def test_passes_pairs_and_waiting_requests():
    model = GatedCrossEncoder()
    with client_of(model) as client, ThreadPoolExecutor(8) as pool:
        first = pool.submit(post, client, ["a"])
        wait_until(lambda: model.passes, "the first pass")
        others = [pool.submit(post, client, ["b", "c"]) for _ in range(4)]
        wait_until(lambda: samples(client)["rerank_waiting_requests",] == 4, "the others to wait")
        model.open()
        assert [one.result().status_code for one in [first, *others]] == [200] * 5
        found = wait_until(
            lambda: (now := samples(client))["rerank_pass_pairs_count",] == 2 and now, "the passes"
        )
    assert found["rerank_pairs_total",] == 9
    assert found["rerank_pass_pairs_sum",] == 9
    assert found["rerank_pass_requests_sum",] == 5
    assert found["rerank_pass_requests_bucket", "1.0"] == 1
    assert found["rerank_queue_seconds_count",] == 5
    assert found["rerank_scoring_seconds_count",] == 2
    assert found["rerank_waiting_requests",] == 0
    assert not any("secret" in part for name in found for part in name)


def test_a_client_that_leaves_is_counted_as_such():
    model = GatedCrossEncoder()
    with client_of(model) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v2/rerank", json={"query": "q", "documents": ["a"]}, timeout=0.2)
        key = ("rerank_requests_total", "/v2/rerank", "499")
        assert wait_until(lambda: samples(client).get(key), "the client to be missed") == 1
        model.open()


def test_tokens_are_those_that_the_model_read(client, in_process):
    before = samples(client)["rerank_tokens_total",]
    read = in_process.tokens_scored
    in_process.score([("a secret", text) for text in ("a few words", "one")])
    assert post(client, ["a few words", "one"]).status_code == 200
    wanted = before + in_process.tokens_scored - read
    assert wait_until(lambda: samples(client)["rerank_tokens_total",] == wanted, "the pass")


def test_two_apps_have_metrics_of_their_own():
    with (
        client_of(GatedCrossEncoder(is_open=True)) as one,
        client_of(GatedCrossEncoder(is_open=True)) as other,
    ):
        post(one, ["a"])
        assert samples(one)["rerank_pairs_total",] == 1
        assert samples(other)["rerank_pairs_total",] == 0


def test_a_span_continues_the_callers_trace_and_holds_counts_only(spans):
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
    with client_of(GatedCrossEncoder(is_open=True)) as client:
        body = {"query": "a secret", "documents": ["a", "private text"]}
        client.post("/rerank", json=body, headers=headers)
        (span,) = wait_until(spans.get_finished_spans, "the span")
    assert span.name == "POST /rerank"
    assert span.kind.name == "SERVER"
    assert f"{span.context.trace_id:032x}" == trace_id
    assert span.attributes == {
        "http.route": "/rerank",
        "rerank.documents": 2,
        "rerank.characters": len("a secretaprivate text"),
    }
