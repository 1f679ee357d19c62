"""What TorchCrossEncoder's loop scores, and what it does where it can't."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from langchain_rerank import ScoringError, TorchCrossEncoder
from langchain_rerank.cross_encoders.tokenization import encode
from tests.texts import real_pairs

BERLIN = "How many people live in Berlin?"
POPULATION = (
    "Berlin had a population of 3,520,031 registered inhabitants in an area of "
    "891.82 square kilometers."
)
MUSEUMS = "Berlin is well known for its museums."
PAIRS = real_pairs(60)


def test_golden_scores(cross_encoder):
    scores = cross_encoder.score([(BERLIN, POPULATION), (BERLIN, MUSEUMS)])
    assert scores == pytest.approx([9.08509, -3.93431], abs=1e-3)


@pytest.mark.parametrize("batch_tokens", [64, 8192])
def test_the_token_budget_does_not_change_the_scores(cross_encoder, batch_tokens):
    other = cross_encoder.model_copy(update={"batch_tokens": batch_tokens})
    assert other.score(PAIRS) == pytest.approx(cross_encoder.score(PAIRS), abs=1e-5)


def test_instructions_stand_before_the_texts(tiny):
    before = {"query_instruction": "Find: ", "passage_instruction": "Text: "}
    instructed = tiny.model_copy(update=before)
    by_hand = [("Find: " + query, "Text: " + passage) for query, passage in PAIRS]
    assert instructed.score(PAIRS) == pytest.approx(tiny.score(by_hand), abs=1e-6)


def test_bfloat16_ranks_as_float32(cross_encoder):
    model = cross_encoder.model_copy(update={"dtype": "bfloat16"})
    pairs = [(BERLIN, POPULATION), (BERLIN, MUSEUMS), (BERLIN, "Fish swim.")]
    scores, expected = model.score(pairs), cross_encoder.score(pairs)
    assert np.argsort(scores).tolist() == np.argsort(expected).tolist()
    assert scores == pytest.approx(expected, abs=0.3)


# Long documents.

FILLER = topics["typesmapping"][:12500]
LONG_ANSWER = f"{FILLER} {POPULATION}"


def test_maxp_finds_an_answer_at_the_end_of_a_long_document(cross_encoder, tokenizer):
    assert len(tokenizer(LONG_ANSWER)["input_ids"]) > 3000
    pairs = [(BERLIN, LONG_ANSWER), (BERLIN, MUSEUMS)]
    long, weak = cross_encoder.score(pairs)
    assert long < weak
    long, weak_by_windows = cross_encoder.model_copy(update={"long_documents": "max"}).score(pairs)
    assert long > weak_by_windows
    assert weak_by_windows == pytest.approx(weak, abs=1e-5)


@pytest.fixture
def by_mode(tiny: TorchCrossEncoder) -> dict[str, TorchCrossEncoder]:
    return {
        mode: tiny.model_copy(update={"long_documents": mode, "max_length": 64})
        for mode in ("first", "max", "mean")
    }


def test_first_max_and_mean_are_those_of_the_windows(tiny, by_mode, tokenizer):
    pairs = [(BERLIN, LONG_ANSWER), (BERLIN, MUSEUMS), ("mappings", FILLER[:500])]
    windows = encode(tokenizer, pairs, 64, whole=True)
    logits: dict[int, list[float]] = {}
    with torch.inference_mode():
        for owner, *row in zip(windows.owners, *windows.features.values(), strict=True):
            features = {
                name: torch.tensor([ids]) for name, ids in zip(windows.features, row, strict=True)
            }
            logits.setdefault(owner, []).append(scorer_of(tiny)(**features).item())
    assert len(logits[0]) > 50

    for mode, reduce in {"first": lambda scores: scores[0], "max": max, "mean": np.mean}.items():
        expected = [reduce(logits[owner]) for owner in range(len(pairs))]
        assert by_mode[mode].score(pairs) == pytest.approx(expected, abs=1e-5)


def test_short_documents_score_the_same_in_every_mode(by_mode):
    pairs = [(BERLIN, POPULATION), (BERLIN, MUSEUMS), (BERLIN, ""), ("", MUSEUMS), ("", "")]
    first = by_mode["first"].score(pairs)
    assert by_mode["max"].score(pairs) == pytest.approx(first, abs=1e-6)
    assert by_mode["mean"].score(pairs) == pytest.approx(first, abs=1e-6)


@pytest.mark.parametrize("mode", ["first", "max", "mean"])
def test_a_long_document_does_not_disturb_its_neighbours(by_mode, mode):
    pairs = [(BERLIN, MUSEUMS), (BERLIN, LONG_ANSWER), (BERLIN, POPULATION)]
    alone = [by_mode[mode].score([pair])[0] for pair in pairs]
    assert by_mode[mode].score(pairs) == pytest.approx(alone, abs=1e-5)
    assert by_mode[mode].score(pairs[::-1]) == pytest.approx(alone[::-1], abs=1e-5)


def test_cut_passages_warn_once_and_windows_never_as_nothing_is_lost(by_mode, caplog):
    for mode in ("first", "first", "max", "mean"):
        by_mode[mode].score([("q", FILLER), ("q", "short")])
    (record,) = caplog.records
    assert "1 of 2 passages are longer than max_length=64" in record.message
    assert 'long_documents="max"' in record.message


@pytest.mark.parametrize("mode", ["first", "max"])
def test_a_long_query_is_cut_and_warned_of_once(tiny, caplog, mode):
    model = tiny.model_copy(update={"query_max_length": 4, "long_documents": mode})
    for _ in range(2):
        cut = model.score([("how many people live in berlin", MUSEUMS)])
    (record,) = caplog.records
    assert "query_max_length=4" in record.message
    assert cut == pytest.approx(tiny.score([("how many people live", MUSEUMS)]), abs=1e-6)


@pytest.mark.parametrize("mode", ["first", "max"])
def test_the_smallest_max_length_leaves_room_for_the_passage(tiny, mode):
    model = tiny.model_copy(update={"max_length": 16, "long_documents": mode})
    query = "how many people live in berlin " * 10
    scores = model.score([(query, "museums"), (query, "population"), (query, FILLER[:200])])
    assert len({round(score, 6) for score in scores}) == 3, "the passages must be read"


# Memory and failure.


def scorer_of(model: TorchCrossEncoder) -> torch.nn.Module:
    model.load()
    return model._loaded._scorer


Hook = Callable[[TorchCrossEncoder, Callable[[torch.Tensor], None]], list[tuple[int, int]]]


@pytest.fixture
def hook() -> Iterator[Hook]:
    """Call a check on the input ids of each forward pass; the list collects their shapes."""
    handles = []

    def hook(
        model: TorchCrossEncoder, check: Callable[[torch.Tensor], None]
    ) -> list[tuple[int, int]]:
        shapes: list[tuple[int, int]] = []

        def before(_module: Any, _args: Any, kwargs: dict[str, torch.Tensor]) -> None:
            shapes.append(tuple(kwargs["input_ids"].shape))
            check(kwargs["input_ids"])

        handles.append(scorer_of(model).register_forward_pre_hook(before, with_kwargs=True))
        return shapes

    yield hook
    for handle in handles:
        # Other tests share the weights.
        handle.remove()


def out_of_memory_over(tokens: int) -> Callable[[torch.Tensor], None]:
    def check(input_ids: torch.Tensor) -> None:
        if input_ids.numel() > tokens:
            msg = "CUDA out of memory. Tried to allocate 20.00 MiB."
            raise torch.OutOfMemoryError(msg)

    return check


@pytest.fixture
def accelerated(tiny: TorchCrossEncoder) -> TorchCrossEncoder:
    """By a name that is not "cpu", the CPU goes the way of a GPU."""
    return tiny.model_copy(update={"device": "cpu:0", "dtype": "float32", "max_length": 128})


def test_running_out_of_memory_changes_no_score_and_is_logged(accelerated, hook, caplog):
    expected = accelerated.score(PAIRS)
    shapes = hook(accelerated, out_of_memory_over(300))
    assert accelerated.score(PAIRS) == pytest.approx(expected, abs=1e-5)
    assert any("out of memory: batches now hold" in record.message for record in caplog.records)

    # What was learnt holds: the next call does not run into the wall again.
    del shapes[:]
    accelerated.score(PAIRS)
    assert all(rows * width <= 300 for rows, width in shapes)


def test_a_single_pair_that_does_not_fit_says_what_to_do(accelerated, hook):
    hook(accelerated, out_of_memory_over(0))
    with pytest.raises(ScoringError, match="lower max_length, choose a smaller model") as raised:
        accelerated.score(PAIRS)
    assert isinstance(raised.value.__cause__, torch.OutOfMemoryError)


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_a_failure_is_chained_and_not_retried_and_leaves_the_model_usable(tiny, hook, device):
    model = tiny.model_copy(update={"device": device, "dtype": "float32", "batch_tokens": 10**5})
    expected = model.score(PAIRS[:1])
    error = RuntimeError("boom")
    failures = [error]

    def fail_once(_input_ids: torch.Tensor) -> None:
        while failures:
            raise failures.pop()

    shapes = hook(model, fail_once)
    with pytest.raises(ScoringError, match="RuntimeError: boom") as raised:
        model.score(PAIRS[:1])
    assert raised.value.__cause__ is error
    assert len(shapes) == 1
    assert model.score(PAIRS[:1]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_batches_are_cut_by_tokens_longest_first(tiny, hook, device, one_torch_thread):
    model = tiny.model_copy(update={"batch_tokens": 256, "dtype": "float32", "device": device})
    shapes = hook(model, lambda _: None)
    model.score(PAIRS)
    assert sum(rows for rows, _ in shapes) == len(PAIRS)
    rounding = 7 if device == "cpu" else 0
    assert all(rows == 1 or rows * (width - rounding) <= 256 for rows, width in shapes)
    widths = [width for _, width in shapes]
    assert widths == sorted(widths, reverse=True)


# Construction, copies, life cycle.


def test_constructing_loads_nothing_and_fixes_the_settings():
    model = TorchCrossEncoder(model="nobody/there-is-no-such-model")
    assert model.score([]) == []
    model.close()
    with pytest.raises(ValidationError, match="frozen"):
        model.model = "another"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"max_length": 64, "query_max_length": 57}, ["max_length=64", "at most 56", "57"]),
        ({"max_length": 8}, ["max_length", "16", "8"]),
        ({"batch_tokens": 0}, ["batch_tokens", "0"]),
        ({"long_documents": "median"}, ["long_documents", "first", "max", "mean", "median"]),
        ({"dtype": "float8"}, ["dtype", "float8"]),
        ({"top_n": 3}, ["top_n", "not permitted"]),
    ],
)
def test_wrong_arguments_say_what_is_expected_and_what_came(fields, named):
    with pytest.raises(ValidationError) as raised:
        TorchCrossEncoder(**fields)
    for part in named:
        assert part in str(raised.value)


def test_a_query_length_over_what_the_checkpoint_reads_is_an_error_at_load(tiny):
    with pytest.raises(ValueError, match="at most 504 with max_length=512, got 512"):
        tiny.model_copy(update={"query_max_length": 512}).load()


COPIERS = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),  # noqa: S301  # our own bytes
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "model_copy deep": lambda model: model.model_copy(deep=True),
}


@pytest.mark.parametrize("name", COPIERS)
@pytest.mark.parametrize("loaded", [True, False])
def test_a_copy_has_the_settings_and_shares_the_weights(tiny_checkpoint, name, loaded):
    model = TorchCrossEncoder(model=tiny_checkpoint, max_length=128, device="cpu")
    if loaded:
        model.load()
    twin = COPIERS[name](model)
    assert twin.model_dump() == model.model_dump()
    assert twin._loaded is None
    assert twin.score(PAIRS[:3]) == model.score(PAIRS[:3])
    assert twin._loaded is model._loaded
    twin.close()
    assert twin._loaded is None
    assert twin.score(PAIRS[:3]) == model.score(PAIRS[:3])


def test_no_bar_unless_asked_for(tiny, capfd):
    tiny.score(PAIRS[:3])
    assert capfd.readouterr() == ("", "")
    tiny.model_copy(update={"show_progress": True}).score(PAIRS[:3])
    assert "Scoring" in capfd.readouterr().err
