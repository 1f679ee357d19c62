"""A retriever's calls: what they return, fail with, wait for, and leave in traces."""

from __future__ import annotations

import asyncio
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.runnables import RunnablePassthrough
from langchain_core.tools import create_retriever_tool
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from langchain_rerank import Reranker, ScoringError, TorchCrossEncoder, index_documents
from tests.fakes import BrokenCrossEncoder, Gate, GatedCrossEncoder, WordOverlapCrossEncoder
from tests.support import every_way, fails, ids
from tests.test_retriever import (
    AllRetriever,
    PositiveEmbedding,
    ReversingCompressor,
    in_memory,
    model,
    retriever_of,
    store,
)

__all__ = ["model", "store"]  # fixtures


class StoppingCrossEncoder(WordOverlapCrossEncoder):
    """Raises what no `except Exception` may hold back."""

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        raise KeyboardInterrupt


def test_wrong_queries_are_errors(model) -> None:
    fails(ValueError, "query must hold text", retriever_of(model), " ")
    fails(TypeError, "query must be a str, got NoneType", retriever_of(model), None)


def test_lone_surrogates_in_a_query_are_replaced(store, model) -> None:
    # The embeddings encode the query as UTF-8, which a lone surrogate is not.
    retriever = retriever_of(model, store, k=1, fetch_k=30)
    assert [ids(found) for found in every_way(retriever, "number 3 \ud800")] == [["3"]] * 4
    assert {scored for call in model.calls for scored, _ in call} == {"number 3 \ufffd"}


@pytest.mark.parametrize("kind", ["Chroma", "hybrid", "InMemoryVectorStore"])
@pytest.mark.parametrize("reranker", ["no-such/model", ReversingCompressor()], ids=type)
def test_empty_store_gives_no_documents_and_loads_no_model(kind: str, reranker) -> None:
    empty: Any = in_memory([])
    if kind != "InMemoryVectorStore":
        empty = index_documents([], PositiveEmbedding(), collection_name=uuid.uuid4().hex)
    retriever = retriever_of(reranker, empty, hybrid=kind == "hybrid")
    assert every_way(retriever, "even") == [[]] * 4
    assert retriever.batch([]) == []


def test_real_model_puts_the_answer_first(store, cross_encoder: TorchCrossEncoder) -> None:
    answer = Document("Berlin had a population of 3,520,031 registered inhabitants.", id="answer")
    store.add_documents([answer, Document("Berlin is well known for its museums.", id="museums")])
    retriever = retriever_of(cross_encoder, store, k=1, fetch_k=32)
    assert ids(retriever.invoke("How many people live in Berlin?")) == ["answer"]


async def test_one_bad_query_leaves_the_others_their_answers(model) -> None:
    retriever = retriever_of(model, k=1)
    queries = ["number 3", " ", "fail", "number 7"]
    for outcomes in (
        retriever.batch(queries, {"max_concurrency": 1}, return_exceptions=True),
        await retriever.abatch(queries, return_exceptions=True),
    ):
        assert [ids(outcomes[0]), ids(outcomes[3])] == [["3"], ["7"]]
        assert [type(one).__name__ for one in outcomes[1:3]] == [
            "ValidationError",
            "ConnectionError",
        ]
    with pytest.raises(ValueError, match="query must hold text"):
        retriever.batch(queries)


def test_scoring_that_fails() -> None:
    broken = BrokenCrossEncoder()
    fails(ScoringError, "gone", retriever_of(broken), "even")
    keeping = retriever_of(Reranker(model=broken, on_error="keep_order"), k=2)
    assert [ids(found) for found in every_way(keeping, "even")] == [["0", "1"]] * 4


def test_threads_get_what_one_caller_gets(store, model) -> None:
    retriever = retriever_of(model, store, k=3, fetch_k=30, hybrid=True)
    queries = [f"number {i}" for i in range(30)]
    expected = [ids(retriever.invoke(query)) for query in queries]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda query: ids(retriever.invoke(query)), queries)) == expected
    assert [first for first, *_ in expected] == [str(i) for i in range(30)]


@pytest.mark.parametrize("return_exceptions", [True, False])
def test_ctrl_c_ends_a_batch(*, return_exceptions: bool) -> None:
    retriever = retriever_of(StoppingCrossEncoder())
    with pytest.raises(KeyboardInterrupt):
        retriever.batch(["even", "odd"], return_exceptions=return_exceptions)


async def test_a_cancelled_batch_is_cancelled() -> None:
    model = GatedCrossEncoder()
    task = asyncio.create_task(retriever_of(model).abatch(["even"], return_exceptions=True))
    await asyncio.to_thread(model.gate.begun.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    model.gate.go.set()


@pytest.mark.parametrize("method", ["ainvoke", "abatch"])
async def test_async_does_not_block_the_event_loop(method: str) -> None:
    model, first_stage = GatedCrossEncoder(), AllRetriever(gate=Gate())
    asked = getattr(retriever_of(model, first_stage, k=1), method)
    query: Any = "number 3" if method == "ainvoke" else ["number 3"]
    found, *_ = await asyncio.gather(asked(query), first_stage.gate.release(), model.gate.release())
    assert ids(found if method == "ainvoke" else found[0]) == ["3"]


# Traces and agents


def tree(run: Any) -> tuple[Any, ...]:
    metadata = sorted(run.extra["metadata"].items())
    children = [tree(child) for child in run.child_runs]
    return run.name, run.run_type, sorted(run.tags), metadata, bool(run.error), children


@pytest.mark.parametrize(
    ("query", "stages"),
    [("number 7", ["AllRetriever", "Reranker"]), (" ", []), ("fail", ["AllRetriever"])],
)
async def test_each_query_is_one_run_with_both_stages_however_it_is_asked(
    query, stages, model
) -> None:
    retriever = retriever_of(model, k=1, fetch_k=10)
    collector, run_id = RunCollectorCallbackHandler(), uuid.uuid4()
    config: Any = {"callbacks": [collector], "tags": ["mine"], "metadata": {"user": "u1"}}
    config["run_name"] = "named"
    retriever.batch([query], {**config, "run_id": run_id}, return_exceptions=True)
    await retriever.abatch([query], config, return_exceptions=True)
    with suppress(ConnectionError, ValueError):
        retriever.invoke(query, config)
    with suppress(ConnectionError, ValueError):
        await retriever.ainvoke(query, config)
    first, *others = collector.traced_runs
    assert first.id == run_id
    assert [tree(run) for run in others] == [tree(first)] * 3
    assert (first.name, first.run_type, first.tags) == ("named", "retriever", ["mine"])
    assert [child.name for child in first.child_runs] == stages
    if len(stages) > 1:
        searched, reranked = first.child_runs
        assert len(searched.outputs["documents"]) == 30
        assert reranked.extra["metadata"]["documents_in"] == 10
        assert ids(first.outputs["documents"]) == ids(reranked.outputs["output"]) == ["7"]


@pytest.mark.parametrize("kind", ["VectorStoreRetriever", "HybridRetriever", "with_config", "bind"])
async def test_in_a_chain_both_stages_are_traced_below_the_retriever(store, model, kind) -> None:
    source = {
        "with_config": store.as_retriever().with_config(tags=["mine"]),
        "bind": store.as_retriever().bind(k=1),
    }.get(kind, store)
    chain = RunnablePassthrough() | retriever_of(
        model, source, k=1, fetch_k=2, hybrid=kind == "HybridRetriever"
    )
    collector = RunCollectorCallbackHandler()
    config: Any = {"callbacks": [collector]}
    chain.invoke("even", config)
    await chain.ainvoke("even", config)
    chain.batch(["even"], config)
    assert len(collector.traced_runs) == 3
    for run in collector.traced_runs:
        names = [child.name for child in run.child_runs]
        assert names == ["RunnablePassthrough", "RerankRetriever"]
        first_stage, reranking = run.child_runs[1].child_runs
        assert reranking.name == "Reranker"
        assert first_stage.name == (kind if "Retriever" in kind else "VectorStoreRetriever")


async def test_serves_an_agent_as_a_tool(store, model) -> None:
    retriever = retriever_of(model, store, k=2, fetch_k=30)
    tool = create_retriever_tool(
        retriever, "search", "Searches numbers.", response_format="content_and_artifact"
    )
    call: Any = {"type": "tool_call", "id": "1", "name": "search", "args": {"query": "number 3"}}
    for message in (tool.invoke(call), await tool.ainvoke(call)):
        assert ids(message.artifact)[0] == "3"
        assert message.artifact[0].metadata["relevance_score"] == 1.0
        assert message.content.startswith("number 3 odd\n\nnumber ")
