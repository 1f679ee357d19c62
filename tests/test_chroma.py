"""An idempotent Chroma collection: what is embedded, what is written, what is refused."""

from __future__ import annotations

import copy
import functools
import math
import shutil
import uuid
from typing import TYPE_CHECKING, Any

import chromadb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings

from langchain_rerank import create_rerank_retriever, index_documents
from tests.fakes import WordOverlapCrossEncoder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class CountingEmbeddings(DeterministicFakeEmbedding):
    """Keeps the texts it was asked to embed; fails after `fail_after` of them.

    Where a collection exists, the first of them is one of its own documents, embedded again to
    see that the model is the same.
    """

    size: int = 16
    embedded: list[str] = []  # noqa: RUF012  # pydantic copies it
    fail_after: float = math.inf

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        if len(self.embedded) + len(texts) > self.fail_after:
            msg = "the embedding service is gone"
            raise ConnectionError(msg)
        self.embedded.extend(texts)
        return super().embed_documents(texts)


class OtherEmbeddings(CountingEmbeddings):
    """Another model with vectors of the same size."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return super().embed_documents([f"other: {text}" for text in texts])


@pytest.fixture
def counting() -> CountingEmbeddings:
    return CountingEmbeddings()


@pytest.fixture
def collection_name() -> str:
    """A name of its own, for all of a process's in-memory clients are one."""
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def index(collection_name: str, counting: CountingEmbeddings) -> Callable[..., Chroma]:
    """`index_documents` into one collection in memory; takes documents."""
    return functools.partial(index_documents, embeddings=counting, collection_name=collection_name)


def stored(store: Chroma) -> dict[str, tuple[str, dict[str, Any]]]:
    found = store.get()
    rows = zip(found["ids"], found["documents"], found["metadatas"], strict=True)
    return {key: (text, metadata or {}) for key, text, metadata in rows}


BERLIN = [
    Document("Berlin had a population of 3,520,031.", metadata={"source": "a"}),
    Document("Berlin is well known for its museums.", metadata={"source": "b"}),
    Document("Paris lies on the Seine.", metadata={"source": "c"}, id="paris"),
]


def test_real_embeddings_find_the_document(collection_name: str, embeddings: Embeddings) -> None:
    store = index_documents(BERLIN, embeddings, collection_name=collection_name)
    (found,) = store.similarity_search("Which river crosses Paris?", k=1)
    assert (found.id, found.page_content) == ("paris", "Paris lies on the Seine.")
    (scored,) = store.similarity_search_with_relevance_scores(BERLIN[0].page_content, k=1)
    assert scored[0].metadata == {"source": "a"}
    assert scored[1] > 0.8


def test_second_run_adds_and_embeds_nothing(index: Any, counting: CountingEmbeddings) -> None:
    documents = [Document("text", metadata={"none": None, "tags": ["a"]}), *BERLIN]
    before = copy.deepcopy(documents)
    first = stored(index(documents))
    assert sorted(counting.embedded) == sorted(document.page_content for document in documents)
    counting.embedded.clear()
    assert stored(index(iter(documents))) == first
    assert len(counting.embedded) == 1
    assert len(first) == 4
    assert documents == before


def test_documents_are_added_and_none_removed(index: Any, counting: CountingEmbeddings) -> None:
    index(BERLIN[:1])
    assert len(stored(index(BERLIN[1:]))) == 3
    assert len(counting.embedded) == 1 + 1 + 2
    assert len(stored(index([]))) == 3


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
@pytest.mark.parametrize("together", [True, False], ids=["one call", "two calls"])
def test_same_text_with_other_metadata_is_another_document(
    index: Any,
    one: dict[str, Any],
    other: dict[str, Any],
    together: bool,  # noqa: FBT001
) -> None:
    documents = [Document("Chapter 1", metadata=metadata) for metadata in (one, other)]
    for _ in range(2):
        store = index(documents) if together else [index([d]) for d in documents][-1]
        held = [metadata for _, metadata in stored(store).values()]
        assert held in ([one, other], [other, one])
    for metadata in (one, other):
        for name, value in metadata.items():
            if not isinstance(value, list):
                found = store.similarity_search("Chapter 1", filter={name: value})
                assert metadata in [document.metadata for document in found]


@pytest.mark.parametrize(
    ("one", "same"),
    [
        (Document("text", metadata={"a": 1, "b": 2}), Document("text", metadata={"b": 2, "a": 1})),
        (Document("text", metadata={"a": None}), Document("text")),
        (Document("text", id=""), Document("text")),
        (Document("text", id="1"), Document("text", id="1")),
    ],
    ids=["order of keys", "none", "empty id", "same id"],
)
def test_same_document_is_stored_once(
    index: Any, counting: CountingEmbeddings, one: Document, same: Document
) -> None:
    index([one, same])
    assert len(stored(index([same]))) == 1
    assert len(counting.embedded) == 1 + 1


def test_ids_of_the_caller_are_kept(index: Any) -> None:
    found = stored(index([Document("text", id="mine"), Document("text", id="2"), Document("text")]))
    assert len(found) == 3
    assert found["mine"] == found["2"] == ("text", {})


@pytest.mark.parametrize(
    "changed",
    [
        Document("other text", id="1", metadata={"a": 1.5, "b": "x", "tags": ["p"]}),
        *(
            Document("text", id="1", metadata=metadata)
            for metadata in (
                {"a": 1.5},
                {"a": 1.5001, "b": "x", "tags": ["p"]},
                {"a": 1.5, "b": "x", "tags": ["p", "q"]},
                {"a": 1.5, "b": "y", "tags": ["p"]},
                {},
            )
        ),
    ],
    ids=repr,
)
def test_known_id_is_updated(index: Any, counting: CountingEmbeddings, changed: Document) -> None:
    index([Document("text", id="1", metadata={"a": 1.5, "b": "x", "tags": ["p"]}), *BERLIN])
    counting.embedded.clear()
    store = index([changed, *BERLIN])
    assert counting.embedded[1:] == [changed.page_content]
    assert len(stored(store)) == 4
    assert stored(store)["1"] == (changed.page_content, changed.metadata)
    (found,) = store.similarity_search(changed.page_content, k=1)
    assert found.id == "1"

    counting.embedded.clear()
    index([changed])
    assert len(counting.embedded) == 1


def test_metadata_come_back_without_none(index: Any) -> None:
    metadata = {"str": "a", "int": 2**62, "float": 0.5, "bool": True, "tags": ["a", "b"]}
    store = index([Document("text", id="1", metadata={**metadata, "none": None})])
    assert stored(store)["1"][1] == metadata
    assert store.similarity_search("text", k=1, filter={"bool": True})[0].metadata == metadata


LOSSY = [{"a": 1}, ("a", "b"), [], [1, 2.0], [["a"]], [None], b"bytes", math.nan, math.inf]
LOSSY += [[math.nan], 2**63]


@pytest.mark.parametrize(
    ("document", "error", "message"),
    [
        *(
            (
                Document("x", metadata={"good": 1, "bad": value}),
                ValueError,
                "metadata field 'bad' of document 1 must be",
            )
            for value in LOSSY
        ),
        *(
            (
                Document("x", metadata={name: 1}),
                ValueError,
                "of document 1 has a name that Chroma reserves",
            )
            for name in ("", "#a", "$a", "chroma:document")
        ),
        *(
            (
                Document("x", metadata={name: value}),
                TypeError,
                "metadata field .* of document 1 must be named by a str",
            )
            for name, value in ((1, "a"), (None, "a"), (("a",), None), (2.5, "a"))
        ),
        (Document("other", id="1"), ValueError, "document 1 has the id '1' of an earlier"),
        (
            Document.model_construct(page_content=None, metadata={}, id=None),
            TypeError,
            "page_content of document 1 must be a str, got NoneType",
        ),
    ],
    ids=repr,
)
def test_what_chroma_would_lose_is_refused_before_anything_is_written(
    tmp_path: Path,
    counting: CountingEmbeddings,
    document: Document,
    error: type[Exception],
    message: str,
) -> None:
    documents = [Document("one", id="1"), document]
    with pytest.raises(error, match=message):
        index_documents(documents, counting, persist_directory=tmp_path / "db")
    assert counting.embedded == []
    assert not (tmp_path / "db").exists()


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=5)
NAMES = ANY_TEXT.filter(lambda name: name and name[0] not in "#$")
INTEGERS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(-1e300, 1e300, allow_subnormal=False)
VALUES = st.one_of(
    st.none(),
    *(
        kind | st.lists(kind, min_size=1, max_size=2)
        for kind in (ANY_TEXT, INTEGERS, FLOATS, st.booleans())
    ),
)


# The first run of all makes Hypothesis build its tables of characters.
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    documents=st.lists(
        st.builds(
            Document, page_content=ANY_TEXT, metadata=st.dictionaries(NAMES, VALUES, max_size=2)
        ),
        min_size=1,
        max_size=3,
    )
)
def test_any_text_is_stored_once(documents: list[Document]) -> None:
    counting = CountingEmbeddings()
    name = f"test-{uuid.uuid4().hex}"
    store = index_documents(documents, counting, collection_name=name)
    found = stored(store)
    assert 1 <= len(found) <= len(documents)
    counting.embedded.clear()
    assert stored(index_documents(documents, counting, collection_name=name)) == found
    assert len(counting.embedded) == 1


def test_floats_that_chroma_rounds_are_stored_once(
    index: Any, counting: CountingEmbeddings
) -> None:
    documents = [
        Document(str(i), id=str(i), metadata={"score": math.sin(i), "scores": [math.cos(i)]})
        for i in range(100)
    ]
    found = stored(index(documents))
    assert any(found[str(i)][1]["score"] != math.sin(i) for i in range(100))
    counting.embedded.clear()
    index(documents)
    assert len(counting.embedded) == 1


def test_surrogates_and_nul_are_stored(index: Any) -> None:
    documents = [Document("lone \ud800", id="a\ud800", metadata={"k\ud800": "v\ud800"})]
    documents.append(Document("n\0l", id="nul", metadata={"k": "v\0"}))
    assert stored(index(documents)) == {
        "a\ufffd": ("lone \ufffd", {"k\ufffd": "v\ufffd"}),
        "nul": ("n\0l", {"k": "v\0"}),
    }


def test_interrupted_run_keeps_whole_batches_and_goes_on(collection_name: str) -> None:
    documents = [Document(f"document {i}") for i in range(300)]
    broken = CountingEmbeddings(fail_after=299)
    with pytest.raises(ConnectionError, match="the embedding service is gone"):
        index_documents(documents, broken, collection_name=collection_name)
    kept = chromadb.EphemeralClient().get_collection(collection_name).count()
    assert kept == len(broken.embedded) > 0

    repaired = CountingEmbeddings()
    store = index_documents(documents, repaired, collection_name=collection_name)
    assert len(stored(store)) == 300
    assert broken.embedded + repaired.embedded[1:] == [
        document.page_content for document in documents
    ]


def test_collection_on_disk_opens_as_a_plain_chroma(
    tmp_path: Path, counting: CountingEmbeddings
) -> None:
    index_documents(BERLIN, counting, persist_directory=tmp_path / "db")
    # A copy, because a process shares one client for all users of a folder.
    shutil.copytree(tmp_path / "db", tmp_path / "copy")
    reopened = Chroma(persist_directory=str(tmp_path / "copy"), embedding_function=counting)
    (found,) = reopened.similarity_search("Paris lies on the Seine.", k=1)
    assert found == BERLIN[2]
    assert len(stored(reopened)) == 3

    counting.embedded.clear()
    client = chromadb.PersistentClient(str(tmp_path / "copy"))
    index_documents(BERLIN, counting, client=client)
    assert len(counting.embedded) == 1


def test_client_and_folder_together_are_an_error(
    tmp_path: Path, counting: CountingEmbeddings
) -> None:
    client = chromadb.EphemeralClient()
    with pytest.raises(ValueError, match="expected client or persist_directory, got both"):
        index_documents(BERLIN, counting, persist_directory=tmp_path / "db", client=client)
    assert not (tmp_path / "db").exists()


@pytest.mark.parametrize("other", [CountingEmbeddings(size=8), OtherEmbeddings()], ids=type)
def test_other_embeddings_are_refused(
    index: Any, collection_name: str, other: CountingEmbeddings
) -> None:
    index(BERLIN[:1])
    message = f"collection '{collection_name}' was made with other embeddings"
    with pytest.raises(ValueError, match=message):
        index(BERLIN, embeddings=other)
    assert len(stored(index([]))) == 1


def test_collection_in_another_space_is_refused(
    index: Any, collection_name: str, counting: CountingEmbeddings
) -> None:
    plain = Chroma.from_documents(BERLIN, counting, collection_name=collection_name)
    counting.embedded.clear()
    with pytest.raises(ValueError, match="exists in l2 space, expected cosine"):
        index(BERLIN)
    assert counting.embedded == []
    assert len(stored(plain)) == 3


def test_collection_is_made_for_deep_candidate_lists(
    index: Any, collection_name: str, counting: CountingEmbeddings
) -> None:
    documents = [Document(f"document {i}", id=str(i)) for i in range(300)]
    store = index(documents)
    collection = chromadb.EphemeralClient().get_collection(collection_name)
    assert collection.configuration_json["hnsw"]["space"] == "cosine"
    assert collection.configuration_json["hnsw"]["ef_search"] >= 400

    vectors = np.array(counting.embed_documents([one.page_content for one in documents]))
    query = np.array(counting.embed_query("question"))
    similarity = vectors @ query / np.linalg.norm(vectors, axis=1)
    exact = {str(i) for i in np.argsort(-similarity)[:100]}
    found = [document.id for document in store.similarity_search("question", k=100)]
    assert len(found) == len(set(found)) == 100
    assert len(exact & set(found)) >= 99

    model = WordOverlapCrossEncoder()
    create_rerank_retriever(store, reranker=model, fetch_k=100).invoke("question")
    assert len(model.calls[0]) == 100


def test_no_documents_make_an_empty_collection(index: Any) -> None:
    assert index([]).similarity_search("question", k=5) == []


@pytest.mark.parametrize("show_progress", [True, False])
def test_progress_is_shown_where_asked_for(
    index: Any,
    capsys: pytest.CaptureFixture,
    show_progress: bool,  # noqa: FBT001
) -> None:
    index(BERLIN, show_progress=show_progress)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert ("Indexing" in captured.err and "3/3" in captured.err) is show_progress
    assert bool(captured.err) is show_progress
    # Nothing is left to do.
    index(BERLIN, show_progress=show_progress)
    assert capsys.readouterr().err == ""
