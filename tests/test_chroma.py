"""An idempotent Chroma collection: what is embedded, what is written, what is refused."""

from __future__ import annotations

import copy
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


@pytest.fixture
def collection_name() -> str:
    """A name of its own, for all of a process's in-memory clients are one."""
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def counting() -> CountingEmbeddings:
    return CountingEmbeddings()


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


def test_second_run_adds_and_embeds_nothing(
    collection_name: str, counting: CountingEmbeddings
) -> None:
    first = stored(index_documents(BERLIN, counting, collection_name=collection_name))
    assert sorted(counting.embedded) == sorted(document.page_content for document in BERLIN)

    counting.embedded.clear()
    again = index_documents(iter(BERLIN), counting, collection_name=collection_name)
    assert len(counting.embedded) == 1
    assert stored(again) == first
    assert len(first) == 3


def test_documents_are_added_and_none_removed(
    collection_name: str, counting: CountingEmbeddings
) -> None:
    index_documents(BERLIN[:1], counting, collection_name=collection_name)
    store = index_documents(BERLIN[1:], counting, collection_name=collection_name)
    assert len(stored(store)) == 3
    assert len(counting.embedded) == 1 + 1 + 2


def test_ids_are_kept_and_made_of_source_and_text(
    collection_name: str, counting: CountingEmbeddings
) -> None:
    documents = [
        Document("same text", metadata={"source": "a"}),
        Document("same text", metadata={"source": "b"}),
        Document("same text", metadata={"source": "a"}),
        Document("same text", id="mine"),
        Document("same text", id=""),
    ]
    found = stored(index_documents(documents, counting, collection_name=collection_name))
    assert len(found) == 4
    assert found["mine"] == ("same text", {})
    assert sorted(metadata.get("source", "") for _, metadata in found.values()) == [
        "",
        "",
        "a",
        "b",
    ]

    index_documents(documents, counting, collection_name=collection_name)
    assert len(counting.embedded) == 4 + 1


def test_changed_document_is_updated(collection_name: str, counting: CountingEmbeddings) -> None:
    index_documents(BERLIN, counting, collection_name=collection_name)
    counting.embedded.clear()

    changed = Document("Paris is the capital of France.", metadata={"source": "c"}, id="paris")
    store = index_documents([*BERLIN[:2], changed], counting, collection_name=collection_name)

    assert counting.embedded[1:] == ["Paris is the capital of France."]
    assert stored(store)["paris"] == (changed.page_content, {"source": "c"})
    assert len(stored(store)) == 3
    (found,) = store.similarity_search("Paris is the capital of France.", k=1)
    assert found.id == "paris"


@pytest.mark.parametrize(
    "metadata",
    [
        {"a": 1.5},
        {"a": 1.5001, "b": "x", "tags": ["p"]},
        {"a": 1.5, "b": "x", "tags": ["p", "q"]},
        {"a": 1.5, "b": "y", "tags": ["p"]},
        {},
    ],
)
def test_changed_metadata_replace_the_old(
    collection_name: str, counting: CountingEmbeddings, metadata: dict
) -> None:
    before = Document("text", id="1", metadata={"a": 1.5, "b": "x", "tags": ["p"]})
    index_documents([before], counting, collection_name=collection_name)
    after = Document("text", id="1", metadata=metadata)
    store = index_documents([after], counting, collection_name=collection_name)
    assert stored(store) == {"1": ("text", metadata)}

    counting.embedded.clear()
    index_documents([after], counting, collection_name=collection_name)
    assert len(counting.embedded) == 1


def test_input_stays_as_it_was(collection_name: str, counting: CountingEmbeddings) -> None:
    documents = [Document("text", metadata={"none": None, "tags": ["a"]}), *BERLIN]
    before = copy.deepcopy(documents)
    index_documents(documents, counting, collection_name=collection_name)
    assert documents == before


def test_metadata_come_back_without_none(
    collection_name: str, counting: CountingEmbeddings
) -> None:
    metadata = {"str": "a", "int": 2**62, "float": 0.5, "bool": True, "tags": ["a", "b"]}
    documents = [Document("text", id="1", metadata={**metadata, "none": None})]
    store = index_documents(documents, counting, collection_name=collection_name)
    assert stored(store)["1"][1] == metadata
    assert store.similarity_search("text", k=1, filter={"bool": True})[0].metadata == metadata


def test_one_id_for_two_documents_is_an_error(tmp_path: Path, counting: CountingEmbeddings) -> None:
    documents = [Document("one", id="1"), Document("two", id="2"), Document("other", id="1")]
    with pytest.raises(ValueError, match="document 2 has the id '1' of an earlier"):
        index_documents(documents, counting, persist_directory=tmp_path / "db")
    assert counting.embedded == []
    assert not (tmp_path / "db").exists()


def test_same_document_twice_is_no_error(
    collection_name: str, counting: CountingEmbeddings
) -> None:
    documents = [Document("one", id="1"), Document("one", id="1")]
    store = index_documents(documents, counting, collection_name=collection_name)
    assert stored(store) == {"1": ("one", {})}


@pytest.mark.parametrize(
    "value",
    [
        {"a": 1},
        ("a", "b"),
        [],
        [1, 2.0],
        [["a"]],
        [None],
        b"bytes",
        math.nan,
        math.inf,
        [math.nan],
        2**63,
    ],
    ids=repr,
)
def test_metadata_that_chroma_loses_are_refused(
    tmp_path: Path, counting: CountingEmbeddings, value: object
) -> None:
    documents = [Document("one"), Document("two", metadata={"good": 1, "bad": value})]
    with pytest.raises(ValueError, match="metadata field 'bad' of document 1 must be"):
        index_documents(documents, counting, persist_directory=tmp_path / "db")
    assert counting.embedded == []
    assert not (tmp_path / "db").exists()


@pytest.mark.parametrize("name", ["", "#a", "$a", "chroma:document"])
def test_field_names_that_chroma_reserves_are_refused(
    tmp_path: Path, counting: CountingEmbeddings, name: str
) -> None:
    with pytest.raises(ValueError, match="of document 0 has a name that Chroma reserves"):
        index_documents(
            [Document("one", metadata={name: 1})], counting, persist_directory=tmp_path / "db"
        )
    assert not (tmp_path / "db").exists()


def test_document_without_text_is_named_by_its_position(
    tmp_path: Path, counting: CountingEmbeddings
) -> None:
    documents = [Document("a"), Document.model_construct(page_content=None, metadata={}, id=None)]
    with pytest.raises(TypeError, match="page_content of document 1 must be a str, got NoneType"):
        index_documents(documents, counting, persist_directory=tmp_path / "db")
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
            Document,
            page_content=ANY_TEXT,
            metadata=st.dictionaries(NAMES, VALUES, max_size=2),
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
    collection_name: str, counting: CountingEmbeddings
) -> None:
    documents = [
        Document(str(i), id=str(i), metadata={"score": math.sin(i), "scores": [math.cos(i)]})
        for i in range(100)
    ]
    store = index_documents(documents, counting, collection_name=collection_name)
    found = stored(store)
    assert any(found[str(i)][1]["score"] != math.sin(i) for i in range(100))
    counting.embedded.clear()
    index_documents(documents, counting, collection_name=collection_name)
    assert len(counting.embedded) == 1


def test_surrogates_and_nul_are_stored(collection_name: str, counting: CountingEmbeddings) -> None:
    documents = [Document("lone \ud800", id="a\ud800", metadata={"k\ud800": "v\ud800"})]
    documents.append(Document("n\0l", id="nul", metadata={"k": "v\0"}))
    store = index_documents(documents, counting, collection_name=collection_name)
    assert stored(store) == {
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
    index_documents(BERLIN, counting, persist_directory=tmp_path / "copy")
    assert len(counting.embedded) == 1


def test_own_client_is_used(tmp_path: Path, counting: CountingEmbeddings) -> None:
    client = chromadb.PersistentClient(str(tmp_path))
    index_documents(BERLIN, counting, collection_name="berlin", client=client)
    assert client.get_collection("berlin").count() == 3


def test_client_and_folder_together_are_an_error(
    tmp_path: Path, counting: CountingEmbeddings
) -> None:
    client = chromadb.EphemeralClient()
    with pytest.raises(ValueError, match="expected client or persist_directory, got both"):
        index_documents(BERLIN, counting, persist_directory=tmp_path / "db", client=client)
    assert not (tmp_path / "db").exists()


class OtherEmbeddings(CountingEmbeddings):
    """Another model with vectors of the same size."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return super().embed_documents([f"other: {text}" for text in texts])


@pytest.mark.parametrize("other", [CountingEmbeddings(size=8), OtherEmbeddings()], ids=type)
def test_other_embeddings_are_refused(
    collection_name: str, counting: CountingEmbeddings, other: CountingEmbeddings
) -> None:
    index_documents(BERLIN[:1], counting, collection_name=collection_name)
    message = f"collection '{collection_name}' was made with other embeddings"
    with pytest.raises(ValueError, match=message):
        index_documents(BERLIN, other, collection_name=collection_name)
    assert len(stored(index_documents([], counting, collection_name=collection_name))) == 1


def test_collection_in_another_space_is_refused(
    collection_name: str, counting: CountingEmbeddings
) -> None:
    plain = Chroma.from_documents(BERLIN, counting, collection_name=collection_name)
    counting.embedded.clear()
    with pytest.raises(ValueError, match="exists in l2 space, expected cosine"):
        index_documents(BERLIN, counting, collection_name=collection_name)
    assert counting.embedded == []
    assert len(stored(plain)) == 3


def test_collection_is_made_for_deep_candidate_lists(
    collection_name: str, counting: CountingEmbeddings
) -> None:
    documents = [Document(f"document {i}", id=str(i)) for i in range(300)]
    store = index_documents(documents, counting, collection_name=collection_name)

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


def test_no_documents_make_an_empty_collection(
    collection_name: str, counting: CountingEmbeddings
) -> None:
    store = index_documents([], counting, collection_name=collection_name)
    assert store.similarity_search("question", k=5) == []


@pytest.mark.parametrize("show_progress", [True, False])
def test_progress_is_shown_where_asked_for(
    collection_name: str,
    counting: CountingEmbeddings,
    capsys: pytest.CaptureFixture,
    show_progress: bool,  # noqa: FBT001
) -> None:
    index_documents(BERLIN, counting, collection_name=collection_name, show_progress=show_progress)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert ("Indexing" in captured.err and "3/3" in captured.err) is show_progress
    assert bool(captured.err) is show_progress
    # Nothing is left to do.
    index_documents(BERLIN, counting, collection_name=collection_name, show_progress=show_progress)
    assert capsys.readouterr().err == ""
