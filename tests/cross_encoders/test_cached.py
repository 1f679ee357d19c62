"""Scores from a store, and of what the store lacks."""

from __future__ import annotations

import math

import pytest
from langchain_classic.storage import LocalFileStore
from langchain_core.stores import InMemoryByteStore

from langchain_rerank import CachedCrossEncoder, OnnxCrossEncoder, ScoringError, TorchCrossEncoder
from tests.fakes import WordOverlapCrossEncoder

PAIRS = [("a b", "a"), ("a b", "a b"), ("a b", "c"), ("a b", "a")]
SCORES = [0.5, 1.0, 0.0, 0.5]


class Complete(WordOverlapCrossEncoder):
    """A cross encoder with all that ours have besides `score`; gives some texts odd scores."""

    def __init__(self, odd: dict[str, float] | None = None) -> None:
        super().__init__()
        self.done: list[str] = []
        self.odd = odd or {}

    def load(self) -> None:
        self.done.append("load")

    def close(self) -> None:
        self.done.append("close")

    def score(self, text_pairs):
        scores = zip(text_pairs, super().score(text_pairs), strict=True)
        return [self.odd.get(text, score) for (_, text), score in scores]

    async def ascore(self, text_pairs):
        self.done.append("ascore")
        return self.score(text_pairs)

    def with_instruction(self, instruction: str) -> Complete:
        return Complete({"a": len(instruction)})


@pytest.fixture
def store() -> InMemoryByteStore:
    return InMemoryByteStore()


@pytest.fixture
def fake() -> Complete:
    return Complete()


@pytest.fixture
def cached(store, fake) -> CachedCrossEncoder:
    return CachedCrossEncoder(fake, store, namespace="overlap")


async def test_each_pair_is_scored_once(cached, fake, store):
    assert cached.score([]) == await cached.ascore([]) == []
    assert cached.score(PAIRS) == await cached.ascore(PAIRS) == SCORES
    assert await cached.ascore([*PAIRS, ("a", "a")]) == [*SCORES, 1.0]
    assert fake.calls == [PAIRS[:3], [("a", "a")]]
    cached.score([("a b", "c"), ("a", "b c"), ("a b c", ""), ("a\ud800", "b")])
    assert len(list(store.yield_keys())) == 3 + 1 + 3, "told apart however their texts are cut"


@pytest.mark.parametrize(
    "damage",
    [b"", b"x", b"\0" * 12, b"[0.5", b"0.5", b"[0.5, 1]", b"[null]", b"\xff"],
)
def test_a_damaged_entry_is_scored_again_and_mended(cached, fake, store, damage):
    cached.score(PAIRS)
    store.mset([(next(store.yield_keys()), damage)])
    for _ in range(2):
        assert cached.score(PAIRS) == SCORES
    assert [len(call) for call in fake.calls] == [3, 1]


async def test_infinity_comes_back_from_files_as_it_was_and_nan_is_scored_again(tmp_path):
    odd = Complete({"a": math.nan, "a b": math.inf, "c": -0.0})
    for how in ("score", "ascore"):
        cached = CachedCrossEncoder(odd, LocalFileStore(tmp_path), namespace="odd")
        found = cached.score(PAIRS[:3]) if how == "score" else await cached.ascore(PAIRS[:3])
        assert math.isnan(found[0])
        assert found[1:] == [math.inf, 0.0]
    assert odd.calls == [PAIRS[:3], PAIRS[:1]]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("broken", [["mget"], ["mset"], ["mget", "mset"]])
async def test_a_store_that_fails_costs_time_and_no_answer(cached, fake, store, broken, caplog):
    for name in broken:
        setattr(store, name, None)
    assert cached.score(PAIRS) == await cached.ascore(PAIRS) == SCORES
    assert len(fake.calls) == 2
    assert "the score cache can't be" in caplog.text


async def test_what_its_cross_encoder_can_do_it_can(cached, fake, store):
    cached.load()
    assert await cached.ascore(PAIRS) == SCORES
    cached.close()
    assert fake.done == ["load", "ascore", "close"]
    for instruction in ("x", "city"):
        instructed = cached.with_instruction(instruction).score(PAIRS)
        assert instructed == [len(instruction), 1.0, 0.0, len(instruction)]
    assert len(list(store.yield_keys())) == 3 * 3


def test_what_its_cross_encoder_lacks_it_lacks(store):
    cached = CachedCrossEncoder(WordOverlapCrossEncoder(), store, namespace="overlap")
    cached.load()
    cached.close()
    assert not hasattr(cached, "ascore")
    with pytest.raises(ValueError, match="takes no instruction"):
        cached.with_instruction("cities")


def test_what_is_refused_stores_nothing(cached, fake, store):
    with pytest.raises(TypeError, match="the passage of pair 1 must be a str, got NoneType"):
        cached.score([("a", "b"), ("a", None)])
    with pytest.raises(ValueError, match=r"namespace must name .* Complete"):
        CachedCrossEncoder(fake, store)
    fake.score = lambda _: [1.0]
    with pytest.raises(ScoringError, match="gave 1 scores for 3 pairs"):
        cached.score(PAIRS)
    assert list(store.yield_keys()) == []


def test_settings_that_change_scores_tell_them_apart_and_no_others(store, tiny_checkpoint):
    settings = {"model": tiny_checkpoint, "normalize": False}
    scores = CachedCrossEncoder(TorchCrossEncoder(**settings), store).score(PAIRS)
    again = TorchCrossEncoder(**settings, show_progress=True)
    assert CachedCrossEncoder(again, store).score(PAIRS) == scores
    assert again._loaded is None, "nothing was left to score"
    changes = [{"normalize": True}, {"max_length": 64}, {"query_instruction": "Find: "}]
    others = [TorchCrossEncoder(**{**settings, **change}) for change in changes]
    onnx = [{}, {"num_threads": 3}, {"batch_tokens": 512}]
    others += [OnnxCrossEncoder(model=tiny_checkpoint, **change) for change in onnx]
    namespaces = [CachedCrossEncoder(other, store)._namespace for other in (again, *others)]
    assert len(set(namespaces)) == len(namespaces) - 1, "threads change nothing"
