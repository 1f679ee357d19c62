"""What `/metrics` and traces say about requests, and that both hold no texts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.server.serving import GatedCrossEncoder, client_of
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable


def samples(client: httpx.Client) -> dict[tuple[str, ...], float]:
    """Every sample of a scrape by its name, without "rerank_", and its labels."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    every = [sample for family in families for sample in family.samples]
    return {(one.name.removeprefix("rerank_"), *one.labels.values()): one.value for one in every}


def poster(client: httpx.Client) -> Callable[..., httpx.Response]:
    def post(*documents: str, **options) -> httpx.Response:
        body = {"query": "a secret", "documents": documents}
        return client.post("/v2/rerank", json=body, **options)

    return post


def test_requests_passes_and_what_waits_are_counted_each_app_for_itself(model):
    with (
        client_of(model) as client,
        client_of(GatedCrossEncoder(is_open=True)) as other,
        ThreadPoolExecutor(8) as pool,
    ):
        post = poster(client)
        first = pool.submit(post, "a")
        wait_until(lambda: model.passes, "the first pass")
        others = [pool.submit(post, "b", "c") for _ in range(4)]
        wait_until(lambda: samples(client)["waiting_requests",] == 4, "the others to wait")
        with pytest.raises(httpx.ReadTimeout):
            post("d", timeout=0.2)
        gone = ("requests_total", "/v2/rerank", "499")
        wait_until(lambda: samples(client).get(gone) == 1, "the client to be missed")
        model.open()
        assert [one.result().status_code for one in [first, *others]] == [200] * 5
        post()
        post("poison")
        client.get("/nowhere")
        found = samples(client)
        assert samples(other)["pass_pairs_sum",] == 0
    counted = {key[1:]: value for key, value in found.items() if key[0] == "requests_total"}
    rerank = {("/v2/rerank", "200"): 5, ("/v2/rerank", "422"): 1, ("/v2/rerank", "500"): 1}
    assert counted == {**rerank, ("/v2/rerank", "499"): 1, ("other", "404"): 1}
    values = {
        ("request_seconds_count",): 5,
        ("pass_pairs_sum",): 10,
        ("pass_requests_sum",): 6,
        ("pass_requests_bucket", "1.0"): 2,
        ("queue_seconds_count",): 6,
        ("scoring_seconds_count",): 3,
        ("waiting_requests",): 0,
    }
    assert {key: found[key] for key in values} == values
    assert found["process_resident_memory_bytes",] > 2**20
    assert not any("secret" in part for name in found for part in name)


def test_a_span_continues_the_callers_trace_and_holds_counts_only(spans, lengths):
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
    poster(lengths)("a", "private text", headers=headers)
    (span,) = wait_until(spans.get_finished_spans, "the span")
    assert (span.name, span.kind.name) == ("POST /v2/rerank", "SERVER")
    assert f"{span.context.trace_id:032x}" == trace_id
    counts = {"rerank.documents": 2, "rerank.characters": len("a secretaprivate text")}
    assert span.attributes == {"http.route": "/v2/rerank", **counts}
