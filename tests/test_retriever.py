"""First stage and reranker as one retriever: depths, keywords, batches, traces."""

from __future__ import annotations

import asyncio
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from langchain_classic.retrievers import EnsembleRetriever
from langchain_classic.retrievers.document_compressors import (
    CrossEncoderReranker,
    DocumentCompressorPipeline,
)
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
from tests.fakes import (
    BrokenCrossEncoder,
    Gate,
    GatedCrossEncoder,
    InstructedCrossEncoder,
    WordOverlapCrossEncoder,
)

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

    documents: list[Document] = DOCUMENTS
    gate: Any = None

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        if self.gate:
            self.gate.wait()
        if "fail" in query:
            msg = "the index is gone"
            raise ConnectionError(msg)
        return self.documents


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


class ReversingCompressor(BaseDocumentCompressor):
    """A compressor without `top_n`, which must not be asked about nothing."""

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Any = None
    ) -> Sequence[Document]:
        assert documents
        return tuple(reversed(documents))


class FilterCompressor(BaseDocumentCompressor):
    """Says by `k` how many it keeps, as LangChain's EmbeddingsFilter does."""

    k: int | None = 20

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Any = None
    ) -> Sequence[Document]:
        return documents[: self.k]


class StoppingCrossEncoder(WordOverlapCrossEncoder):
    """Raises what no `except Exception` may hold back."""

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        raise KeyboardInterrupt


@pytest.fixture
def model() -> WordOverlapCrossEncoder:
    return WordOverlapCrossEncoder()


@pytest.fixture
def store() -> Chroma:
    return index_documents(
        DOCUMENTS, PositiveEmbedding(), collection_name=f"test-{uuid.uuid4().hex}"
    )


def in_memory(documents: list[Document]) -> InMemoryVectorStore:
    return InMemoryVectorStore.from_documents(documents, PositiveEmbedding())


def ids(documents: list[Document]) -> list[str | None]:
    return [document.id for document in documents]


def every_way(retriever: RerankRetriever, query: Any, **keywords: Any) -> list[list[Document]]:
    """What `invoke`, `ainvoke`, `batch` and `abatch` give, as outcomes of one query."""

    async def both() -> list[Any]:
        batch = await retriever.abatch([query], return_exceptions=True, **keywords)
        return [
            *batch,
            *await asyncio.gather(retriever.ainvoke(query, **keywords), return_exceptions=True),
        ]

    try:
        first: Any = retriever.invoke(query, **keywords)
    except Exception as error:  # noqa: BLE001  # an outcome
        first = error
    return [
        first,
        *retriever.batch([query], return_exceptions=True, **keywords),
        *asyncio.run(both()),
    ]


def fails(
    error: type[Exception], message: str, retriever: Any, query: Any, **keywords: Any
) -> None:
    for outcome in every_way(retriever, query, **keywords):
        with pytest.raises(error, match=message):
            raise outcome


# Depths

FIRST_STAGES: dict[str, Callable[[Chroma], Any]] = {
    "Chroma": lambda store: store,
    "InMemoryVectorStore": lambda _: in_memory(DOCUMENTS),
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
    "reranked, shallow": lambda store: create_rerank_retriever(
        store, reranker=WordOverlapCrossEncoder(), k=2, fetch_k=3
    ),
    "repeating itself": lambda _: AllRetriever(documents=DOCUMENTS[:1] * 40 + DOCUMENTS),
    "function": lambda _: RunnableLambda(lambda _: DOCUMENTS),
}


@pytest.mark.parametrize("first_stage", FIRST_STAGES.values(), ids=FIRST_STAGES)
def test_fetch_k_candidates_reach_the_cross_encoder(first_stage, store, model) -> None:
    retriever = create_rerank_retriever(first_stage(store), reranker=model, k=3, fetch_k=12)
    found, *others = every_way(retriever, "even number")
    assert [len(set(call)) for call in model.calls] == [12] * 4
    assert others == [found] * 3
    assert len(found) == 3
    for document in found:
        metadata = {"i": document.metadata["i"]}
        assert document.model_copy(update={"metadata": metadata}) in DOCUMENTS
        assert document.metadata["relevance_score"] == 1.0


@pytest.mark.parametrize("deduplicate", [True, False])
def test_candidates_are_made_distinct_by_the_rerankers_rule(model, *, deduplicate: bool) -> None:
    pages = [Document("Preface", metadata={"page": page}) for page in (1, 1, 2, 2, 3)]
    reranker = Reranker(model=model, rank_fields=("page",), deduplicate=deduplicate)
    retriever = create_rerank_retriever(
        AllRetriever(documents=pages), reranker=reranker, k=3, fetch_k=3
    )
    found = [document.metadata["page"] for document in retriever.invoke("preface")]
    assert found == ([1, 2, 3] if deduplicate else [1, 1, 2])


def test_the_callers_own_parts_stay_as_they_are(model) -> None:
    first_stage, reranker = FieldDepthRetriever(), Reranker(model=model, top_n=None)
    every_way(create_rerank_retriever(first_stage, reranker=reranker, k=1, fetch_k=12), "even")
    assert len(first_stage.invoke("even")) == 4
    assert len(reranker.compress_documents(DOCUMENTS, "even")) == 30


def test_k_fetch_k_and_keywords_can_be_given_per_call(store, model) -> None:
    retriever = create_rerank_retriever(store, reranker=model, k=5, fetch_k=10)
    assert {len(found) for found in every_way(retriever, "even", k=2, fetch_k=7)} == {2}
    for found in every_way(retriever, "even", k=3, filter={"i": {"$lt": 4}}):
        assert ids(found)[:2] in (["0", "2"], ["2", "0"])
    assert len(retriever.invoke("even")) == 5
    assert [len(call) for call in model.calls] == [7] * 4 + [4] * 4 + [10]


def test_search_kwargs_hold_for_every_call(store, model) -> None:
    options = {"filter": {"i": {"$gte": 27}}}
    retriever = create_rerank_retriever(store, reranker=model, k=2, search_kwargs=options)
    assert ids(retriever.invoke("even"))[0] == "28"
    assert sorted(passage for _, passage in model.calls[0]) == [
        document.page_content for document in DOCUMENTS[27:]
    ]


def test_keyword_of_the_first_stage_passes(model) -> None:
    retriever = create_rerank_retriever(KeywordDepthRetriever(), reranker=model, k=2, fetch_k=4)
    every_way(retriever, "even", start=10)
    passages = [("even", document.page_content) for document in DOCUMENTS[10:14]]
    assert model.calls == [passages] * 4


WRONG_DEPTHS = [
    ({"k": 0}, "k must be > 0, got 0"),
    ({"k": -1}, "k must be > 0, got -1"),
    ({"fetch_k": 0}, "fetch_k must be > 0, got 0"),
    ({"fetch_k": -3}, "fetch_k must be > 0, got -3"),
    ({"k": 8, "fetch_k": 7}, "fetch_k must be at least k, got fetch_k=7 with k=8"),
]


@pytest.mark.parametrize(("depths", "message"), WRONG_DEPTHS)
def test_wrong_depths_are_errors(depths: dict[str, Any], message: str, model) -> None:
    with pytest.raises(ValueError, match=message):
        create_rerank_retriever(AllRetriever(), reranker=model, **depths)
    parts: Any = {"base_retriever": AllRetriever(), "base_compressor": Reranker(model=model)}
    with pytest.raises(ValueError, match=message):
        RerankRetriever(**parts, **depths)
    fails(ValueError, message, RerankRetriever(**parts), "even", **depths)
    assert model.calls == []


@pytest.mark.parametrize("wrong", [2.5, "3", True])
def test_depths_that_are_no_ints_are_refused(wrong, model) -> None:
    retriever = create_rerank_retriever(AllRetriever(), reranker=model)
    fails(TypeError, "^k must be an int", retriever, "even", k=wrong)


def pipeline(*steps: BaseDocumentCompressor) -> DocumentCompressorPipeline:
    return DocumentCompressorPipeline(transformers=[*steps])


FAKE = WordOverlapCrossEncoder()
FILTER = FilterCompressor(k=8)
KEPT = {
    "reranker": (Reranker(model=FAKE), {}, 5),
    "its top_n": (Reranker(model=FAKE, top_n=2), {}, 2),
    "all": (Reranker(model=FAKE, top_n=None), {"fetch_k": 11}, 11),
    "no more than fetch_k": (Reranker(model=FAKE), {"fetch_k": 3}, 3),
    "k before top_n": (Reranker(model=FAKE, top_n=2), {"k": 4}, 4),
    "LangChain's, its top_n": (CrossEncoderReranker(model=FAKE), {}, 3),
    "LangChain's": (CrossEncoderReranker(model=FAKE), {"k": 7}, 7),
    "without a number": (ReversingCompressor(), {}, 5),
    "without a number, k": (ReversingCompressor(), {"k": 2}, 2),
    "filter": (FILTER, {"k": 12}, 12),
    "pipeline": (pipeline(Reranker(model=FAKE)), {"k": 10}, 10),
    "pipeline, its top_n": (pipeline(Reranker(model=FAKE, top_n=7), ReversingCompressor()), {}, 7),
    "pipeline, a filter before": (pipeline(FILTER, Reranker(model=FAKE)), {"k": 10}, 10),
    "pipeline, a wide filter": (
        pipeline(Reranker(model=FAKE, top_n=9), Reranker(model=FAKE, top_n=2)),
        {},
        2,
    ),
    "pipeline of pipelines": (pipeline(pipeline(Reranker(model=FAKE))), {"k": 20}, 20),
}


@pytest.mark.parametrize(("reranker", "depths", "kept"), KEPT.values(), ids=KEPT)
def test_k_is_how_many_come_back(reranker, depths, kept) -> None:
    before = reranker.model_dump()
    made = create_rerank_retriever(AllRetriever(), reranker=reranker, **depths)
    direct = RerankRetriever(base_retriever=AllRetriever(), base_compressor=reranker, **depths)
    for retriever in (made, direct):
        assert {len(found) for found in every_way(retriever, "even")} == {kept}
        assert {len(found) for found in every_way(retriever, "even", k=3)} == {3}
    assert reranker.model_dump() == before


def test_earlier_steps_of_a_pipeline_keep_their_numbers() -> None:
    last = WordOverlapCrossEncoder()
    steps = pipeline(Reranker(model=FAKE, top_n=9), Reranker(model=last, top_n=2))
    create_rerank_retriever(AllRetriever(), reranker=steps).invoke("even")
    assert len(last.calls[0]) == 9


def test_a_top_n_over_fetch_k_is_an_error(model) -> None:
    with pytest.raises(ValueError, match="fetch_k=100 with k=101"):
        create_rerank_retriever(AllRetriever(), reranker=Reranker(model=model, top_n=101))


@pytest.mark.parametrize("wrap", [lambda reranker: reranker, pipeline])
def test_instruction_can_be_given_per_call(wrap) -> None:
    model = InstructedCrossEncoder()
    retriever = create_rerank_retriever(
        AllRetriever(documents=DOCUMENTS[:1]), reranker=wrap(Reranker(model=model))
    )
    every_way(retriever, "even", instruction="for lawyers")
    assert model.calls == [[("for lawyers: even", "number 0 even")]] * 4
    fails(ValueError, "no such instruction", retriever, "even", instruction="refused")


@pytest.mark.parametrize(
    "reranker", [FAKE, CrossEncoderReranker(model=FAKE), pipeline(Reranker(model=FAKE))], ids=type
)
def test_an_instruction_is_never_dropped(reranker) -> None:
    retriever = create_rerank_retriever(AllRetriever(), reranker=reranker)
    fails(ValueError, "takes n", retriever, "even", instruction="for lawyers")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": [DOCUMENTS[0]]}, "source must be a VectorStore or a Runnable .* got list"),
        ({"reranker": 3}, "reranker must be a model name or path, .* got int"),
        ({"search_kwargs": {"k": 3}}, "search_kwargs needs a VectorStore as source.* AllRetriever"),
        ({"hybrid": True}, "hybrid=True needs a VectorStore as source.* AllRetriever"),
    ],
    ids=["source", "reranker", "search_kwargs", "hybrid"],
)
def test_parts_that_do_not_fit_are_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        create_rerank_retriever(**{"source": AllRetriever(), "reranker": FAKE, **arguments})


def test_fields_that_lack_or_are_unknown_are_errors() -> None:
    parts: Any = {"base_retriever": AllRetriever(), "base_compressor": Reranker(model=FAKE)}
    with pytest.raises(ValueError, match="top_n"):
        RerankRetriever(**parts, top_n=3)
    with pytest.raises(ValueError, match="base_compressor"):
        RerankRetriever(base_retriever=AllRetriever())


# What comes back


def test_wrong_queries_are_errors(model) -> None:
    retriever = create_rerank_retriever(AllRetriever(), reranker=model)
    fails(ValueError, "query must hold text", retriever, " ")
    fails(TypeError, "query must be a str, got NoneType", retriever, None)


def test_lone_surrogates_in_a_query_are_replaced(store, model) -> None:
    # The embeddings encode the query as UTF-8, which a lone surrogate is not.
    retriever = create_rerank_retriever(store, reranker=model, k=1, fetch_k=30)
    assert [ids(found) for found in every_way(retriever, "number 3 \ud800")] == [["3"]] * 4
    assert {scored for call in model.calls for scored, _ in call} == {"number 3 \ufffd"}


@pytest.mark.parametrize("kind", ["Chroma", "hybrid", "InMemoryVectorStore"])
@pytest.mark.parametrize("reranker", ["no-such/model", ReversingCompressor()], ids=type)
def test_empty_store_gives_no_documents_and_loads_no_model(kind: str, reranker) -> None:
    store: Any = in_memory([])
    if kind != "InMemoryVectorStore":
        name = f"test-{uuid.uuid4().hex}"
        store = index_documents([], PositiveEmbedding(), collection_name=name)
    retriever = create_rerank_retriever(store, reranker=reranker, hybrid=kind == "hybrid")
    assert every_way(retriever, "even") == [[]] * 4
    assert retriever.batch([]) == []


def test_real_model_puts_the_answer_first(store, cross_encoder: TorchCrossEncoder) -> None:
    answer = Document("Berlin had a population of 3,520,031 registered inhabitants.", id="answer")
    store.add_documents([answer, Document("Berlin is well known for its museums.", id="museums")])
    retriever = create_rerank_retriever(store, reranker=cross_encoder, k=1, fetch_k=32)
    assert ids(retriever.invoke("How many people live in Berlin?")) == ["answer"]


# Batches


async def test_one_bad_query_leaves_the_others_their_answers(model) -> None:
    retriever = create_rerank_retriever(AllRetriever(), reranker=model, k=1)
    queries = ["number 3", " ", "fail", "number 7"]
    for outcomes in (
        retriever.batch(queries, {"max_concurrency": 1}, return_exceptions=True),
        await retriever.abatch(queries, return_exceptions=True),
    ):
        assert [ids(outcomes[0]), ids(outcomes[3])] == [["3"], ["7"]]
        assert isinstance(outcomes[1], ValueError)
        assert isinstance(outcomes[2], ConnectionError)
    with pytest.raises(ValueError, match="query must hold text"):
        retriever.batch(queries)
    with pytest.raises(ConnectionError, match="the index is gone"):
        await retriever.abatch(["number 3", "fail"])


def test_scoring_that_fails() -> None:
    broken = BrokenCrossEncoder()
    fails(ScoringError, "gone", create_rerank_retriever(AllRetriever(), reranker=broken), "even")
    reranker = Reranker(model=broken, on_error="keep_order")
    keeping = create_rerank_retriever(AllRetriever(), reranker=reranker, k=2)
    assert [ids(found) for found in every_way(keeping, "even")] == [["0", "1"]] * 4


def test_threads_get_what_one_caller_gets(store, model) -> None:
    retriever = create_rerank_retriever(store, reranker=model, k=3, fetch_k=30, hybrid=True)
    queries = [f"number {i}" for i in range(30)]
    expected = [ids(retriever.invoke(query)) for query in queries]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda query: ids(retriever.invoke(query)), queries))
    assert found == expected
    assert [first for first, *_ in found] == [str(i) for i in range(30)]


@pytest.mark.parametrize("return_exceptions", [True, False])
def test_ctrl_c_ends_a_batch(*, return_exceptions: bool) -> None:
    retriever = create_rerank_retriever(AllRetriever(), reranker=StoppingCrossEncoder())
    with pytest.raises(KeyboardInterrupt):
        retriever.batch(["even", "odd"], return_exceptions=return_exceptions)


async def test_a_cancelled_batch_is_cancelled() -> None:
    model = GatedCrossEncoder()
    retriever = create_rerank_retriever(AllRetriever(), reranker=model)
    task = asyncio.create_task(retriever.abatch(["even", "odd"], return_exceptions=True))
    await asyncio.to_thread(model.gate.begun.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    model.gate.go.set()


@pytest.mark.parametrize("method", ["ainvoke", "abatch"])
async def test_async_does_not_block_the_event_loop(method: str) -> None:
    model, first_stage = GatedCrossEncoder(), AllRetriever(gate=Gate())
    retriever = create_rerank_retriever(first_stage, reranker=model, k=1)
    query: Any = "number 3" if method == "ainvoke" else ["number 3"]
    found, *_ = await asyncio.gather(
        getattr(retriever, method)(query), first_stage.gate.release(), model.gate.release()
    )
    assert ids(found if method == "ainvoke" else found[0]) == ["3"]


# Traces and agents


def tree(run: Any) -> tuple[Any, ...]:
    metadata = sorted(run.extra["metadata"].items())
    children = [tree(child) for child in run.child_runs]
    return run.name, run.run_type, sorted(run.tags), metadata, bool(run.error), children


@pytest.mark.parametrize("query", ["number 7", " ", "fail"])
async def test_each_query_is_one_run_with_both_stages_however_it_is_asked(query, model) -> None:
    retriever = create_rerank_retriever(AllRetriever(), reranker=model, k=1, fetch_k=10)
    collector = RunCollectorCallbackHandler()
    run_id = uuid.uuid4()
    config: Any = {
        "callbacks": [collector],
        "tags": ["mine"],
        "metadata": {"user": "u1"},
        "run_name": "named",
    }
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
    stages = {" ": [], "fail": ["AllRetriever"], "number 7": ["AllRetriever", "Reranker"]}[query]
    assert [child.name for child in first.child_runs] == stages
    if query == "number 7":
        searched, reranked = first.child_runs
        assert len(searched.outputs["documents"]) == 30
        assert reranked.extra["metadata"]["documents_in"] == 10
        assert ids(first.outputs["documents"]) == ids(reranked.outputs["output"]) == ["7"]


@pytest.mark.parametrize("kind", ["VectorStoreRetriever", "HybridRetriever", "with_config", "bind"])
async def test_in_a_chain_both_stages_are_traced_below_the_retriever(model, kind: str) -> None:
    documents = [Document("even"), Document("odd")]
    source: Any = index_documents(documents, PositiveEmbedding(), collection_name=f"in-a-{kind}")
    if kind == "with_config":
        source = source.as_retriever().with_config(tags=["mine"])
    elif kind == "bind":
        source = source.as_retriever().bind(k=1)
    hybrid = kind == "HybridRetriever"
    retriever = create_rerank_retriever(source, reranker=model, k=1, fetch_k=2, hybrid=hybrid)
    chain = RunnablePassthrough() | retriever
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
        assert first_stage.name == ("HybridRetriever" if hybrid else "VectorStoreRetriever")


def test_batch_takes_a_config_for_each_query(model) -> None:
    retriever = create_rerank_retriever(AllRetriever(), reranker=model, k=1)
    one, two = RunCollectorCallbackHandler(), RunCollectorCallbackHandler()
    configs: Any = [
        {"callbacks": [one], "run_name": "first"},
        {"callbacks": [two], "tags": ["second"]},
    ]
    retriever.batch(["even", "odd"], configs)
    assert [(run.name, run.inputs["query"]) for run in one.traced_runs] == [("first", "even")]
    assert [(run.tags, run.inputs["query"]) for run in two.traced_runs] == [(["second"], "odd")]


async def test_serves_an_agent_as_a_tool(store, model) -> None:
    retriever = create_rerank_retriever(store, reranker=model, k=2, fetch_k=30)
    tool = create_retriever_tool(
        retriever, "search", "Searches numbers.", response_format="content_and_artifact"
    )
    call: Any = {"type": "tool_call", "id": "1", "name": "search", "args": {"query": "number 3"}}
    for message in (tool.invoke(call), await tool.ainvoke(call)):
        assert ids(message.artifact)[0] == "3"
        assert message.artifact[0].metadata["relevance_score"] == 1.0
        assert message.content.startswith("number 3 odd\n\nnumber ")
