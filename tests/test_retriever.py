"""First stage and reranker as one retriever: depths, keywords, batches, traces."""

from __future__ import annotations

import asyncio
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from langchain_classic.retrievers import EnsembleRetriever
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.tools import create_retriever_tool
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_rerank import (
    Reranker,
    RerankRetriever,
    ScoringError,
    TorchCrossEncoder,
    create_rerank_retriever,
    index_documents,
)
from tests.fakes import WordOverlapCrossEncoder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_chroma import Chroma

DOCUMENTS = [
    Document(f"number {i} {'even' if i % 2 == 0 else 'odd'}", id=str(i), metadata={"i": i})
    for i in range(30)
]


class PositiveEmbedding(DeterministicFakeEmbedding):
    """Cosines of 0–1, as LangChain expects of relevance scores."""

    size: int = 16

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return [abs(value) for value in super().embed_query(text)]


class AllRetriever(BaseRetriever):
    """Takes no keyword and gives all it has; fails where the query says so."""

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        if "fail" in query:
            msg = "the index is gone"
            raise ConnectionError(msg)
        return DOCUMENTS


class KeywordDepthRetriever(BaseRetriever):
    """Takes its depth, and one keyword more, per call."""

    def _get_relevant_documents(
        self, query: str, *, run_manager: Any, k: int = 4, start: int = 0
    ) -> list[Document]:
        return DOCUMENTS[start : start + k]


class FieldDepthRetriever(BaseRetriever):
    """Takes its depth as a field, as LangChain's BM25Retriever does."""

    k: int = 4

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return DOCUMENTS[: self.k]


class TopKRetriever(BaseRetriever):
    top_k: int = 4

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return DOCUMENTS[: self.top_k]


class Gate:
    """What `wait` holds up until `release` has run, which waits in turn until that has begun."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()

    async def release(self) -> None:
        await asyncio.to_thread(self.begun.wait, 5)
        self.go.set()

    def wait(self) -> None:
        self.begun.set()
        if not self.go.wait(timeout=5):
            msg = "the event loop was blocked"
            raise TimeoutError(msg)


class WaitingRetriever(BaseRetriever):
    gate: Any

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        self.gate.wait()
        return DOCUMENTS


class WaitingCrossEncoder(WordOverlapCrossEncoder):
    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        self.gate.wait()
        return super().score(text_pairs)


class BrokenCrossEncoder(WordOverlapCrossEncoder):
    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        msg = "the device is gone"
        raise ConnectionError(msg)


class ReversingCompressor(BaseDocumentCompressor):
    """A compressor without `top_n`."""

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Any = None
    ) -> Sequence[Document]:
        return tuple(reversed(documents))


@pytest.fixture
def model() -> WordOverlapCrossEncoder:
    return WordOverlapCrossEncoder()


@pytest.fixture
def store() -> Chroma:
    return index_documents(
        DOCUMENTS, PositiveEmbedding(), collection_name=f"test-{uuid.uuid4().hex}"
    )


def in_memory() -> InMemoryVectorStore:
    return InMemoryVectorStore.from_documents(DOCUMENTS, PositiveEmbedding())


def ids(documents: list[Document]) -> list[str | None]:
    return [document.id for document in documents]


def passages(model: WordOverlapCrossEncoder) -> list[list[str]]:
    return [[passage for _, passage in call] for call in model.calls]


# Depths

FIRST_STAGES: dict[str, Callable[[Chroma], Any]] = {
    "Chroma": lambda store: store,
    "InMemoryVectorStore": lambda _: in_memory(),
    "as_retriever": lambda store: store.as_retriever(),
    "as_retriever with its own k": lambda store: store.as_retriever(search_kwargs={"k": 2}),
    "mmr": lambda store: store.as_retriever(search_type="mmr"),
    "mmr with its own pool": lambda store: store.as_retriever(
        search_type="mmr", search_kwargs={"fetch_k": 3, "lambda_mult": 0.5}
    ),
    "similarity_score_threshold": lambda store: store.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.0}
    ),
    "no keywords": lambda _: AllRetriever(),
    "k keyword": lambda _: KeywordDepthRetriever(),
    "k field": lambda _: FieldDepthRetriever(),
    "top_k field": lambda _: TopKRetriever(),
    "ensemble": lambda store: EnsembleRetriever(
        retrievers=[AllRetriever(), store.as_retriever(search_kwargs={"k": 20})]
    ),
    "reranked": lambda store: create_rerank_retriever(
        store, reranker=WordOverlapCrossEncoder(), fetch_k=20
    ),
}


@pytest.mark.parametrize("first_stage", FIRST_STAGES.values(), ids=FIRST_STAGES)
async def test_fetch_k_candidates_reach_the_cross_encoder(
    first_stage: Callable[[Chroma], Any], store: Chroma, model: WordOverlapCrossEncoder
) -> None:
    retriever = create_rerank_retriever(first_stage(store), reranker=model, k=3, fetch_k=12)

    found = retriever.invoke("even number")
    assert [len(set(call)) for call in passages(model)] == [12]
    assert len(found) == 3
    assert all(document in DOCUMENTS for document in map(_without_ranking, found))
    assert [document.metadata["relevance_score"] for document in found] == [1.0, 1.0, 1.0]

    assert await retriever.ainvoke("even number") == found
    assert retriever.batch(["even number"]) == [found]
    assert await retriever.abatch(["even number"]) == [found]
    assert [len(set(call)) for call in passages(model)] == [12] * 4


def _without_ranking(document: Document) -> Document:
    kept = {"i": document.metadata["i"]}
    return document.model_copy(update={"metadata": kept})


def test_the_callers_own_parts_stay_as_they_are(model: WordOverlapCrossEncoder) -> None:
    first_stage, reranker = FieldDepthRetriever(), Reranker(model=model, top_n=None)
    retriever = create_rerank_retriever(first_stage, reranker=reranker, k=1, fetch_k=12)
    retriever.invoke("even")
    retriever.batch(["even"])
    assert len(first_stage.invoke("even")) == 4
    assert len(reranker.compress_documents(DOCUMENTS, "even")) == 30


async def test_k_and_fetch_k_can_be_given_per_call(
    store: Chroma, model: WordOverlapCrossEncoder
) -> None:
    retriever = create_rerank_retriever(store, reranker=model, k=5, fetch_k=10)
    assert len(retriever.invoke("even", k=2, fetch_k=7)) == 2
    assert len(await retriever.ainvoke("even", k=3, fetch_k=8)) == 3
    assert [len(found) for found in retriever.batch(["even"], k=4, fetch_k=9)] == [4]
    assert [len(found) for found in await retriever.abatch(["even"], k=6)] == [6]
    assert len(retriever.invoke("even")) == 5
    assert [len(call) for call in model.calls] == [7, 8, 9, 10, 10]


async def test_filter_reaches_the_first_stage(
    store: Chroma, model: WordOverlapCrossEncoder
) -> None:
    retriever = create_rerank_retriever(store, reranker=model, k=3, fetch_k=10)
    below = {"i": {"$lt": 4}}
    for found in (
        retriever.invoke("even", filter=below),
        await retriever.ainvoke("even", filter=below),
        retriever.batch(["even"], filter=below)[0],
        (await retriever.abatch(["even"], filter=below))[0],
    ):
        assert ids(found)[:2] in (["0", "2"], ["2", "0"])
    assert all(len(call) == 4 for call in model.calls)
    retriever.invoke("even")
    assert len(model.calls[-1]) == 10


def test_search_kwargs_hold_for_every_call(store: Chroma, model: WordOverlapCrossEncoder) -> None:
    retriever = create_rerank_retriever(
        store, reranker=model, k=2, search_kwargs={"filter": {"i": {"$gte": 27}}}
    )
    assert ids(retriever.invoke("even"))[0] == "28"
    assert [sorted(call) for call in passages(model)] == [
        ["number 27 odd", "number 28 even", "number 29 odd"]
    ]


def test_keyword_of_the_first_stage_passes(model: WordOverlapCrossEncoder) -> None:
    retriever = create_rerank_retriever(KeywordDepthRetriever(), reranker=model, k=2, fetch_k=4)
    retriever.invoke("even", start=10)
    assert passages(model) == [[DOCUMENTS[i].page_content for i in range(10, 14)]]


@pytest.mark.parametrize(
    "source", [AllRetriever(), KeywordDepthRetriever(), FieldDepthRetriever()], ids=type
)
async def test_keyword_that_the_first_stage_would_drop_is_an_error(
    source: BaseRetriever, model: WordOverlapCrossEncoder
) -> None:
    retriever = create_rerank_retriever(source, reranker=model)
    message = f"the first stage {type(source).__name__} takes no keyword filter"
    with pytest.raises(TypeError, match=message):
        retriever.invoke("even", filter={"i": 1})
    with pytest.raises(TypeError, match=message):
        await retriever.ainvoke("even", filter={"i": 1})
    with pytest.raises(TypeError, match=message):
        retriever.batch(["even"], filter={"i": 1})
    with pytest.raises(TypeError, match=message):
        await retriever.abatch(["even"], filter={"i": 1})
    assert model.calls == []


WRONG_DEPTHS = [
    ({"k": 0}, "k must be > 0, got 0"),
    ({"k": -1}, "k must be > 0, got -1"),
    ({"fetch_k": 0}, "fetch_k must be > 0, got 0"),
    ({"fetch_k": -3}, "fetch_k must be > 0, got -3"),
    ({"k": 8, "fetch_k": 7}, "fetch_k must be at least k, got fetch_k=7 with k=8"),
]


@pytest.mark.parametrize(("depths", "message"), WRONG_DEPTHS)
def test_wrong_depths_are_errors_at_construction(
    depths: dict[str, int], message: str, model: WordOverlapCrossEncoder
) -> None:
    with pytest.raises(ValueError, match=message):
        create_rerank_retriever(AllRetriever(), reranker=model, **depths)
    with pytest.raises(ValueError, match="greater than 0" if len(depths) == 1 else message):
        RerankRetriever(
            base_retriever=AllRetriever(), base_compressor=Reranker(model=model), **depths
        )


@pytest.mark.parametrize(("depths", "message"), WRONG_DEPTHS)
async def test_wrong_depths_are_errors_per_call(
    depths: dict[str, int], message: str, model: WordOverlapCrossEncoder
) -> None:
    retriever = create_rerank_retriever(AllRetriever(), reranker=model)
    with pytest.raises(ValueError, match=message):
        retriever.invoke("even", **depths)
    with pytest.raises(ValueError, match=message):
        await retriever.ainvoke("even", **depths)
    with pytest.raises(ValueError, match=message):
        retriever.batch(["even"], **depths)
    with pytest.raises(ValueError, match=message):
        await retriever.abatch(["even"], **depths)
    assert model.calls == []


def test_top_n_of_the_reranker_is_k_unless_k_is_given(model: WordOverlapCrossEncoder) -> None:
    def found(reranker: Any, **depths: int) -> int:
        retriever = create_rerank_retriever(AllRetriever(), reranker=reranker, **depths)
        return len(retriever.invoke("even"))

    reranker = Reranker(model=model, top_n=2)
    assert found(reranker) == 2
    assert found(reranker, k=4) == 4
    assert len(reranker.compress_documents(DOCUMENTS, "even")) == 2
    assert found(Reranker(model=model, top_n=None), fetch_k=11) == 11
    assert found(model) == 5
    with pytest.raises(ValueError, match="fetch_k=100 with k=101"):
        found(Reranker(model=model, top_n=101))


def test_other_compressors_are_cut_to_k(model: WordOverlapCrossEncoder) -> None:
    first_three = create_rerank_retriever(
        AllRetriever(), reranker=CrossEncoderReranker(model=model), fetch_k=10
    )
    assert ids(first_three.invoke("even")) == ["0", "2", "4"]
    assert ids(first_three.invoke("even", k=5)) == ["0", "2", "4", "6", "8"]

    reversing = create_rerank_retriever(AllRetriever(), reranker=ReversingCompressor(), fetch_k=10)
    assert ids(reversing.invoke("even")) == ["9", "8", "7", "6", "5"]
    assert ids(reversing.invoke("even", k=2)) == ["9", "8"]
    assert [ids(found) for found in reversing.batch(["even", "odd"], k=1)] == [["9"], ["9"]]


async def test_other_compressors_are_cut_to_k_async(model: WordOverlapCrossEncoder) -> None:
    reversing = create_rerank_retriever(AllRetriever(), reranker=ReversingCompressor(), fetch_k=10)
    assert ids(await reversing.ainvoke("even", k=2)) == ["9", "8"]
    assert [ids(found) for found in await reversing.abatch(["even", "odd"], k=1)] == [["9"], ["9"]]


def test_any_runnable_can_be_the_first_stage(model: WordOverlapCrossEncoder) -> None:
    retriever = RerankRetriever(
        base_retriever=RunnableLambda(lambda _: DOCUMENTS),
        base_compressor=Reranker(model=model),
        k=1,
        fetch_k=4,
    )
    assert ids(retriever.invoke("number 3")) == ["3"]
    assert len(model.calls[0]) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": [DOCUMENTS[0]]}, "source must be a VectorStore or a BaseRetriever, got list"),
        ({"reranker": 3}, "reranker must be a model name, .* got int"),
        ({"search_kwargs": {"k": 3}}, "search_kwargs needs a VectorStore as source.* AllRetriever"),
        ({"hybrid": True}, "hybrid=True needs a VectorStore as source.* AllRetriever"),
    ],
    ids=str,
)
def test_parts_that_do_not_fit_are_errors(arguments: dict[str, Any], message: str) -> None:
    defaults = {"source": AllRetriever(), "reranker": WordOverlapCrossEncoder()}
    with pytest.raises(TypeError, match=message):
        create_rerank_retriever(**{**defaults, **arguments})


def test_unknown_field_is_an_error(model: WordOverlapCrossEncoder) -> None:
    with pytest.raises(ValueError, match="top_n"):
        RerankRetriever(
            base_retriever=AllRetriever(), base_compressor=Reranker(model=model), top_n=3
        )


# What comes back


async def test_blank_query_is_an_error(model: WordOverlapCrossEncoder) -> None:
    retriever = create_rerank_retriever(AllRetriever(), reranker=model)
    with pytest.raises(ValueError, match="query must hold text"):
        retriever.invoke(" ")
    with pytest.raises(ValueError, match="query must hold text"):
        await retriever.ainvoke(" ")
    with pytest.raises(TypeError, match="query must be a str, got NoneType"):
        retriever.invoke(None)


async def test_lone_surrogates_in_a_query_are_replaced(
    store: Chroma, model: WordOverlapCrossEncoder
) -> None:
    # The embeddings encode the query as UTF-8, which a lone surrogate is not.
    retriever = create_rerank_retriever(store, reranker=model, k=1, fetch_k=30)
    query = "number 3 \ud800"
    assert ids(retriever.invoke(query)) == ids(await retriever.ainvoke(query)) == ["3"]
    assert [ids(found) for found in retriever.batch([query, "number 4"])] == [["3"], ["4"]]
    assert {scored for call in model.calls for scored, _ in call} == {"number 3 \ufffd", "number 4"}


@pytest.mark.parametrize("kind", ["Chroma", "hybrid", "InMemoryVectorStore"])
async def test_empty_store_gives_no_documents_and_loads_no_model(kind: str) -> None:
    store: Any = InMemoryVectorStore(PositiveEmbedding())
    if kind != "InMemoryVectorStore":
        name = f"test-{uuid.uuid4().hex}"
        store = index_documents([], PositiveEmbedding(), collection_name=name)
    retriever = create_rerank_retriever(store, reranker="no-such/model", hybrid=kind == "hybrid")
    assert retriever.invoke("even") == []
    assert await retriever.ainvoke("even") == []
    assert retriever.batch(["even", "odd"]) == [[], []]
    assert await retriever.abatch(["even", "odd"]) == [[], []]
    assert retriever.batch([]) == []


async def test_other_compressors_are_not_asked_about_no_documents() -> None:
    class RefusingCompressor(ReversingCompressor):
        def compress_documents(self, documents: Any, query: str, callbacks: Any = None) -> Any:
            raise AssertionError(documents)

    retriever = create_rerank_retriever(
        InMemoryVectorStore(PositiveEmbedding()), reranker=RefusingCompressor()
    )
    assert retriever.invoke("even") == []
    assert await retriever.ainvoke("even") == []


def test_real_model_puts_the_answer_first(store: Chroma, cross_encoder: TorchCrossEncoder) -> None:
    answer = Document("Berlin had a population of 3,520,031 registered inhabitants.", id="answer")
    store.add_documents([answer, Document("Berlin is well known for its museums.", id="museums")])
    retriever = create_rerank_retriever(store, reranker=cross_encoder, k=1, fetch_k=32)
    assert ids(retriever.invoke("How many people live in Berlin?")) == ["answer"]


# Batches

QUERIES = ["number 3", "odd 7", "even"]


async def test_batch_gives_the_same_in_one_pass(
    store: Chroma, model: WordOverlapCrossEncoder
) -> None:
    retriever = create_rerank_retriever(store, reranker=model, k=3, fetch_k=30)
    one_by_one = [retriever.invoke(query) for query in QUERIES]
    assert [ids(found)[0] for found in one_by_one[:2]] == ["3", "7"]
    model.calls.clear()

    assert retriever.batch(QUERIES) == one_by_one
    assert [len(call) for call in model.calls] == [90]
    assert await retriever.abatch(QUERIES) == one_by_one
    assert [len(call) for call in model.calls] == [90, 90]
    assert retriever.batch(QUERIES, {"max_concurrency": 1}) == one_by_one


async def test_one_bad_query_leaves_the_others_their_answers(
    model: WordOverlapCrossEncoder,
) -> None:
    retriever = create_rerank_retriever(AllRetriever(), reranker=model, k=1)
    queries = ["number 3", " ", "fail", "number 7"]
    for outcomes in (
        retriever.batch(queries, return_exceptions=True),
        await retriever.abatch(queries, return_exceptions=True),
    ):
        first, blank, failed, last = outcomes
        assert (ids(first), ids(last)) == (["3"], ["7"])
        assert isinstance(blank, ValueError)
        assert str(failed) == "the index is gone"
        assert isinstance(failed, ConnectionError)
    assert [len(call) for call in model.calls] == [60, 60]

    with pytest.raises(ValueError, match="query must hold text"):
        retriever.batch(queries)
    with pytest.raises(ConnectionError, match="the index is gone"):
        await retriever.abatch(["number 3", "fail"])


async def test_scoring_that_fails_in_a_batch() -> None:
    broken = BrokenCrossEncoder()
    raising = create_rerank_retriever(AllRetriever(), reranker=broken, k=2)
    with pytest.raises(ScoringError, match="the device is gone"):
        raising.batch(QUERIES)
    outcomes = await raising.abatch(QUERIES, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ScoringError] * 3
    assert isinstance(outcomes[2].__cause__, ConnectionError)

    keeping = create_rerank_retriever(
        AllRetriever(), reranker=Reranker(model=broken, on_error="keep_order"), k=2
    )
    assert [ids(found) for found in keeping.batch(QUERIES)] == [["0", "1"]] * 3
    assert [ids(found) for found in await keeping.abatch(QUERIES)] == [["0", "1"]] * 3


def test_threads_get_what_one_caller_gets(store: Chroma, model: WordOverlapCrossEncoder) -> None:
    retriever = create_rerank_retriever(store, reranker=model, k=3, fetch_k=30, hybrid=True)
    queries = [f"number {i}" for i in range(30)]
    expected = [ids(retriever.invoke(query)) for query in queries]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda query: ids(retriever.invoke(query)), queries))
    assert found == expected
    assert [first for first, *_ in found] == [str(i) for i in range(30)]


# Traces


async def test_each_query_of_a_batch_is_one_run_with_both_stages(
    model: WordOverlapCrossEncoder,
) -> None:
    retriever = create_rerank_retriever(AllRetriever(), reranker=model, k=1, fetch_k=10)
    queries = ["number 3", " ", "fail", "number 7"]
    for run_batch in (retriever.batch, retriever.abatch):
        collector = RunCollectorCallbackHandler()
        config = {"callbacks": [collector], "tags": ["mine"], "metadata": {"user": "u1"}}
        outcomes = run_batch(queries, config, return_exceptions=True)
        if asyncio.iscoroutine(outcomes):
            outcomes = await outcomes

        runs = {run.inputs["query"]: run for run in collector.traced_runs}
        assert len(collector.traced_runs) == len(runs) == 4
        assert {(run.name, run.run_type) for run in runs.values()} == {
            ("RerankRetriever", "retriever")
        }
        assert all("mine" in run.tags for run in runs.values())
        assert all(run.extra["metadata"]["user"] == "u1" for run in runs.values())

        assert runs["number 7"].outputs["documents"] == outcomes[3]
        first_stage, reranking = runs["number 7"].child_runs
        assert (first_stage.name, first_stage.run_type) == ("AllRetriever", "retriever")
        assert len(first_stage.outputs["documents"]) == 30
        assert (reranking.name, reranking.inputs["query"]) == ("Reranker", "number 7")
        assert reranking.extra["metadata"]["documents_in"] == 10
        assert ids(reranking.outputs["output"]) == ["7"]

        assert "query must hold text" in runs[" "].error
        assert runs[" "].child_runs == []
        assert "the index is gone" in runs["fail"].error
        assert [child.name for child in runs["fail"].child_runs] == ["AllRetriever"]


async def test_invoke_and_batch_leave_the_same_trace(model: WordOverlapCrossEncoder) -> None:
    retriever = create_rerank_retriever(AllRetriever(), reranker=model, k=1)

    def tree(run: Any) -> tuple[Any, ...]:
        metadata = sorted(run.extra["metadata"].items())
        return run.name, run.run_type, sorted(run.tags), metadata, [*map(tree, run.child_runs)]

    def config() -> dict[str, Any]:
        collector = RunCollectorCallbackHandler()
        collectors.append(collector)
        return {"callbacks": [collector], "metadata": {"user": "u1"}, "run_name": "mine"}

    collectors: list[RunCollectorCallbackHandler] = []
    retriever.invoke("even", config())
    retriever.batch(["even"], config())
    await retriever.ainvoke("even", config())
    await retriever.abatch(["even"], config())
    trees = [tree(run) for collector in collectors for run in collector.traced_runs]
    assert len(trees) == 4
    assert trees[0][0] == "mine"
    assert trees[1:] == trees[:1] * 3


@pytest.mark.parametrize("hybrid", [False, True])
async def test_in_a_chain_both_stages_are_traced_below_the_retriever(
    model: WordOverlapCrossEncoder,
    hybrid: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    documents = [Document("even"), Document("odd")]
    embeddings = DeterministicFakeEmbedding(size=8)
    store = index_documents(documents, embeddings, collection_name="traced-in-a-chain")
    retriever = create_rerank_retriever(store, reranker=model, k=1, fetch_k=2, hybrid=hybrid)
    chain = RunnablePassthrough() | retriever
    collector = RunCollectorCallbackHandler()
    config: Any = {"callbacks": [collector]}
    chain.invoke("even", config)
    await chain.ainvoke("even", config)
    chain.batch(["even"], config)
    assert len(collector.traced_runs) == 3
    first_stage = "HybridRetriever" if hybrid else "VectorStoreRetriever"
    for run in collector.traced_runs:
        assert [child.name for child in run.child_runs] == [
            "RunnablePassthrough",
            "RerankRetriever",
        ]
        below = run.child_runs[1].child_runs
        assert [child.name for child in below] == [first_stage, "Reranker"]
        if hybrid:
            searches = {child.name for child in below[0].child_runs}
            assert searches == {"VectorStoreRetriever", "KeywordRetriever"}


async def test_batch_takes_a_config_for_each_query(model: WordOverlapCrossEncoder) -> None:
    retriever = create_rerank_retriever(AllRetriever(), reranker=model, k=1)
    one, two = RunCollectorCallbackHandler(), RunCollectorCallbackHandler()
    configs = [
        {"callbacks": [one], "run_name": "first", "run_id": uuid.uuid4()},
        {"callbacks": [two], "run_name": "second", "tags": ["b"]},
    ]
    expected_id = configs[0]["run_id"]
    retriever.batch(["even", "odd"], configs)
    await retriever.abatch(["even", "odd"], [{"callbacks": [one]}, {"callbacks": [two]}])

    assert [(run.name, run.inputs["query"]) for run in one.traced_runs] == [
        ("first", "even"),
        ("RerankRetriever", "even"),
    ]
    assert one.traced_runs[0].id == expected_id
    assert [(run.name, run.inputs["query"]) for run in two.traced_runs] == [
        ("second", "odd"),
        ("RerankRetriever", "odd"),
    ]
    assert two.traced_runs[0].tags == ["b"]
    assert [child.name for child in two.traced_runs[0].child_runs] == ["AllRetriever", "Reranker"]


def test_failed_scoring_shows_in_every_run_of_the_batch() -> None:
    retriever = create_rerank_retriever(AllRetriever(), reranker=BrokenCrossEncoder())
    collector = RunCollectorCallbackHandler()
    retriever.batch(["even", "odd"], {"callbacks": [collector]}, return_exceptions=True)
    assert len(collector.traced_runs) == 2
    for run in collector.traced_runs:
        assert "the device is gone" in run.error
        assert "the device is gone" in run.child_runs[1].error


# Async and agents


@pytest.mark.parametrize("method", ["ainvoke", "abatch"])
async def test_async_does_not_block_the_event_loop(method: str) -> None:
    model = WaitingCrossEncoder()
    first_stage = WaitingRetriever(gate=Gate())
    retriever = create_rerank_retriever(first_stage, reranker=model, k=1)
    query: Any = "number 3" if method == "ainvoke" else ["number 3"]
    found, *_ = await asyncio.gather(
        getattr(retriever, method)(query), first_stage.gate.release(), model.gate.release()
    )
    assert ids(found if method == "ainvoke" else found[0]) == ["3"]


async def test_serves_an_agent_as_a_tool(store: Chroma, model: WordOverlapCrossEncoder) -> None:
    retriever = create_rerank_retriever(store, reranker=model, k=2, fetch_k=30)
    tool = create_retriever_tool(
        retriever, "search", "Searches numbers.", response_format="content_and_artifact"
    )
    call = {"type": "tool_call", "id": "1", "name": "search", "args": {"query": "number 3"}}
    for message in (tool.invoke(call), await tool.ainvoke(call)):
        assert message.tool_call_id == "1"
        assert ids(message.artifact)[0] == "3"
        assert message.artifact[0].metadata["relevance_score"] == 1.0
        assert message.content.startswith("number 3 odd\n\nnumber ")


class Stopping(WordOverlapCrossEncoder):
    """Raises what no `except Exception` may hold back."""

    def score(self, text_pairs):
        raise KeyboardInterrupt


class WaitingForGo(WordOverlapCrossEncoder):
    """Scores once it may; `entered` tells that it was asked."""

    def __init__(self):
        super().__init__()
        self.entered, self.go = threading.Event(), threading.Event()

    def score(self, text_pairs):
        self.entered.set()
        self.go.wait(timeout=10)
        return super().score(text_pairs)


@pytest.mark.parametrize("return_exceptions", [True, False])
def test_ctrl_c_ends_a_batch(return_exceptions):
    retriever = create_rerank_retriever(AllRetriever(), reranker=Stopping())
    with pytest.raises(KeyboardInterrupt):
        retriever.batch(["even", "odd"], return_exceptions=return_exceptions)


async def test_a_cancelled_batch_is_cancelled():
    model = WaitingForGo()
    retriever = create_rerank_retriever(AllRetriever(), reranker=model)
    task = asyncio.create_task(retriever.abatch(["even", "odd"], return_exceptions=True))
    await asyncio.to_thread(model.entered.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    model.go.set()


@pytest.mark.parametrize("inner", [{"k": 2, "fetch_k": 3}, {}])
def test_a_rerank_retriever_can_be_the_first_stage(inner):
    first = create_rerank_retriever(AllRetriever(), reranker=WordOverlapCrossEncoder(), **inner)
    model = WordOverlapCrossEncoder()
    found = create_rerank_retriever(first, reranker=model, k=4).invoke("even")
    assert len(found) == 4
    assert len(model.calls[0]) == len(DOCUMENTS)


@pytest.mark.parametrize("wrong", [2.5, "3", True])
def test_depths_that_are_no_ints_are_refused(wrong):
    retriever = create_rerank_retriever(AllRetriever(), reranker=WordOverlapCrossEncoder())
    with pytest.raises(TypeError, match=r"^k must be an int"):
        retriever.invoke("even", k=wrong)
