"""Depth and keywords of a call reach the store through whatever wraps it, or are an error."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_classic.retrievers import (
    ContextualCompressionRetriever,
    EnsembleRetriever,
    MergerRetriever,
    MultiQueryRetriever,
    MultiVectorRetriever,
    RePhraseQueryRetriever,
    SelfQueryRetriever,
)
from langchain_classic.retrievers.document_compressors import DocumentCompressorPipeline
from langchain_classic.retrievers.multi_vector import SearchType
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import (
    ConfigurableField,
    RouterRunnable,
    Runnable,
    RunnableBranch,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
)
from langchain_core.stores import InMemoryStore
from langchain_core.structured_query import StructuredQuery, Visitor
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

from langchain_rerank import RerankRetriever, create_rerank_retriever, index_documents
from langchain_rerank.reader import reader_of
from tests.fakes import WordOverlapCrossEncoder
from tests.support import every_way, fails

TENANT = {"tenant": "a"}
DOCUMENTS = [
    Document(f"number {n}", metadata={"tenant": "ab"[n % 2], "doc_id": str(n)}) for n in range(60)
]
STORE = index_documents(
    DOCUMENTS, DeterministicFakeEmbedding(size=8), collection_name="first-stages"
)
PARENTS: InMemoryStore = InMemoryStore()
PARENTS.mset([(document.metadata["doc_id"], document) for document in DOCUMENTS])


class Everything(BaseRetriever):
    """Takes no keyword."""

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return DOCUMENTS


class OfTenant(BaseRetriever):
    """A user's own wrapper, whose keyword means something to itself alone."""

    inner: Any

    def _get_relevant_documents(
        self, query: str, *, run_manager: Any, tenant: str = "a"
    ) -> list[Document]:
        return self.inner.invoke(query, filter={"tenant": tenant})


class Unchanged(BaseDocumentCompressor):
    def compress_documents(self, documents: Any, query: str, callbacks: Any = None) -> Any:
        return documents


class Custom(Runnable):
    """A user's own runnable, which LangChain's signature lets take, and drop, any keyword."""

    def invoke(self, input: str, config: Any = None, **kwargs: Any) -> list[Document]:
        return DOCUMENTS


class DroppingStore(InMemoryVectorStore):
    """Takes any keyword and heeds none, as some of LangChain's stores do."""

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        return super().similarity_search(query, k)

    asimilarity_search = VectorStore.asimilarity_search


DROPPING_STORE = DroppingStore.from_documents(DOCUMENTS, DeterministicFakeEmbedding(size=8))


def plain(**search_kwargs: Any) -> Any:
    return STORE.as_retriever(search_kwargs=search_kwargs)


def search(query: str, filter: Any = None, k: int = 4) -> list[Document]:
    return plain(k=k, filter=filter).invoke(query)


def search_top(query: str, top_k: int = 4, filter: Any = None) -> list[Document]:
    return search(query, filter, top_k)


def rewrite(answer: str = "rewritten") -> Any:
    prompt = PromptTemplate.from_template("Rewrite: {question}")
    return prompt | FakeListChatModel(responses=[answer]) | StrOutputParser()


class NoFilter(Visitor):
    """A translator for a model that writes no filter."""

    def visit_operation(self, operation: Any) -> Any: ...

    def visit_comparison(self, comparison: Any) -> Any: ...

    def visit_structured_query(self, structured_query: StructuredQuery) -> Any:
        return structured_query.query, {}


def self_query(**options: Any) -> SelfQueryRetriever:
    structured = StructuredQuery(query="rewritten", filter=None, limit=None)
    return SelfQueryRetriever(
        vectorstore=STORE,
        query_constructor=RunnableLambda(lambda _: structured),
        structured_query_translator=NoFilter(),
        **options,
    )


def merge(found: dict[str, list[Document]]) -> list[Document]:
    return [document for one in found.values() for document in one]


BOUND = plain()
MMR = {"search_type": "mmr", "search_kwargs": {"fetch_k": 3}}
FIELD = ConfigurableField(id="search")
# Each gives documents of both tenants unless a filter is given.
WRAPPED: dict[str, Any] = {
    "fallbacks": plain().with_fallbacks([plain(k=1)]),
    "config": plain().with_config(tags=["first"]),
    "configurable field": plain().configurable_fields(search_kwargs=FIELD),
    "configured": plain()
    .configurable_fields(search_kwargs=FIELD)
    .with_config(configurable={"search": {"k": 2}}),
    "alternatives": plain().configurable_alternatives(ConfigurableField("which"), other=plain()),
    "bound": plain().bind(k=2),
    "nested": plain().with_retry().with_fallbacks([plain()]).with_config(tags=["a"]).bind(k=3),
    "rewrite, retried": (rewrite() | plain().with_retry()).with_retry(),
    "filtered after": plain() | RunnableLambda(lambda found: [one for one in found if one]),
    "few shots before": Everything() | RunnableLambda(str) | plain(),
    "branch": RunnableBranch((lambda query: "?" in query, plain()), plain().with_retry()),
    "router": {"key": lambda _: "a", "input": RunnablePassthrough()}
    | RouterRunnable({"a": plain(), "b": plain()}),
    "parallel": RunnableParallel(found=plain(), query=RunnablePassthrough())
    | RunnableLambda(lambda state: state["found"]),
    "each": RunnableLambda(lambda query: [query]) | plain().map() | (lambda found: found[0]),
    "function": RunnableLambda(search),
    "function of top_k": RunnableLambda(search_top),
    "bound method": RunnableLambda(plain().invoke, plain().ainvoke),
    "ensemble": EnsembleRetriever(retrievers=[plain().with_retry(), plain()]),
    "merger": MergerRetriever(retrievers=[plain()]),
    "rephrase": RePhraseQueryRetriever(retriever=plain(), llm_chain=rewrite()),
    "multi query": MultiQueryRetriever(retriever=plain(), llm_chain=RunnableLambda(lambda _: "ab")),
    "compression": ContextualCompressionRetriever(
        base_retriever=plain().with_retry(), base_compressor=Unchanged()
    ),
    "multi vector": MultiVectorRetriever(vectorstore=STORE, docstore=PARENTS),
    "multi vector, mmr": MultiVectorRetriever(
        vectorstore=STORE, docstore=PARENTS, search_type=SearchType.mmr
    ),
    "reranked": create_rerank_retriever(STORE, reranker=WordOverlapCrossEncoder()).with_retry(),
}


def retriever_of(stage: Any, model: Any = None) -> RerankRetriever:
    model = model or WordOverlapCrossEncoder()
    return create_rerank_retriever(stage, reranker=model, k=10, fetch_k=50)


def tenants(found: list[list[Document]]) -> set[str]:
    """Whose documents came, wherever all ten came."""
    assert {len(one) for one in found} == {10}
    return {document.metadata["tenant"] for one in found for document in one}


def check_depth(stage: Any) -> None:
    model = WordOverlapCrossEncoder()
    # Its async side is not implemented.
    ways = slice(2 if isinstance(stage, RePhraseQueryRetriever) else None)
    assert tenants(every_way(retriever_of(stage, model), "one?")[ways]) == {"a", "b"}
    assert {len(call) for call in model.calls} == {50}


@pytest.mark.parametrize("stage", WRAPPED.values(), ids=WRAPPED)
def test_depth_and_filter_reach_the_store(stage: Any) -> None:
    check_depth(stage)
    ways = slice(2 if isinstance(stage, RePhraseQueryRetriever) else None)
    assert tenants(every_way(retriever_of(stage), "one?", filter=TENANT)[ways]) == {"a"}


DROPPING: dict[str, Any] = {
    "no keywords": Everything(),
    "store": DROPPING_STORE,
    "store in an ensemble": EnsembleRetriever(retrievers=[plain(), DROPPING_STORE.as_retriever()]),
    "fallback": plain().with_fallbacks([Everything()]),
    "branch": RunnableBranch((lambda query: "?" in query, Everything()), plain()),
    "sequence": rewrite() | Everything().with_retry(),
    "function": RunnableLambda(lambda _: DOCUMENTS),
    "function at the end": rewrite() | RunnableLambda(lambda query: plain().invoke(query)),
    "function that calls": RunnableLambda(lambda query: [*BOUND.invoke(query)]),
    "beside": RunnableParallel(a=plain(), b=RunnableLambda(lambda _: DOCUMENTS))
    | RunnableLambda(merge),
    "beside, a retriever": RunnableParallel(a=plain(), b=Everything()) | RunnableLambda(merge),
    "added after": plain() | RunnableLambda(lambda found: found + STORE.similarity_search("x")),
    "two after each other": RunnablePassthrough.assign(a=Everything())
    | RunnablePassthrough.assign(b=plain())
    | RunnableLambda(merge),
    "ensemble with a function": EnsembleRetriever(
        retrievers=[plain(), RunnableLambda(lambda _: DOCUMENTS)]
    ),
    "compression": ContextualCompressionRetriever(
        base_retriever=Everything(), base_compressor=Unchanged()
    ),
    "custom": Custom().with_retry(),
    "own keyword": OfTenant(inner=Everything()),
    "self query, whose model writes the filter": self_query(),
    "self query, mmr": self_query(**MMR),
}


@pytest.mark.parametrize("stage", DROPPING.values(), ids=DROPPING)
def test_a_filter_that_would_be_dropped_is_an_error(stage: Any) -> None:
    fails(TypeError, "takes no keyword filter", retriever_of(stage), "one?", filter=TENANT)
    if isinstance(stage, SelfQueryRetriever):
        check_depth(stage)


def test_a_filter_that_is_bound_holds() -> None:
    retriever = retriever_of((rewrite() | plain()).bind(filter={"tenant": "b"}))
    assert tenants(every_way(retriever, "one?")) == {"b"}
    assert tenants(every_way(retriever, "one?", filter=TENANT)) == {"a"}
    bound = retriever_of(Everything().bind(filter=TENANT))
    fails(TypeError, "Everything takes no keyword filter", bound, "one?")


def test_a_wrappers_own_keyword_is_its_own() -> None:
    retriever = retriever_of(OfTenant(inner=plain()))
    assert tenants(every_way(retriever, "one?", tenant="b")) == {"b"}


@pytest.mark.parametrize("retried", [False, True])
def test_what_is_configurable_reaches_the_first_stage(*, retried: bool) -> None:
    stage = plain().configurable_fields(search_kwargs=FIELD)
    retriever = retriever_of(stage.with_retry() if retried else stage)
    config: Any = {"configurable": {"search": {"k": 1, "filter": TENANT}}}
    assert tenants(every_way(retriever, "one?", config)) == {"a"}
    assert tenants(every_way(RunnablePassthrough() | retriever, "one?", config)) == {"a"}


def test_the_wrappers_stay_as_they_were() -> None:
    stage = WRAPPED["nested"]
    before = stage.model_dump()
    every_way(retriever_of(stage), "one?", filter=TENANT)
    assert stage.model_dump() == before
    assert len(stage.invoke("one?")) == 3


def test_the_cross_encoder_is_found_through_whatever_wraps_the_retriever() -> None:
    model = WordOverlapCrossEncoder()
    retriever = create_rerank_retriever(STORE, reranker=model)
    steps = DocumentCompressorPipeline(transformers=[retriever.base_compressor])
    piped = retriever.model_copy(update={"base_compressor": steps})
    for stage in (
        retriever,
        ContextualCompressionRetriever(base_retriever=piped, base_compressor=Unchanged()),
        plain().with_fallbacks([retriever]).with_retry().with_config(tags=["a"]),
        retriever.configurable_fields(k=ConfigurableField(id="k")),
        rewrite() | retriever.bind(k=3),
        RunnableBranch((lambda query: "?" in query, plain()), retriever),
        RunnableLambda(lambda query: [*retriever.invoke(query)]),
        RunnableLambda(retriever.invoke),
        EnsembleRetriever(retrievers=[plain(), retriever]),
    ):
        assert reader_of(stage)._cross_encoder is model
    with pytest.raises(ValueError, match="must be a RerankRetriever"):
        reader_of(plain())
