"""BM25 beside the vector search: what it adds, and what it must never bring back."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
import uuid
from pydoc_data.topics import topics
from typing import Any

import bm25s
import chromadb
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_rerank import MissingDependencyError, create_rerank_retriever, index_documents
from langchain_rerank.hybrid import HybridRetriever, KeywordRetriever, _words
from tests.fakes import WordOverlapCrossEncoder
from tests.support import every_way, ids, texts

EMBEDDINGS = DeterministicFakeEmbedding(size=16)
QUERY = "what does ERR_TLS_0x8F31 mean"


def make_store(*documents: Document) -> Chroma:
    return index_documents(documents, EMBEDDINGS, collection_name=uuid.uuid4().hex)


def make_retriever(store: Any, **options: Any) -> Any:
    given = {"reranker": WordOverlapCrossEncoder(), "hybrid": True, **options}
    return create_rerank_retriever(store, **given)


def haystack(count: int = 60) -> list[Document]:
    owner = {"owner": "all"}
    return [Document(f"filler text number {i}", id=f"{i}", metadata=owner) for i in range(count)]


NEEDLE = Document("ERR_TLS_0x8F31 expired certificate", id="needle", metadata={"owner": "ann"})
FORBIDDEN = [
    Document(f"ERR_TLS_0x8F31 secret {i}", id=f"secret-{i}", metadata={"owner": "bob"})
    for i in range(10)
]


def test_documents_found_by_keyword_or_by_meaning_alone_are_candidates() -> None:
    store, model = make_store(NEEDLE, *haystack()), WordOverlapCrossEncoder()
    (nearest, *others) = store.similarity_search(QUERY, k=10)
    assert "needle" not in ids([nearest, *others])
    for found in every_way(make_retriever(store, reranker=model, k=3, fetch_k=10), QUERY):
        assert ids(found)[0] == "needle"
        assert found[0].metadata["owner"] == "ann"
    assert {len(set(call)) for call in model.calls} == {10}
    assert nearest.page_content in [text for _, text in model.calls[0]]


@pytest.mark.parametrize(
    "keywords",
    [
        {"filter": {"owner": {"$ne": "bob"}}},
        {"where_document": {"$not_contains": "secret"}},
        {"filter": {"owner": {"$in": ["ann", "bob"]}}, "where_document": {"$contains": "expired"}},
    ],
    ids=" and ".join,
)
def test_filters_hold_for_the_keyword_search(keywords: dict[str, Any]) -> None:
    store = make_store(NEEDLE, *FORBIDDEN, *haystack(20))
    retriever = make_retriever(store, k=40)
    bound = make_retriever(store, k=40, search_kwargs=keywords)
    for found in (*every_way(retriever, QUERY, **keywords), *every_way(bound, QUERY)):
        assert ids(found)[0] == "needle"
        assert not set(ids(found)) & set(ids(FORBIDDEN))
    # BM25 ranks the forbidden ones first: the filter comes before the cut.
    assert ids(KeywordRetriever(store=store, k=1).invoke("ERR_TLS_0x8F31", **keywords)) == [
        "needle"
    ]
    assert set(ids(retriever.invoke(QUERY))) > set(ids(FORBIDDEN))
    others: Any = {"filter": {"owner": "bob"}, "where_document": {"$contains": "secret"}}
    assert set(ids(bound.invoke(QUERY, **others))) == set(ids(FORBIDDEN))
    assert retriever.invoke(QUERY, filter={"owner": "nobody"}) == []


WORDS = st.sampled_from(["apple", "pear", "plum"])
KEYS = st.sampled_from("abcd")
OWNERS = st.sampled_from(["ann", "bob"])


class ChangingStore(RuleBasedStateMachine):
    """Writes of two clients and questions, in any order, against a dict."""

    def stores(self) -> list[Chroma]:
        name = f"test-{uuid.uuid4().hex}"
        return [Chroma(name, EMBEDDINGS, client=chromadb.EphemeralClient()) for _ in range(2)]

    def __init__(self) -> None:
        super().__init__()
        self.clients = self.stores()
        self.keyword = KeywordRetriever(store=self.clients[0])
        self.model: dict[str, tuple[str, str]] = {}

    @rule(key=KEYS, text=WORDS, owner=OWNERS, client=st.integers(0, 1))
    def add_or_update(self, key: str, text: str, owner: str, client: int) -> None:
        document = Document(text, id=key, metadata={"owner": owner})
        self.clients[client].add_documents([document])
        self.model[key] = (text, owner)

    @rule(key=KEYS, client=st.integers(0, 1))
    def delete(self, key: str, client: int) -> None:
        self.clients[client].delete([key])
        self.model.pop(key, None)

    @rule(word=WORDS, owner=st.none() | OWNERS)
    def ask(self, word: str, owner: str | None) -> None:
        found = self.keyword.invoke(word, filter={"owner": owner} if owner else None)
        given = sorted((d.id, d.page_content, d.metadata["owner"]) for d in found)
        held = [(key, *value) for key, value in self.model.items()]
        assert given == sorted(one for one in held if one[1] == word and owner in (None, one[2]))


class ChangingFolder(ChangingStore):
    """Two clients with nothing in common but the folder, as in two processes."""

    def stores(self) -> list[Chroma]:
        self.folder = tempfile.mkdtemp()
        paths = (self.folder, f"{self.folder}/.")
        return [Chroma("shared", EMBEDDINGS, persist_directory=path) for path in paths]

    def teardown(self) -> None:
        shutil.rmtree(self.folder)


TestChangingStore, TestChangingFolder = ChangingStore.TestCase, ChangingFolder.TestCase
TestChangingStore.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)
TestChangingFolder.settings = settings(max_examples=8, stateful_step_count=12, deadline=None)


class ReadsOf:
    """A store that counts how often all of its texts are read, and does `before_fetch`."""

    def __init__(self, store: Chroma, before_fetch: Any = lambda: None) -> None:
        self._client = store._client
        self._store = store
        self._before_fetch = before_fetch
        self.whole = 0

    def get(self, ids: list[str] | None = None, **options: Any) -> dict[str, Any]:
        if ids:
            self._before_fetch()
        self.whole += ids is None and options["include"] == ["documents"]
        return self._store.get(ids=ids, **options)


def test_unchanged_folder_is_not_read_again(tmp_path: Any, caplog: Any) -> None:
    caplog.set_level("DEBUG", "bm25s")
    store = index_documents([NEEDLE], EMBEDDINGS, persist_directory=tmp_path)
    then = time.time() - 60
    os.utime(tmp_path / "chroma.sqlite3", (then, then))
    reads = ReadsOf(store)
    keyword = KeywordRetriever(store=reads)
    for _ in range(3):
        assert ids(keyword.invoke(QUERY)) == ["needle"]
        assert reads.whole == 1
    # A change elsewhere in the folder: read again, but not indexed again.
    Chroma("other", EMBEDDINGS, persist_directory=str(tmp_path)).add_texts(["text"])
    assert ids(keyword.invoke(QUERY)) == ["needle"]
    assert reads.whole == 2
    assert caplog.text.count("Building index") == 1


def test_second_write_within_a_tick_of_the_clock_is_seen(tmp_path: Any) -> None:
    store = index_documents([NEEDLE], EMBEDDINGS, persist_directory=tmp_path)
    keyword = KeywordRetriever(store=store)
    before = (tmp_path / "chroma.sqlite3").stat()
    assert ids(keyword.invoke(QUERY)) == ["needle"]
    store.update_document("needle", Document("plums", id="needle", metadata={"owner": "ann"}))
    os.utime(tmp_path / "chroma.sqlite3", ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert ids(keyword.invoke("plums")) == ["needle"]


def test_filter_holds_for_what_changes_during_the_search() -> None:
    store = make_store(NEEDLE, *haystack(5))
    stolen = NEEDLE.model_copy(update={"metadata": {"owner": "bob"}})
    changing = ReadsOf(store, lambda: store.update_document("needle", stolen))
    assert KeywordRetriever(store=changing).invoke(QUERY, filter={"owner": "ann"}) == []


def test_same_text_of_two_pages_is_found_twice() -> None:
    pages = [Document("The same text.", metadata={"page": page}) for page in (1, 2)]
    store = make_store(*pages)
    hybrid = HybridRetriever(retrievers=[store.as_retriever(), KeywordRetriever(store=store)])
    for found in every_way(hybrid, "same text"):
        assert sorted(one.metadata["page"] for one in found) == [1, 2]


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("任何人不得加以酷刑。", "酷刑"),
        ("東京タワーは高い。", "タワー"),
        ("東京ﾀﾜｰは高い。", "タワー"),
        ("緑茶を飲む。", "茶"),
        ("บุคคลใดจะถูกทรมานไม่ได้", "ทรมาน"),
        ("서울은 한국의 수도이다.", "서울에서"),
        ("ມະນຸດທຸກຄົນເກີດມາ", "ມະນຸດ"),
        ("यह हिन्दी में है", "हिन्दी"),
        ("le café d'Élodie", "CAFE elodie"),
        ("\uff21\uff22\uff23\uff11\uff12\uff13", "abc123"),
        ("Die Straße", "STRASSE"),
        ("in\u00adfor\u00admation", "information"),
        ("Windows™", "windows"),
        ("İstanbul", "istanbul"),
        ("مُحَمَّد", "محمد"),
    ],
)
def test_words_of_many_languages_are_found(text: str, query: str) -> None:
    keyword = KeywordRetriever(store=make_store(Document(text, id="hit"), *haystack(3)))
    assert ids(keyword.invoke(query)) == ["hit"]


def test_marks_are_parts_of_words_and_english_words_are_those_of_bm25s() -> None:
    assert _words("हिन्दी में") == ["हिन्दी", "में"]
    assert _words("ที่") == ["ท", "ี", "่", "ที", "ี่"]
    for text in topics.values():
        if text.isascii():
            [expected] = bm25s.tokenize([text], return_ids=False, show_progress=False)
            assert _words(text) == expected


@pytest.mark.parametrize("given", [[], [""], ["the", "a"], ["", "needle"]], ids=repr)
def test_store_with_few_or_no_words(given: list[str]) -> None:
    store = make_store(*(Document(text, id=f"{i}") for i, text in enumerate(given)))
    for found in every_way(make_retriever(store), "needle"):
        assert sorted(texts(found)) == sorted(given)
    # English stop words are no words.
    given = [text for text in given if text == "needle"]
    for query in ("needle", "the", "???", "unheard", "lone \ud800", "n\0l", "👩‍👩‍👧"):
        assert texts(KeywordRetriever(store=store).invoke(query)) == [query] * given.count(query)


def test_keyword_search_ranks_by_bm25_and_cuts_to_k() -> None:
    fruit = ["apple", "apple and pear and plum and fig", "apple pear", "nothing"]
    store = make_store(*map(Document, fruit))
    best = [fruit[2], fruit[1], fruit[0]]
    assert texts(KeywordRetriever(store=store).invoke("apple pear")) == best
    assert texts(KeywordRetriever(store=store).invoke("apple pear", k=1)) == best[:1]
    assert texts(KeywordRetriever(store=store, k=2).invoke("apple pear")) == best[:2]


def test_missing_bm25s_and_another_store_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match="lists its documents, a Chroma; got InMemoryVectorStore"):
        make_retriever(InMemoryVectorStore(EMBEDDINGS))
    monkeypatch.setitem(sys.modules, "bm25s", None)
    message = r'Hybrid search needs .*pip install "langchain-rerank\[hybrid\]"'
    with pytest.raises(MissingDependencyError, match=message):
        make_retriever(make_store(NEEDLE))
    assert ids(make_retriever(make_store(NEEDLE), hybrid=False).invoke(QUERY)) == ["needle"]
