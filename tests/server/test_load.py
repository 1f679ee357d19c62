"""The load harness, small: many clients on the tiny model, every score checked."""

from __future__ import annotations

import gc

import pytest

from tests.server.load import make_questions, run_load
from tests.server.serving import client_of

pytestmark = pytest.mark.integration


def test_64_clients_get_every_score_right(tiny):
    questions = make_questions(tiny, 20, passages=20, words=15)
    with client_of(tiny) as client:
        report = run_load(str(client.base_url), questions, clients=64, total=400)
        passes = client.app.state.metrics.registry.get_sample_value("rerank_pass_requests_count")
    assert report.errors == []
    assert len(report.latencies) == 400
    assert report.largest_difference < 1e-5, "each was scored alone here, together there"
    assert passes < 300, "requests that wait share passes"


def test_nothing_of_a_request_is_kept(tiny):
    questions = make_questions(tiny, 20, passages=2, words=10)
    with client_of(tiny) as client:
        url = str(client.base_url)
        run_load(url, questions, clients=16, total=300)
        before = objects()
        report = run_load(url, questions, clients=16, total=2000)
        grown = objects() - before
    assert report.errors == []
    # The memory of a process also moves with its allocator; `--only memory` measures that.
    assert grown < 1000, "an object for every second request would be a leak"


def objects() -> int:
    """Count the containers that are alive."""
    gc.collect()
    return len(gc.get_objects())
