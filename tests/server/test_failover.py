"""Our client against servers of ours that are killed under load."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_core.documents import Document

from langchain_rerank import RemoteCrossEncoder, RemoteError, Reranker
from tests.server.load import server_process

pytestmark = pytest.mark.integration

CALLS = 300
KILLED_AFTER = 60
PAIRS = [
    [(f"question {i} on fish", f"passage {i * n} on fish and people {n}") for n in range(5)]
    for i in range(20)
]


def test_no_answer_is_lost_when_one_of_two_servers_is_killed_under_load(tiny):
    expected = [tiny.score(pairs) for pairs in PAIRS]
    with (
        server_process("--model", tiny.model) as (first, process),
        server_process("--model", tiny.model) as (second, _),
    ):
        remote = RemoteCrossEncoder(url=[first, second])

        def call(number: int) -> list[float]:
            if number == KILLED_AFTER:
                process.kill()
            return remote.score(PAIRS[number % len(PAIRS)])

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(call, range(CALLS)))
        remote.close()
    for number, answer in enumerate(answers):
        assert answer == pytest.approx(expected[number % len(PAIRS)], abs=1e-6)


def test_a_server_that_comes_back_is_asked_again_and_meanwhile_the_order_is_kept(tiny):
    documents = [Document(passage) for _, passage in PAIRS[0]]
    query = PAIRS[0][0][0]
    with server_process("--model", tiny.model) as (url, process):
        remote = RemoteCrossEncoder(url=url, max_retries=0)
        kept = Reranker(model=remote, on_error="keep_order")
        best = kept.compress_documents(documents, query)
        assert "relevance_score" in best[0].metadata
        process.kill()
        process.wait()
        assert [one.page_content for one in kept.compress_documents(documents, query)] == [
            one.page_content for one in documents
        ]
        with pytest.raises(RemoteError, match=r"127\.0\.0\.1"):
            Reranker(model=remote).compress_documents(documents, query)
    with server_process("--model", tiny.model, "--port", url.rpartition(":")[2]) as (again, _):
        assert again == url
        assert kept.compress_documents(documents, query) == best
    remote.close()
