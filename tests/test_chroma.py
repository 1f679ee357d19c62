"""An idempotent Chroma collection: what is embedded, what is written, what is refused."""

from __future__ import annotations

import copy
import functools
import math
import shutil
import uuid
from typing import Any

import chromadb
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_rerank import index_documents
from tests.support import ids


class CountingEmbeddings(DeterministicFakeEmbedding):
    """Keeps the texts it was asked to embed; fails after `fail_after` of them.

    Where a collection exists, the first of them is one of its own documents, embedded again to
    see that the model is the same.
    """

    size: int = 16
    embedded: list[str] = []  # noqa: RUF012  # pydantic copies it
    fail_after: float = math.inf
    prefix: str = ""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        if len(self.embedded) + len(texts) > self.fail_after:
            msg = "the embedding service is gone"
            raise ConnectionError(msg)
        self.embedded.extend(texts)
        return super().embed_documents([self.prefix + text for text in texts])


@pytest.fixture
def counting() -> CountingEmbeddings:
    return CountingEmbeddings()


@pytest.fixture
def collection_name() -> str:
    """A name of its own, for all of a process's in-memory clients are one."""
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def index(collection_name, counting):
    """`index_documents` into one collection in memory; takes documents."""
    return functools.partial(index_documents, embeddings=counting, collection_name=collection_name)


def stored(store: Chroma) -> dict[str, tuple[str, dict[str, Any]]]:
    found = store.get()
    rows = zip(found["ids"], found["documents"], found["metadatas"], strict=True)
    return {key: (text, metadata or {}) for key, text, metadata in rows}


def of(metadata: dict[Any, Any], text: str = "text", key: str | None = "1") -> Document:
    return Document(text, id=key, metadata=metadata)


BERLIN = [
    of({"source": "a"}, "Berlin had a population of 3,520,031.", None),
    of({"source": "b"}, "Berlin is well known for its museums.", None),
    of({"source": "c"}, "Paris lies on the Seine.", "paris"),
]


def test_only_what_is_new_is_embedded_and_nothing_is_removed(index, counting):
    assert index([]).similarity_search("question") == []
    documents = [of({"none": None, "tags": ["a"]}), *BERLIN]
    before = copy.deepcopy(documents)
    index(documents[:2])
    assert len(counting.embedded) == 2
    first = stored(index(documents))
    assert len(counting.embedded) == 2 + 1 + 2
    for again in (iter(documents), []):
        counting.embedded.clear()
        assert stored(index(again)) == first
        assert len(counting.embedded) == 1
    assert len(first) == 4
    assert documents == before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"source": "a", "page": 1}, {"source": "a", "page": 2}),
        ({"file": "a"}, {"file": "b"}),
        ({}, {"page": 1}),
        ({"page": 1}, {"page": "1"}),
        ({"page": 1}, {"page": True}),
        ({"a": "x", "b": "y"}, {"a": "y", "b": "x"}),
        ({"tags": ["a", "b"]}, {"tags": ["b", "a"]}),
        ({"tags": ["a"]}, {"tags": "a"}),
    ],
    ids=repr,
)
@pytest.mark.parametrize("together", [True, False])
def test_same_text_with_other_metadata_is_another_document(index, one, other, together):
    documents = [of(metadata, "Chapter 1", None) for metadata in (one, other)]
    for _ in range(2):
        store = index(documents) if together else [index([d]) for d in documents][-1]
        held = [metadata for _, metadata in stored(store).values()]
        assert held in ([one, other], [other, one])
    if "page" in other:
        found = store.similarity_search("Chapter 1", filter={"page": other["page"]})
        assert other in [document.metadata for document in found]


@pytest.mark.parametrize(
    ("one", "same"),
    [
        (of({"a": 1, "b": 2}, key=None), of({"b": 2, "a": 1}, key=None)),
        (of({"a": None}, key=None), of({}, key=None)),
        (of({}, key=""), of({}, key=None)),
        (of({}), of({})),
    ],
    ids=["order of keys", "none", "empty id", "same id"],
)
def test_same_document_is_stored_once_under_its_id(index, counting, one, same):
    index([one, same])
    found = stored(index([same, of({}, key="mine")]))
    assert len(found) == 2
    assert found["mine"] == ("text", {})
    assert len(counting.embedded) == 1 + 2


KNOWN = {"a": 1.5, "b": "x", "tags": ["p"]}


@pytest.mark.parametrize(
    "changed",
    [
        of(KNOWN, "other text"),
        of({"a": 1.5}),
        of({**KNOWN, "a": 1.5001}),
        of({**KNOWN, "tags": ["p", "q"]}),
        of({**KNOWN, "b": "y"}),
        of({}),
    ],
    ids=repr,
)
def test_known_id_is_updated(index, counting, changed):
    index([of(KNOWN), *BERLIN])
    for embedded in ([changed.page_content], []):
        counting.embedded.clear()
        store = index([changed, *BERLIN])
        assert counting.embedded[1:] == embedded
        assert len(stored(store)) == 4
        assert stored(store)["1"] == (changed.page_content, changed.metadata)
        assert ids(store.similarity_search(changed.page_content, k=1)) == ["1"]


LOSSY = [{"a": 1}, ("a", "b"), [], [1, 2.0], [["a"]], [None], b"bytes", math.nan, math.inf]
REFUSED = [
    *(({"bad": value}, "field 'bad' of .* 1 must be") for value in [*LOSSY, [math.nan], 2**63]),
    *(({name: 1}, "has a name that Chroma") for name in ("", "#a", "$a", "chroma:document")),
    *(({name: "a"}, "of document 1 must be named by a str") for name in (1, None, ("a",))),
    ({}, "document 1 has the id '1' of an earlier"),
]


@pytest.mark.parametrize(("metadata", "message"), REFUSED, ids=repr)
def test_what_chroma_would_lose_is_refused_before_anything_is_written(
    tmp_path, counting, metadata, message
):
    documents = [of({}, "one"), of(metadata)]
    with pytest.raises((ValueError, TypeError), match=message):
        index_documents(documents, counting, persist_directory=tmp_path / "db")
    assert counting.embedded == []
    assert not (tmp_path / "db").exists()


def test_odd_values_are_stored_and_found(index):
    metadata = {"str": "a", "int": 2**62, "float": 0.5, "bool": True, "tags": ["a", "b"]}
    documents = [
        of({**metadata, "none": None}),
        of({"k\ud800": "v\ud800"}, "lone \ud800", "a\ud800"),
        of({"k": "v\0"}, "n\0l", "nul"),
    ]
    store = index(documents)
    assert stored(store) == {
        "1": ("text", metadata),
        "a\ufffd": ("lone \ufffd", {"k\ufffd": "v\ufffd"}),
        "nul": ("n\0l", {"k": "v\0"}),
    }
    assert store.similarity_search("text", k=1, filter={"bool": True})[0].metadata == metadata


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=5)
NAMES = ANY_TEXT.filter(lambda name: name and name[0] not in "#$")
INTEGERS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(-1e300, 1e300, allow_subnormal=False)
KINDS = (ANY_TEXT, INTEGERS, FLOATS, st.booleans())
VALUES = st.one_of(st.none(), *(one | st.lists(one, min_size=1, max_size=2) for one in KINDS))
METADATA = st.dictionaries(NAMES, VALUES, max_size=2)
DOCUMENTS = st.builds(Document, page_content=ANY_TEXT, metadata=METADATA)


# Chroma rounds some of these.
@pytest.mark.parametrize(("before", "after"), [(1, True), (True, 1), (1, 1.0), (1.0, 1)])
def test_a_value_of_another_type_is_another_value(index, before, after):
    for value in (before, after):
        store = index([of({"x": value})])
    assert [type(one["x"]) for one in store.get(where={"x": after})["metadatas"]] == [type(after)]


SINES = [of({"score": math.sin(i), "scores": [math.cos(i)]}, key=f"{i}") for i in range(100)]


# The first run of all makes Hypothesis build its tables of characters.
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(DOCUMENTS, min_size=1, max_size=3))
@example(SINES)
def test_any_document_is_stored_once(documents):
    counting = CountingEmbeddings()
    name = f"test-{uuid.uuid4().hex}"
    found = stored(index_documents(documents, counting, collection_name=name))
    assert 1 <= len(found) <= len(documents)
    counting.embedded.clear()
    assert stored(index_documents(documents, counting, collection_name=name)) == found
    assert len(counting.embedded) == 1


def test_interrupted_run_keeps_whole_batches_and_goes_on(collection_name):
    documents = [Document(f"document {i}") for i in range(300)]
    broken, repaired = CountingEmbeddings(fail_after=299), CountingEmbeddings()
    with pytest.raises(ConnectionError, match="the embedding service is gone"):
        index_documents(documents, broken, collection_name=collection_name)
    kept = chromadb.EphemeralClient().get_collection(collection_name).count()
    assert kept == len(broken.embedded) > 0
    store = index_documents(documents, repaired, collection_name=collection_name)
    assert len(stored(store)) == 300
    assert broken.embedded + repaired.embedded[1:] == [one.page_content for one in documents]


def test_collection_on_disk_opens_as_a_plain_chroma(tmp_path, counting):
    index_documents(BERLIN, counting, persist_directory=tmp_path / "db")
    # A copy, because a process shares one client for all users of a folder.
    shutil.copytree(tmp_path / "db", tmp_path / "copy")
    reopened = Chroma(persist_directory=str(tmp_path / "copy"), embedding_function=counting)
    assert reopened.similarity_search("Paris lies on the Seine.", k=1) == [BERLIN[2]]
    counting.embedded.clear()
    client = chromadb.PersistentClient(str(tmp_path / "copy"))
    assert len(stored(index_documents(BERLIN, counting, client=client))) == 3
    assert len(counting.embedded) == 1


def test_what_does_not_fit_is_refused(index, collection_name, counting, tmp_path):
    index(BERLIN[:1])
    for other in (CountingEmbeddings(size=8), CountingEmbeddings(prefix="other: ")):
        with pytest.raises(ValueError, match=f"'{collection_name}' was made with other embeddings"):
            index(BERLIN, embeddings=other)
    Chroma.from_documents(BERLIN, counting, collection_name=f"{collection_name}-l2")
    with pytest.raises(ValueError, match="exists in l2 space, expected cosine"):
        index(BERLIN, collection_name=f"{collection_name}-l2")
    with pytest.raises(ValueError, match="expected client or persist_directory, got both"):
        index(BERLIN, client=chromadb.EphemeralClient(), persist_directory=tmp_path / "db")
    assert not (tmp_path / "db").exists()
    assert len(stored(index([]))) == 1


def test_collection_is_made_for_deep_candidate_lists(index, counting):
    documents = [Document(f"document {i}", id=str(i)) for i in range(300)]
    store = index(documents)
    assert store._collection.configuration_json["hnsw"]["space"] == "cosine"
    assert store._collection.configuration_json["hnsw"]["ef_search"] >= 400
    vectors = np.array(counting.embed_documents([one.page_content for one in documents]))
    similarity = vectors @ counting.embed_query("question") / np.linalg.norm(vectors, axis=1)
    exact = {str(i) for i in np.argsort(-similarity)[:100]}
    found = ids(store.similarity_search("question", k=100))
    assert len(found) == len(set(found)) == 100
    assert len(exact & set(found)) >= 99


def test_progress_is_shown_where_asked_for_and_something_is_left_to_do(index, capsys):
    for documents, shown in ((BERLIN[:1], False), (BERLIN, True), (BERLIN, False)):
        index(documents, show_progress=len(documents) > 1)
        captured = capsys.readouterr()
        assert captured.out == ""
        assert bool(captured.err) is ("2/2" in captured.err) is shown
