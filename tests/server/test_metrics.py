"""What `/metrics` and traces say about requests, and that both hold no texts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.server.serving import GatedCrossEncoder, client_of
from tests.support import wait_until


def samples(client: httpx.Client) -> dict[tuple[str, ...], float]:
    """Every sample of a scrape by its name, without "rerank_", and its labels."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    every = [sample for family in families for sample in family.samples]
    return {(one.name.removeprefix("rerank_"), *one.labels.values()): one.value for one in every}


def post(client: httpx.Client, *documents: str, **options) -> httpx.Response:
    body = {"query": "a secret", "documents": documents}
    return client.post("/v2/rerank", json=body, **options)


def test_requests_are_counted_by_path_and_status_each_app_for_itself(model):
    model.open()
    with client_of(model) as client, client_of(GatedCrossEncoder(is_open=True)) as other:
        for documents in (["a"], ["a"], ["a"], [], ["poison"]):
            post(client, *documents)
        for path in ("/nowhere", "/health"):
            client.get(path)
        found = samples(client)
        assert samples(other)["pass_pairs_sum",] == 0
    counted = {key[1:]: value for key, value in found.items() if key[0] == "requests_total"}
    rerank = {("/v2/rerank", "200"): 3, ("/v2/rerank", "422"): 1, ("/v2/rerank", "500"): 1}
    assert counted == {**rerank, ("other", "404"): 1, ("/health", "200"): 1}
    assert found["request_seconds_count",] == 7
    assert found["process_resident_memory_bytes",] > 2**20


def test_passes_pairs_and_waiting_requests(model):
    with client_of(model) as client, ThreadPoolExecutor(8) as pool:
        first = pool.submit(post, client, "a")
        wait_until(lambda: model.passes, "the first pass")
        others = [pool.submit(post, client, "b", "c") for _ in range(4)]
        wait_until(lambda: samples(client)["waiting_requests",] == 4, "the others to wait")
        model.open()
        assert [one.result().status_code for one in [first, *others]] == [200] * 5
        found = samples(client)
    assert found["pass_pairs_sum",] == 9
    assert found["pass_requests_sum",] == 5
    assert found["pass_requests_bucket", "1.0"] == 1
    assert found["queue_seconds_count",] == 5
    assert found["scoring_seconds_count",] == 2
    assert found["waiting_requests",] == 0
    assert not any("secret" in part for name in found for part in name)


def test_a_client_that_leaves_is_counted_as_such(model):
    with client_of(model) as client:
        with pytest.raises(httpx.ReadTimeout):
            post(client, "a", timeout=0.2)
        key = ("requests_total", "/v2/rerank", "499")
        assert wait_until(lambda: samples(client).get(key), "the client to be missed") == 1
        model.open()


def test_a_span_continues_the_callers_trace_and_holds_counts_only(spans):
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
    with client_of(GatedCrossEncoder(is_open=True)) as client:
        post(client, "a", "private text", headers=headers)
        (span,) = wait_until(spans.get_finished_spans, "the span")
    assert (span.name, span.kind.name) == ("POST /v2/rerank", "SERVER")
    assert f"{span.context.trace_id:032x}" == trace_id
    counts = {"rerank.documents": 2, "rerank.characters": len("a secretaprivate text")}
    assert span.attributes == {"http.route": "/v2/rerank", **counts}
