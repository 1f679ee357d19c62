"""Scores from a store, and of what the store lacks."""

from __future__ import annotations

import math
import struct

import pytest
from langchain_classic.storage import LocalFileStore
from langchain_core.stores import InMemoryByteStore

from langchain_rerank import (
    CachedCrossEncoder,
    OnnxCrossEncoder,
    Reranker,
    ScoringError,
    TorchCrossEncoder,
)
from tests.fakes import WordOverlapCrossEncoder

PAIRS = [("a b", "a"), ("a b", "a b"), ("a b", "c"), ("a b", "a")]
SCORES = [0.5, 1.0, 0.0, 0.5]


@pytest.fixture
def store() -> InMemoryByteStore:
    return InMemoryByteStore()


def cached(store, fake=None) -> tuple[CachedCrossEncoder, WordOverlapCrossEncoder]:
    fake = fake or WordOverlapCrossEncoder()
    return CachedCrossEncoder(fake, store, namespace="overlap"), fake


def test_each_pair_is_scored_once(store):
    cross_encoder, fake = cached(store)
    assert cross_encoder.score(PAIRS) == SCORES
    assert cross_encoder.score(PAIRS) == SCORES
    assert fake.calls == [PAIRS[:3]]


def test_only_missing_pairs_are_scored(store):
    cross_encoder, fake = cached(store)
    cross_encoder.score(PAIRS[:1])
    assert cross_encoder.score([*PAIRS, ("a", "a")]) == [*SCORES, 1.0]
    assert fake.calls == [PAIRS[:1], [PAIRS[1], PAIRS[2], ("a", "a")]]


def test_no_pairs_no_call(store):
    cross_encoder, fake = cached(store)
    assert cross_encoder.score([]) == []
    assert fake.calls == []


@pytest.mark.parametrize(
    "damage",
    [b"", b"x", b"\0" * 12, b"\0" * 13, struct.pack("<dI", 0.9, 0)],
    ids=["empty", "short", "zeros", "long", "wrong sum"],
)
def test_a_damaged_entry_is_scored_again_and_mended(store, damage):
    cross_encoder, fake = cached(store)
    cross_encoder.score(PAIRS)
    store.mset([(next(store.yield_keys()), damage)])
    assert cross_encoder.score(PAIRS) == SCORES
    assert len(fake.calls[1]) == 1
    assert cross_encoder.score(PAIRS) == SCORES
    assert len(fake.calls) == 2


def test_scores_survive_the_process_in_files(tmp_path):
    cached(LocalFileStore(tmp_path))[0].score(PAIRS)
    cross_encoder, fake = cached(LocalFileStore(tmp_path))
    assert cross_encoder.score(PAIRS) == SCORES
    assert fake.calls == []


def test_a_cached_call_loads_no_model(store, checkpoint):
    settings = {"model": checkpoint, "normalize": False}
    first = CachedCrossEncoder(TorchCrossEncoder(**settings), store)
    scores = first.score(PAIRS)
    again = TorchCrossEncoder(**settings, show_progress=True)
    assert CachedCrossEncoder(again, store).score(PAIRS) == scores
    assert again._loaded is None


@pytest.mark.parametrize(
    "change", [{"normalize": True}, {"max_length": 64}, {"query_instruction": "Find: "}]
)
def test_other_settings_are_other_scores(store, checkpoint, change):
    settings = {"model": checkpoint, "normalize": False}
    CachedCrossEncoder(TorchCrossEncoder(**settings), store).score(PAIRS)
    CachedCrossEncoder(TorchCrossEncoder(**{**settings, **change}), store).score(PAIRS)
    assert len(list(store.yield_keys())) == 6


def test_pairs_are_told_apart_however_their_texts_are_cut(store):
    cross_encoder, _ = cached(store)
    cross_encoder.score([("a b", "c"), ("a", "b c"), ("a b c", ""), ("a\ud800", "b")])
    assert len(list(store.yield_keys())) == 4


async def test_infinity_comes_back_as_it_was_and_nan_is_scored_again(store):
    class Strange(Complete):
        def score(self, text_pairs):
            super().score(text_pairs)
            return [{"a": math.nan, "a b": math.inf, "c": -0.0}[text] for _, text in text_pairs]

    cross_encoder, fake = cached(store, Strange())
    for found in (cross_encoder.score(PAIRS[:3]), await cross_encoder.ascore(PAIRS[:3])):
        assert math.isnan(found[0])
        assert found[1:] == [math.inf, 0.0]
    assert fake.calls == [PAIRS[:3], PAIRS[:1]]
    assert len(list(store.yield_keys())) == 2


def test_a_wrong_number_of_scores_stores_nothing(store):
    class Short(WordOverlapCrossEncoder):
        def score(self, text_pairs):
            return [1.0]

    with pytest.raises(ScoringError, match="gave 1 scores for 3 pairs"):
        cached(store, Short())[0].score(PAIRS)
    assert list(store.yield_keys()) == []


def test_a_cross_encoder_of_another_package_needs_a_namespace(store):
    with pytest.raises(ValueError, match=r"namespace must name .* WordOverlapCrossEncoder"):
        CachedCrossEncoder(WordOverlapCrossEncoder(), store)


def test_texts_are_checked_before_the_store_is_asked(store):
    with pytest.raises(TypeError, match="the passage of pair 1 must be a str, got NoneType"):
        cached(store)[0].score([("a", "b"), ("a", None)])


def test_it_serves_a_reranker(store):
    from langchain_core.documents import Document

    cross_encoder, fake = cached(store)
    reranker = Reranker(model=cross_encoder, top_n=1)
    documents = [Document("c"), Document("a b")]
    for _ in range(2):
        [best] = reranker.compress_documents(documents, "a b")
        assert best.page_content == "a b"
    assert len(fake.calls) == 1


class BrokenStore(InMemoryByteStore):
    """Fails to read, to write, or both."""

    def __init__(self, *broken: str) -> None:
        super().__init__()
        self.broken = broken

    def mget(self, keys):
        if "read" in self.broken:
            raise OSError
        return super().mget(keys)

    def mset(self, key_value_pairs):
        if "write" in self.broken:
            raise OSError
        super().mset(key_value_pairs)


@pytest.mark.parametrize("broken", [("read",), ("write",), ("read", "write")])
async def test_a_store_that_fails_costs_time_and_no_answer(broken, caplog):
    cross_encoder, fake = cached(BrokenStore(*broken))
    assert cross_encoder.score(PAIRS) == SCORES
    assert cross_encoder.score(PAIRS) == SCORES
    assert len(fake.calls) == 2
    assert "the score cache can't be" in caplog.text


class Complete(WordOverlapCrossEncoder):
    """A cross encoder with all that ours have besides `score`."""

    def __init__(self, instruction: str = "") -> None:
        super().__init__()
        self.instruction = instruction
        self.done: list[str] = []

    def load(self) -> None:
        self.done.append("load")

    def close(self) -> None:
        self.done.append("close")

    async def ascore(self, text_pairs):
        self.done.append("ascore")
        return self.score(text_pairs)

    def with_instruction(self, instruction: str) -> Complete:
        return Complete(instruction)


async def test_what_its_cross_encoder_can_do_it_can(store):
    cross_encoder, fake = cached(store, Complete())
    cross_encoder.load()
    assert await cross_encoder.ascore(PAIRS) == SCORES
    assert await cross_encoder.ascore(PAIRS) == SCORES
    cross_encoder.close()
    assert fake.done == ["load", "ascore", "close"]
    entries = len(list(store.yield_keys()))
    assert cross_encoder.with_instruction("cities").score(PAIRS) == SCORES
    assert len(list(store.yield_keys())) == 2 * entries


def test_what_its_cross_encoder_lacks_it_lacks(store):
    cross_encoder, _ = cached(store)
    cross_encoder.load()
    cross_encoder.close()
    assert not hasattr(cross_encoder, "ascore")
    with pytest.raises(ValueError, match="takes no instruction"):
        cross_encoder.with_instruction("cities")


def test_the_size_of_batches_is_another_score_and_the_threads_are_not(store, checkpoint):
    def namespace(**settings):
        model = OnnxCrossEncoder(model=checkpoint, **settings)
        return CachedCrossEncoder(model, store)._namespace

    assert namespace(num_threads=3) == namespace()
    assert namespace(batch_tokens=512) != namespace()
