"""The load harness, small: many clients on the tiny model, every score checked."""

from __future__ import annotations

import gc

import pytest

from tests.server.load import joint_ratio, make_questions, run_load
from tests.server.serving import client_of

pytestmark = pytest.mark.integration


def test_64_clients_get_every_score_right(tiny):
    questions = make_questions(tiny, 20, passages=20, words=15)
    with client_of(tiny) as client:
        report = run_load(str(client.base_url), questions, clients=64, total=400)
        passes = client.app.state.service.metrics.registry.get_sample_value(
            "rerank_pass_requests_count"
        )
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


def test_the_ratio_is_measured_in_turns(tiny):
    questions = make_questions(tiny, 10, passages=5, words=10)
    with client_of(tiny) as joint, client_of(tiny, joint_scoring=False) as alone:
        urls = str(joint.base_url), str(alone.base_url)
        ratios = joint_ratio(*urls, questions, clients=16, total=100, rounds=2)
    assert len(ratios) == 2
    assert all(ratio > 0 for ratio in ratios)
