"""A retriever's calls: what they return, fail with, wait for, and leave in traces."""

from __future__ import annotations

import asyncio
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from langchain_core.runnables import RunnablePassthrough
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from langchain_rerank import index_documents
from tests.fakes import Gate, GatedCrossEncoder
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


# Faults and async


def test_odd_queries(store, model):
    fails(ValueError, "query must hold text", retriever_of(model), " ")
    fails(TypeError, "query must be a str, got NoneType", retriever_of(model), None)
    retriever = retriever_of(model, store, k=1, fetch_k=30)
    assert [ids(found) for found in every_way(retriever, "number 3 \ud800")] == [["3"]] * 4
    assert {scored for call in model.calls for scored, _ in call} == {"number 3 \ufffd"}


@pytest.mark.parametrize("kind", ["Chroma", "hybrid", "InMemoryVectorStore"])
@pytest.mark.parametrize("reranker", ["no-such/model", ReversingCompressor()], ids=type)
def test_empty_store_gives_no_documents_and_loads_no_model(kind, reranker):
    empty = in_memory([])
    if kind != "InMemoryVectorStore":
        empty = index_documents([], PositiveEmbedding(), collection_name=uuid.uuid4().hex)
    retriever = retriever_of(reranker, empty, hybrid=kind == "hybrid")
    assert every_way(retriever, "even") == [[]] * 4
    assert retriever.batch([]) == []


async def test_one_bad_query_leaves_the_others_their_answers(model):
    retriever = retriever_of(model, k=1)
    queries = ["number 3", " ", "fail", "number 7"]
    for outcomes in (
        retriever.batch(queries, {"max_concurrency": 1}, return_exceptions=True),
        await retriever.abatch(queries, return_exceptions=True),
    ):
        assert [ids(outcomes[0]), ids(outcomes[3])] == [["3"], ["7"]]
        kinds = [type(one).__name__ for one in outcomes[1:3]]
        assert kinds == ["ValidationError", "ConnectionError"]


def test_threads_get_what_one_caller_gets(store, model):
    retriever = retriever_of(model, store, k=1, fetch_k=30, hybrid=True)
    queries = [f"number {i}" for i in range(30)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda query: ids(retriever.invoke(query)), queries))
    assert found == [[str(i)] for i in range(30)]


async def test_async_does_not_block_the_event_loop():
    model, first_stage = GatedCrossEncoder(), AllRetriever(gate=Gate())
    asked = retriever_of(model, first_stage, k=1).ainvoke("number 3")
    found, *_ = await asyncio.gather(asked, first_stage.gate.release(), model.gate.release())
    assert ids(found) == ["3"]


# Traces and agents


def tree(run):
    metadata = sorted(run.extra["metadata"].items())
    children = [tree(child) for child in run.child_runs]
    return run.name, run.run_type, sorted(run.tags), metadata, bool(run.error), children


@pytest.mark.parametrize(
    ("query", "stages"),
    [("number 7", ["AllRetriever", "Reranker"]), (" ", []), ("fail", ["AllRetriever"])],
)
async def test_each_query_is_one_run_with_both_stages_however_it_is_asked(query, stages, model):
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
def test_in_a_chain_both_stages_are_traced_below_the_retriever(store, model, kind):
    own = {"with_config": store.as_retriever().with_config(tags=["mine"])}
    source = own.get(kind, store.as_retriever().bind(k=1) if kind == "bind" else store)
    options = {"k": 1, "fetch_k": 2, "hybrid": kind == "HybridRetriever"}
    chain = RunnablePassthrough() | retriever_of(model, source, **options)
    collector = RunCollectorCallbackHandler()
    every_way(chain, "even", {"callbacks": [collector]})
    assert len(collector.traced_runs) == 4
    for run in collector.traced_runs:
        names = [child.name for child in run.child_runs]
        assert names == ["RunnablePassthrough", "RerankRetriever"]
        first_stage, reranking = run.child_runs[1].child_runs
        assert reranking.name == "Reranker"
        assert first_stage.name == (kind if "Retriever" in kind else "VectorStoreRetriever")
