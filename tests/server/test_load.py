"""Our clients and many others under load: every score checked, servers killed, nothing kept."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_core.documents import Document

from langchain_rerank import RemoteCrossEncoder, RemoteError, Reranker
from tests.server.load import Question, make_questions, run_load
from tests.server.serving import client_of, serve

pytestmark = pytest.mark.integration

KILLED_AFTER = 60
PAIRS = [
    [(f"question {i} on fish", f"passage {i * n} on fish and people {n}") for n in range(5)]
    for i in range(20)
]


def test_64_clients_get_every_score_right_and_share_passes_and_nothing_of_them_is_kept(tiny):
    many, few = (make_questions(tiny, 20, passages=n, words=15) for n in (20, 2))
    with client_of(tiny) as client:

        def load(questions: list[Question], total: int) -> int:
            """Objects that are alive afterwards; memory also moves with its allocator."""
            report = run_load(str(client.base_url), questions, clients=64, total=total)
            assert (report.errors, len(report.latencies)) == ([], total)
            assert report.largest_difference < 1e-5, "scored alone here, together there"
            gc.collect()
            return len(gc.get_objects())

        load(many, 400)
        passes = client.app.state.metrics.registry.get_sample_value("rerank_pass_requests_count")
        assert passes < 300, "requests that wait share passes"
        before = load(few, 400)
        assert load(few, 2000) - before < 1000, "an object for every second request would be a leak"


def test_no_answer_is_lost_when_one_of_two_servers_is_killed_under_load(tiny):
    expected = [tiny.score(pairs) for pairs in PAIRS]
    with serve("--model", tiny.model) as process, serve("--model", tiny.model) as other:
        remote = RemoteCrossEncoder(url=[process.url("/ready"), other.url("/ready")])

        def call(number: int) -> list[float]:
            if number == KILLED_AFTER:
                process.kill()
            return remote.score(PAIRS[number % len(PAIRS)])

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(call, range(300)))
        remote.close()
    for number, answer in enumerate(answers):
        assert answer == pytest.approx(expected[number % len(PAIRS)], abs=1e-6)


def test_a_server_that_comes_back_is_asked_again_and_meanwhile_the_order_is_kept(tiny):
    documents = [Document(passage) for _, passage in PAIRS[0]]
    query = PAIRS[0][0][0]
    with serve("--model", tiny.model) as process:
        url = process.url("/ready")
        remote = RemoteCrossEncoder(url=url, max_retries=0)
        kept = Reranker(model=remote, on_error="keep_order")
        best = kept.compress_documents(documents, query)
        assert "relevance_score" in best[0].metadata
        process.kill()
        process.wait()
        passages = [one.page_content for one in kept.compress_documents(documents, query)]
        assert passages == [one.page_content for one in documents]
        with pytest.raises(RemoteError, match=r"127\.0\.0\.1"):
            Reranker(model=remote).compress_documents(documents, query)
    with serve("--model", tiny.model, "--port", url.rpartition(":")[2]) as again:
        assert again.url("/ready") == url
        assert kept.compress_documents(documents, query) == best
    remote.close()
