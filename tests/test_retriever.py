"""First stage and reranker as one retriever: depths and keywords."""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

import pytest
from langchain_classic.retrievers import EnsembleRetriever
from langchain_classic.retrievers.document_compressors import (
    CrossEncoderReranker,
    DocumentCompressorPipeline,
)
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import PrivateAttr

from langchain_rerank import (
    Reranker,
    RerankRetriever,
    create_rerank_retriever,
    index_documents,
)
from tests.fakes import (
    InstructedCrossEncoder,
    WordOverlapCrossEncoder,
)
from tests.support import every_way, fails, ids

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
        # As UTF-8, which a lone surrogate is not.
        return [abs(value) for value in super().embed_query(text.encode().decode())]


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


class TopKeywordRetriever(BaseRetriever):
    """Names its depth otherwise."""

    def _get_relevant_documents(
        self, query: str, *, run_manager: Any, top_k: int = 4
    ) -> list[Document]:
        return DOCUMENTS[:top_k]


class FieldDepthRetriever(BaseRetriever):
    """Takes its depth as a field, as LangChain's BM25Retriever and others do."""

    k: int = 4
    top_k: int = 4

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return DOCUMENTS[: min(self.k, self.top_k)]


class LazyRetriever(FieldDepthRetriever):
    """Reads its index when first asked."""

    _index: Any = PrivateAttr(default=None)
    reads: ClassVar[int] = 0

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        if self._index is None:
            self._index = DOCUMENTS
            LazyRetriever.reads += 1
        return self._index[: self.k]


class ReversingCompressor(BaseDocumentCompressor):
    """A compressor without `top_n`, which must not be asked about nothing."""

    def compress_documents(self, documents: Any, query: str, callbacks: Any = None) -> Any:
        assert documents
        return tuple(reversed(documents))


class FilterCompressor(BaseDocumentCompressor):
    """Says by `k` how many it keeps, as LangChain's EmbeddingsFilter does."""

    k: int | None = 20

    def compress_documents(self, documents: Any, query: str, callbacks: Any = None) -> Any:
        return documents[: self.k]


@pytest.fixture
def model():
    return WordOverlapCrossEncoder()


@pytest.fixture(scope="module")
def store():
    return index_documents(DOCUMENTS, PositiveEmbedding(), collection_name=uuid.uuid4().hex)


def in_memory(documents):
    return InMemoryVectorStore.from_documents(documents, PositiveEmbedding())


def retriever_of(model, source=None, **options):
    return create_rerank_retriever(source or AllRetriever(), reranker=model, **options)


def pipeline(*steps):
    return DocumentCompressorPipeline(transformers=[*steps])


FAKE = WordOverlapCrossEncoder()
MMR = {"search_type": "mmr", "search_kwargs": {"fetch_k": 3}}
THRESHOLD = {
    "search_type": "similarity_score_threshold",
    "search_kwargs": {"score_threshold": 0.0},
}
FIRST_STAGES = {
    "InMemoryVectorStore": lambda _: in_memory(DOCUMENTS),
    "its own k": lambda store: store.as_retriever(search_kwargs={"k": 2}),
    "mmr, its own pool": lambda store: store.as_retriever(**MMR),
    "threshold": lambda store: store.as_retriever(**THRESHOLD),
    "k keyword": lambda _: KeywordDepthRetriever(),
    "top_k keyword": lambda _: TopKeywordRetriever(),
    "k and top_k fields": lambda _: FieldDepthRetriever(),
    "ensemble": lambda store: EnsembleRetriever(
        retrievers=[AllRetriever(), store.as_retriever(search_kwargs={"k": 20})]
    ),
    "reranked": lambda store: retriever_of(FAKE, store, fetch_k=20),
    "reranked, shallow": lambda store: retriever_of(FAKE, store, k=2, fetch_k=3),
    "repeating itself": lambda _: AllRetriever(documents=DOCUMENTS[:1] * 40 + DOCUMENTS),
}


@pytest.mark.parametrize("first_stage", FIRST_STAGES.values(), ids=FIRST_STAGES)
def test_fetch_k_candidates_reach_the_cross_encoder(first_stage, store, model):
    retriever = retriever_of(model, first_stage(store), k=3, fetch_k=12)
    found, *others = every_way(retriever, "even number")
    assert [len(set(call)) for call in model.calls] == [12] * 4
    assert others == [found] * 3
    assert len(found) == 3
    assert {document.metadata["relevance_score"] for document in found} == {1.0}


@pytest.mark.parametrize("deduplicate", [True, False])
def test_candidates_are_made_distinct_by_the_rerankers_rule(model, deduplicate):
    pages = [Document("Preface", metadata={"page": page}) for page in (1, 1, 2, 2, 3)]
    reranker = Reranker(model=model, rank_fields=("page",), deduplicate=deduplicate)
    retriever = retriever_of(reranker, AllRetriever(documents=pages), k=3, fetch_k=3)
    found = [document.metadata["page"] for document in retriever.invoke("preface")]
    assert found == ([1, 2, 3] if deduplicate else [1, 1, 2])


def test_k_fetch_k_and_keywords_can_be_given_per_call(store, model):
    retriever = retriever_of(model, store, k=5, fetch_k=10)
    assert {len(found) for found in every_way(retriever, "even", k=2, fetch_k=7)} == {2}
    for found in every_way(retriever, "even", k=3, filter={"i": {"$lt": 4}}):
        assert set(ids(found)[:2]) == {"0", "2"}
    assert len(retriever.invoke("even")) == 5
    assert [len(call) for call in model.calls] == [7] * 4 + [4] * 4 + [10]
    every_way(retriever_of(model, KeywordDepthRetriever(), k=2, fetch_k=4), "even", start=10)
    assert model.calls[9:] == [[("even", one.page_content) for one in DOCUMENTS[10:14]]] * 4
    bound = retriever_of(model, store, k=2, search_kwargs={"filter": {"i": {"$gte": 27}}})
    assert set(ids(bound.invoke("number"))) < {"27", "28", "29"}


@pytest.mark.parametrize(
    ("depths", "error", "message"),
    [
        ({"k": 0}, ValueError, "k must be > 0, got 0"),
        ({"fetch_k": -3}, ValueError, "fetch_k must be > 0, got -3"),
        ({"k": 8, "fetch_k": 7}, ValueError, "at least k, got fetch_k=7 with k=8"),
        ({"k": 2.5}, TypeError, "^k must be an int"),
        ({"fetch_k": True}, TypeError, "^fetch_k must be an int"),
    ],
    ids=str,
)
def test_wrong_depths_are_errors(depths, error, message, model):
    if error is ValueError:
        with pytest.raises(error, match=message):
            retriever_of(model, **depths)
    fails(error, message, retriever_of(model), "even", **depths)
    assert model.calls == []


LAST = WordOverlapCrossEncoder()
FILTER, FIVE, TWO = FilterCompressor(k=8), Reranker(model=FAKE), Reranker(model=LAST, top_n=2)
KEPT = {
    "reranker": (FIVE, {}, 5),
    "its top_n": (TWO, {}, 2),
    "all": (Reranker(model=FAKE, top_n=None), {"fetch_k": 11}, 11),
    "no more than fetch_k": (FIVE, {"fetch_k": 3}, 3),
    "LangChain's": (CrossEncoderReranker(model=FAKE), {"k": 7}, 7),
    "without a number": (ReversingCompressor(), {}, 30),
    "filter": (FILTER, {"k": 12}, 12),
    "pipeline": (pipeline(FIVE), {"k": 10}, 10),
    "pipeline, its top_n": (pipeline(Reranker(model=FAKE, top_n=7), ReversingCompressor()), {}, 7),
    "pipeline, a filter before": (pipeline(FILTER, FIVE), {"k": 10}, 10),
    "pipeline, a wide filter": (pipeline(Reranker(model=FAKE, top_n=9), TWO), {}, 2),
    "pipeline, an order after": (pipeline(FIVE, ReversingCompressor()), {"k": 4}, 4),
    "pipeline of pipelines": (pipeline(pipeline(FIVE)), {"k": 20}, 20),
}


@pytest.mark.parametrize(("reranker", "depths", "kept"), KEPT.values(), ids=KEPT)
def test_k_is_how_many_come_back(reranker, depths, kept):
    before = reranker.model_dump()
    LAST.calls.clear()
    direct = RerankRetriever(base_retriever=AllRetriever(), base_compressor=reranker, **depths)
    for retriever in (retriever_of(reranker, **depths), direct):
        assert {len(found) for found in every_way(retriever, "even")} == {kept}
        assert {len(found) for found in every_way(retriever, "even", k=3)} == {3}
    assert reranker.model_dump() == before
    # Earlier steps of a pipeline keep their numbers.
    assert {len(call) for call in LAST.calls} <= {9, 30}


def test_k_are_the_best_also_where_a_later_step_orders_them_anew(model):
    retriever = retriever_of(pipeline(Reranker(model=model), ReversingCompressor()), k=2)
    first, second = retriever_of(model, k=2).invoke("number 3")
    assert every_way(retriever, "number 3") == [[second, first]] * 4


def test_what_a_stage_loads_when_first_asked_it_keeps(model):
    retriever = retriever_of(model, LazyRetriever(), k=3, fetch_k=12)
    assert {len(found) for found in every_way(retriever, "even")} == {3}
    assert LazyRetriever.reads == 1
    assert {len(call) for call in model.calls} == {12}


@pytest.mark.parametrize("wrap", [lambda reranker: reranker, pipeline])
def test_instruction_can_be_given_per_call_and_is_never_dropped(wrap):
    model, one = InstructedCrossEncoder(), AllRetriever(documents=DOCUMENTS[:1])
    retriever = retriever_of(wrap(Reranker(model=model)), one)
    every_way(retriever, "even", instruction="for lawyers")
    assert model.calls == [[("for lawyers: even", "number 0 even")]] * 4
    fails(ValueError, "no such instruction", retriever, "even", instruction="refused")
    for other in (FIVE, CrossEncoderReranker(model=FAKE)):
        fails(ValueError, "takes n", retriever_of(wrap(other)), "even", instruction="for lawyers")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"source": [DOCUMENTS[0]]}, TypeError, "source must be a VectorStore or .* got list"),
        ({"reranker": 3}, TypeError, "reranker must be a model name or path, .* got int"),
        ({"search_kwargs": {"k": 3}}, TypeError, "search_kwargs needs a VectorStore .*AllRetr"),
        ({"hybrid": True}, TypeError, "hybrid=True needs a VectorStore as source.* AllRetriever"),
        ({"source": in_memory([]), "search_kwargs": {"k": 3}}, ValueError, "use fetch_k"),
    ],
    ids=range(5),
)
def test_parts_that_do_not_fit_are_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        create_rerank_retriever(**{"source": AllRetriever(), "reranker": FAKE, **arguments})
    with pytest.raises(ValueError, match="top_n"):
        RerankRetriever(base_retriever=AllRetriever(), base_compressor=FIVE, top_n=3)
