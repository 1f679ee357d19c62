"""BM25 beside the vector search: what it adds, and what it must never bring back."""

from __future__ import annotations

import sys
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_rerank import MissingDependencyError, create_rerank_retriever, index_documents
from langchain_rerank.hybrid import KeywordRetriever
from tests.fakes import WordOverlapCrossEncoder

if TYPE_CHECKING:
    from langchain_chroma import Chroma

    from langchain_rerank import RerankRetriever

EMBEDDINGS = DeterministicFakeEmbedding(size=16)
QUERY = "what does ERR_TLS_0x8F31 mean"


def make_store(*documents: Document) -> Chroma:
    return index_documents(documents, EMBEDDINGS, collection_name=f"test-{uuid.uuid4().hex}")


def make_retriever(store: Any, **options: Any) -> RerankRetriever:
    model = WordOverlapCrossEncoder()
    return create_rerank_retriever(store, **{"reranker": model, "hybrid": True, **options})


def ids(documents: list[Document]) -> list[str | None]:
    return [document.id for document in documents]


def haystack(count: int = 60) -> list[Document]:
    return [
        Document(f"filler text number {i}", id=f"filler-{i}", metadata={"owner": "all"})
        for i in range(count)
    ]


NEEDLE = Document("ERR_TLS_0x8F31 expired certificate", id="needle", metadata={"owner": "ann"})


async def test_document_found_by_keyword_alone_is_a_candidate() -> None:
    store = make_store(NEEDLE, *haystack())
    dense = create_rerank_retriever(store, reranker=WordOverlapCrossEncoder(), k=3, fetch_k=10)
    assert "needle" not in ids(store.similarity_search(QUERY, k=10))
    assert "needle" not in ids(dense.invoke(QUERY))

    model = WordOverlapCrossEncoder()
    retriever = make_retriever(store, reranker=model, k=3, fetch_k=10)
    (found, *_) = retriever.invoke(QUERY)
    assert (found.id, found.page_content) == ("needle", NEEDLE.page_content)
    assert found.metadata["owner"] == "ann"
    assert len(set(model.calls[0])) == 10
    assert len(retriever.base_retriever.invoke(QUERY, k=10)) == 10

    assert ids(await retriever.ainvoke(QUERY))[0] == "needle"
    assert ids(retriever.batch([QUERY, "number 7"])[0])[0] == "needle"
    assert ids((await retriever.abatch([QUERY, "number 7"]))[0])[0] == "needle"


def test_document_found_by_meaning_alone_is_a_candidate() -> None:
    store = make_store(NEEDLE, *haystack())
    (nearest, *_) = store.similarity_search("unheard", k=1)
    retriever = make_retriever(store, k=5, fetch_k=5)
    assert nearest.id in ids(retriever.invoke("unheard"))


FORBIDDEN = [
    Document(f"ERR_TLS_0x8F31 secret {i}", id=f"secret-{i}", metadata={"owner": "bob"})
    for i in range(10)
]


async def test_filter_holds_for_the_keyword_search() -> None:
    store = make_store(NEEDLE, *FORBIDDEN, *haystack(20))
    retriever = make_retriever(store, k=40)
    for keywords in (
        {"filter": {"owner": {"$ne": "bob"}}},
        {"where_document": {"$not_contains": "secret"}},
        {"filter": {"owner": {"$in": ["ann", "bob"]}}, "where_document": {"$contains": "expired"}},
    ):
        for found in (
            retriever.invoke(QUERY, **keywords),
            await retriever.ainvoke(QUERY, **keywords),
            retriever.batch([QUERY], **keywords)[0],
            (await retriever.abatch([QUERY], **keywords))[0],
        ):
            assert ids(found)[0] == "needle"
            assert not set(ids(found)) & set(ids(FORBIDDEN))
    assert set(ids(retriever.invoke(QUERY))) > set(ids(FORBIDDEN))


@pytest.mark.parametrize(
    "keywords",
    [{"filter": {"owner": {"$ne": "bob"}}}, {"where_document": {"$not_contains": "secret"}}],
    ids=lambda keywords: next(iter(keywords)),
)
async def test_filter_of_search_kwargs_holds_for_the_keyword_search(
    keywords: dict[str, Any],
) -> None:
    store = make_store(NEEDLE, *FORBIDDEN, *haystack(20))
    retriever = make_retriever(store, k=40, search_kwargs=keywords)
    for found in (retriever.invoke(QUERY), await retriever.ainvoke(QUERY)):
        assert ids(found)[0] == "needle"
        assert not set(ids(found)) & set(ids(FORBIDDEN))


def test_filter_leaves_room_for_what_it_allows() -> None:
    # BM25 ranks the forbidden documents first; a filter after a cut would leave nothing.
    allowed = Document("long text that names ERR_TLS_0x8F31 " + "and more " * 50, id="allowed")
    keyword = KeywordRetriever(store=make_store(*FORBIDDEN, allowed), k=3)
    assert "allowed" not in ids(keyword.invoke("ERR_TLS_0x8F31"))
    found = keyword.invoke("ERR_TLS_0x8F31", where_document={"$not_contains": "secret"})
    assert ids(found) == ["allowed"]


def test_filter_that_allows_nothing_gives_nothing() -> None:
    retriever = make_retriever(make_store(*FORBIDDEN))
    assert retriever.invoke(QUERY, filter={"owner": "nobody"}) == []


def test_deleted_documents_never_come_back() -> None:
    store = make_store(NEEDLE, *haystack(20))
    retriever = make_retriever(store, k=21)
    assert "needle" in ids(retriever.invoke(QUERY))
    store.delete(["needle"])
    assert ids(retriever.invoke(QUERY)).count("needle") == 0
    assert len(retriever.invoke(QUERY)) == 20


def test_changed_documents_come_as_they_are_now() -> None:
    store = make_store(NEEDLE, *haystack(20))
    retriever = make_retriever(store, k=5)
    retriever.invoke(QUERY)
    changed = Document("now about something else", id="needle", metadata={"owner": "eve"})
    store.update_document("needle", changed)
    for document in retriever.invoke(QUERY, k=21):
        assert "ERR_TLS" not in document.page_content
    keyword = KeywordRetriever(store=store)
    assert keyword.invoke("something else") == [changed]


def test_filter_goes_by_the_metadata_of_now() -> None:
    store = make_store(NEEDLE, *haystack(20))
    retriever = make_retriever(store, k=21)
    assert "needle" in ids(retriever.invoke(QUERY, filter={"owner": "ann"}))
    store.update_document("needle", NEEDLE.model_copy(update={"metadata": {"owner": "bob"}}))
    assert retriever.invoke(QUERY, filter={"owner": "ann"}) == []


def test_refresh_finds_new_documents() -> None:
    store = make_store(*haystack())
    retriever = make_retriever(store, k=3, fetch_k=10)
    retriever.invoke(QUERY)
    store.add_documents([NEEDLE])
    assert "needle" not in ids(retriever.invoke(QUERY))
    retriever.base_retriever.keyword.refresh()
    assert ids(retriever.invoke(QUERY))[0] == "needle"


@pytest.mark.parametrize(
    "texts", [[], [""], ["the", "a"], ["", "needle"]], ids=["none", "empty", "stop words", "one"]
)
async def test_store_with_few_or_no_words(texts: list[str]) -> None:
    store = make_store(*(Document(text, id=f"{i}") for i, text in enumerate(texts)))
    retriever = make_retriever(store)
    assert sorted(ids(retriever.invoke("needle"))) == [str(i) for i in range(len(texts))]
    assert len(await retriever.ainvoke("needle")) == len(texts)
    by_keyword = KeywordRetriever(store=store).invoke("needle")
    assert [one.page_content for one in by_keyword] == [text for text in texts if text == "needle"]


@pytest.mark.parametrize("query", ["the", "???", "unheard", "lone \ud800", "n\0l", "👩‍👩‍👧"])
def test_query_without_a_known_word_finds_nothing_by_keyword(query: str) -> None:
    store = make_store(NEEDLE, Document("the end"), *haystack(3))
    assert KeywordRetriever(store=store).invoke(query) == []
    assert len(make_retriever(store).invoke(query)) == 5


def test_keyword_search_ranks_by_bm25_and_cuts_to_k() -> None:
    store = make_store(
        Document("apple", id="but short"),
        Document("apple and pear and plum and fig", id="long"),
        Document("apple pear", id="best"),
        Document("nothing", id="nothing"),
    )
    keyword = KeywordRetriever(store=store)
    assert ids(keyword.invoke("apple pear")) == ["best", "long", "but short"]
    assert ids(keyword.invoke("apple pear", k=1)) == ["best"]
    assert ids(KeywordRetriever(store=store, k=2).invoke("apple pear")) == ["best", "long"]


def test_missing_bm25s_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    message = r'Hybrid search needs .*pip install "langchain-rerank\[hybrid\]"'
    with pytest.raises(MissingDependencyError, match=message):
        make_retriever(make_store(NEEDLE))
    assert ids(make_retriever(make_store(NEEDLE), hybrid=False).invoke(QUERY)) == ["needle"]


def test_store_that_lists_no_documents_is_an_error() -> None:
    store = InMemoryVectorStore(EMBEDDINGS)
    message = "needs a store that lists its documents, a Chroma; got InMemoryVectorStore"
    with pytest.raises(TypeError, match=message):
        make_retriever(store)
