"""Encoder-only rerankers: FlagEmbedding's scores, long documents, memory, life cycle."""

from __future__ import annotations

import copy
import logging
import math
import pickle
import random
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from langchain_rerank import ScoringError, TorchCrossEncoder
from langchain_rerank.cross_encoders.tokenization import encode_windows

if TYPE_CHECKING:
    from collections.abc import Callable

BERLIN = "How many people live in Berlin?"
POPULATION = (
    "Berlin had a population of 3,520,031 registered inhabitants in an area of "
    "891.82 square kilometers."
)
MUSEUMS = "Berlin is well known for its museums."

QUERIES = (
    "how does the with statement work",
    "What is the difference between a list and a tuple?",
    "operator precedence",
    "how are exceptions handled in nested functions " * 60,
)


def real_pairs(count: int) -> list[tuple[str, str]]:
    """Pairs whose passages have 5–3000 characters, short ones more often than long ones."""
    generator = random.Random(20)  # noqa: S311  # the choice of passages is no secret
    corpus = "\n".join(topics.values())
    pairs = []
    for number in range(count):
        size = int(math.exp(generator.uniform(math.log(5), math.log(3000))))
        start = generator.randrange(len(corpus) - size)
        # One in forty has the query over query_max_length.
        query = QUERIES[3] if number % 40 == 0 else QUERIES[generator.randrange(3)]
        # Never blank: FlagEmbedding's trip through text leaves a blank passage out of the pair.
        pairs.append((query, corpus[start : start + size].strip() or "blank"))
    return pairs


PAIRS = real_pairs(200)
# Every kind of pair, and a few that are quick.
SOME = slice(0, 200, 8)
SHORT = sorted(PAIRS, key=lambda pair: len(pair[0]) + len(pair[1]))[:12]


@pytest.fixture(scope="module")
def flag_reranker(checkpoint: str) -> Any:
    from FlagEmbedding import FlagReranker

    return FlagReranker(checkpoint, devices="cpu")


@pytest.fixture(scope="module")
def flag_scores(flag_reranker: Any) -> list[float]:
    return flag_reranker.compute_score(PAIRS, batch_size=16)


def largest_difference(ours: list[float], theirs: list[float]) -> float:
    assert len(ours) == len(theirs)
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


# Scores.


def test_golden_scores(cross_encoder):
    scores = cross_encoder.score([(BERLIN, POPULATION), (BERLIN, MUSEUMS)])
    assert scores == pytest.approx([9.08509, -3.93431], abs=1e-3)


def test_scores_are_those_of_flagembedding(cross_encoder, flag_scores):
    assert largest_difference(cross_encoder.score(PAIRS), flag_scores) < 1e-4


@pytest.mark.parametrize("batch_tokens", [64, 512, 8192])
def test_the_token_budget_does_not_change_the_scores(checkpoint, flag_scores, batch_tokens):
    model = TorchCrossEncoder(model=checkpoint, normalize=False, batch_tokens=batch_tokens)
    assert largest_difference(model.score(PAIRS), flag_scores) < 1e-4


def test_normalized_scores_are_those_of_flagembedding(checkpoint, flag_reranker):
    model = TorchCrossEncoder(model=checkpoint)
    theirs = flag_reranker.compute_score(SHORT, normalize=True)
    assert largest_difference(model.score(SHORT), theirs) < 1e-5


def test_instructions_are_those_of_flagembedding(checkpoint, cross_encoder):
    from FlagEmbedding import FlagReranker

    model = TorchCrossEncoder(
        model=checkpoint,
        normalize=False,
        query_instruction="Find the reference text for: ",
        passage_instruction="Reference text: ",
    )
    flag = FlagReranker(
        checkpoint,
        devices="cpu",
        query_instruction_for_rerank="Find the reference text for: ",
        passage_instruction_for_rerank="Reference text: ",
    )
    scores = model.score(SHORT)
    assert largest_difference(scores, flag.compute_score(SHORT)) < 1e-4
    plain = cross_encoder.score(SHORT)
    assert largest_difference(scores, plain) > 0.1, "the instructions must reach the model"


def test_length_limits_are_those_of_flagembedding(checkpoint):
    from FlagEmbedding import FlagReranker

    limits = {"max_length": 96, "query_max_length": 20}
    model = TorchCrossEncoder(model=checkpoint, normalize=False, **limits)
    flag = FlagReranker(checkpoint, devices="cpu", **limits)
    assert largest_difference(model.score(PAIRS[SOME]), flag.compute_score(PAIRS[SOME])) < 1e-4


def test_bfloat16_ranks_as_float32(checkpoint, cross_encoder):
    model = TorchCrossEncoder(model=checkpoint, normalize=False, dtype="bfloat16")
    pairs = [(BERLIN, POPULATION), (BERLIN, MUSEUMS), (BERLIN, "Fish swim.")]
    scores = model.score(pairs)
    assert np.argsort(scores).tolist() == np.argsort(cross_encoder.score(pairs)).tolist()
    assert scores == pytest.approx(cross_encoder.score(pairs), abs=0.3)


# Long documents.

FILLER = topics["typesmapping"][:12500]
LONG_ANSWER = f"{FILLER} {POPULATION}"


def test_maxp_finds_an_answer_at_the_end_of_a_long_document(checkpoint, cross_encoder, tokenizer):
    assert len(tokenizer(LONG_ANSWER)["input_ids"]) > 3000
    pairs = [(BERLIN, LONG_ANSWER), (BERLIN, MUSEUMS)]
    long, weak = cross_encoder.score(pairs)
    assert long < weak

    maxp = TorchCrossEncoder(model=checkpoint, normalize=False, long_documents="max")
    long, weak_by_windows = maxp.score(pairs)
    assert long > weak_by_windows
    assert weak_by_windows == pytest.approx(weak, abs=1e-5)


@pytest.fixture
def by_mode(tiny: TorchCrossEncoder) -> dict[str, TorchCrossEncoder]:
    return {
        mode: tiny.model_copy(update={"long_documents": mode, "max_length": 64})
        for mode in ("first", "max", "mean")
    }


def test_first_max_and_mean_are_those_of_the_windows(tiny, by_mode, tokenizer):
    pairs = [(BERLIN, LONG_ANSWER), (BERLIN, MUSEUMS), (QUERIES[0], FILLER[:500])]
    windows = encode_windows(tokenizer, pairs, 64)
    tiny.load()
    logits: dict[int, list[float]] = {}
    with torch.inference_mode():
        for owner, *row in zip(windows.owners, *windows.features.values(), strict=True):
            features = {
                name: torch.tensor([ids]) for name, ids in zip(windows.features, row, strict=True)
            }
            logits.setdefault(owner, []).append(tiny._encoder._model(**features).logits.item())
    assert len(logits[0]) > 50

    for mode, reduce in {"first": lambda scores: scores[0], "max": max, "mean": np.mean}.items():
        expected = [reduce(logits[owner]) for owner in range(len(pairs))]
        assert by_mode[mode].score(pairs) == pytest.approx(expected, abs=1e-5)


def test_max_is_never_below_first_or_mean(by_mode):
    scores = {mode: np.array(model.score(PAIRS[1:60])) for mode, model in by_mode.items()}
    assert (scores["max"] >= scores["first"] - 1e-5).all()
    assert (scores["max"] >= scores["mean"] - 1e-5).all()
    assert (scores["max"] > scores["first"] + 1e-3).any()


def test_short_documents_score_the_same_in_every_mode(by_mode):
    pairs = [(BERLIN, POPULATION), (BERLIN, MUSEUMS), (BERLIN, ""), ("", MUSEUMS), ("", "")]
    first = by_mode["first"].score(pairs)
    assert by_mode["max"].score(pairs) == pytest.approx(first, abs=1e-6)
    assert by_mode["mean"].score(pairs) == pytest.approx(first, abs=1e-6)


def test_a_long_document_does_not_disturb_its_neighbours(by_mode):
    pairs = [(BERLIN, MUSEUMS), (BERLIN, LONG_ANSWER), (BERLIN, POPULATION)]
    together = by_mode["max"].score(pairs)
    assert together == pytest.approx([by_mode["max"].score([pair])[0] for pair in pairs], abs=1e-5)


def test_cut_passages_warn_once_and_name_the_way_out(tiny, caplog):
    short = tiny.model_copy(update={"max_length": 64})
    with caplog.at_level(logging.WARNING, logger="langchain_rerank"):
        for _ in range(3):
            short.score([("q", FILLER), ("q", "short")])
    (record,) = caplog.records
    assert "1 of 2 passages are longer than max_length=64" in record.message
    assert 'long_documents="max"' in record.message


@pytest.mark.parametrize("mode", ["max", "mean"])
def test_windows_do_not_warn_as_nothing_is_lost(tiny, caplog, mode):
    windowed = tiny.model_copy(update={"max_length": 64, "long_documents": mode})
    windowed.score([("q", FILLER)])
    assert not caplog.records


@pytest.mark.parametrize("mode", ["first", "max"])
def test_a_long_query_is_cut_and_warned_of_once(tiny, caplog, mode):
    model = tiny.model_copy(update={"query_max_length": 4, "long_documents": mode})
    with caplog.at_level(logging.WARNING, logger="langchain_rerank"):
        cut = model.score([("how many people live in berlin", MUSEUMS)])
        model.score([("how many people live in berlin", MUSEUMS)])
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


def hook(model: TorchCrossEncoder, check: Callable[[torch.Tensor], None]) -> list[tuple]:
    """Call `check` on the input ids of each forward pass; the list collects their shapes."""
    shapes: list[tuple] = []

    def before(_module: Any, _args: Any, kwargs: dict[str, torch.Tensor]) -> None:
        shapes.append(tuple(kwargs["input_ids"].shape))
        check(kwargs["input_ids"])

    model.load()
    model._encoder._model.register_forward_pre_hook(before, with_kwargs=True)
    return shapes


def out_of_memory_over(tokens: int) -> Callable[[torch.Tensor], None]:
    def check(input_ids: torch.Tensor) -> None:
        if input_ids.numel() > tokens:
            msg = "CUDA out of memory. Tried to allocate 20.00 MiB."
            raise torch.OutOfMemoryError(msg)

    return check


def test_running_out_of_memory_changes_no_score_and_is_logged(tiny, caplog):
    pairs = PAIRS[1:20]
    expected = tiny.score(pairs)
    shapes = hook(tiny, out_of_memory_over(600))
    with caplog.at_level(logging.WARNING, logger="langchain_rerank"):
        assert tiny.score(pairs) == pytest.approx(expected, abs=1e-5)
    assert any("out of memory: batches now hold" in record.message for record in caplog.records)

    # What was learnt holds: the next call does not run into the wall again.
    del shapes[:]
    tiny.score(pairs)
    assert all(rows * width <= 600 for rows, width in shapes)


def test_a_single_pair_that_does_not_fit_says_what_to_do(tiny):
    hook(tiny, out_of_memory_over(0))
    with pytest.raises(ScoringError, match="lower max_length, choose a smaller model") as raised:
        tiny.score(PAIRS[1:6])
    assert isinstance(raised.value.__cause__, torch.OutOfMemoryError)


def test_another_failure_is_chained_and_not_retried(tiny):
    error = RuntimeError("boom")

    def fail(_input_ids: torch.Tensor) -> None:
        raise error

    shapes = hook(tiny, fail)
    with pytest.raises(ScoringError, match="RuntimeError: boom") as raised:
        tiny.score(PAIRS[1:6])
    assert raised.value.__cause__ is error
    assert len(shapes) == 1


def test_a_failure_leaves_the_model_usable(tiny):
    outcomes = iter([RuntimeError("boom")])

    def fail_once(_input_ids: torch.Tensor) -> None:
        for error in outcomes:
            raise error

    expected = tiny.score(PAIRS[1:3])
    hook(tiny, fail_once)
    with pytest.raises(ScoringError):
        tiny.score(PAIRS[1:3])
    assert tiny.score(PAIRS[1:3]) == pytest.approx(expected, abs=1e-6)


def test_batches_are_cut_by_tokens_longest_first(tiny):
    model = tiny.model_copy(update={"batch_tokens": 256})
    shapes = hook(model, lambda _: None)
    model.score(PAIRS[1:20])
    assert sum(rows for rows, _ in shapes) == 19
    assert all(rows == 1 or rows * width <= 256 for rows, width in shapes)
    widths = [width for _, width in shapes]
    assert widths == sorted(widths, reverse=True)


# Construction, copies, life cycle.


def test_constructing_loads_nothing():
    model = TorchCrossEncoder(model="nobody/there-is-no-such-model")
    assert model.score([]) == []
    model.close()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"max_length": 64, "query_max_length": 57}, ["max_length=64", "at most 56", "57"]),
        ({"query_max_length": 512}, ["max_length=512", "at most 504", "512"]),
        ({"max_length": 8}, ["max_length", "16", "8"]),
        ({"query_max_length": 0}, ["query_max_length", "0"]),
        ({"batch_tokens": 0}, ["batch_tokens", "0"]),
        ({"long_documents": "median"}, ["long_documents", "first", "max", "mean", "median"]),
        ({"dtype": "float8"}, ["dtype", "float8"]),
        ({"model_class": "decoder"}, ["model_class", "decoder-only-base"]),
        ({"model": ""}, ["model"]),
        ({"top_n": 3}, ["top_n", "not permitted"]),
    ],
)
def test_wrong_arguments_say_what_is_expected_and_what_came(fields, named):
    with pytest.raises(ValidationError) as raised:
        TorchCrossEncoder(**fields)
    for part in named:
        assert part in str(raised.value)


def test_fields_cannot_be_changed_under_loaded_weights(tiny):
    with pytest.raises(ValidationError, match="frozen"):
        tiny.model = "another"


def test_close_frees_the_weights_and_the_next_score_loads_again(tiny):
    expected = tiny.score(PAIRS[1:4])
    tiny.close()
    tiny.close()
    assert tiny._encoder is None
    assert tiny.score(PAIRS[1:4]) == expected


COPIERS = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),  # noqa: S301  # our own bytes
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "model_copy": lambda model: model.model_copy(),
    "model_copy deep": lambda model: model.model_copy(deep=True),
}


@pytest.mark.parametrize("name", COPIERS)
@pytest.mark.parametrize("loaded", [True, False])
def test_a_copy_has_the_settings_and_weights_of_its_own(tiny_checkpoint, name, loaded):
    model = TorchCrossEncoder(
        model=tiny_checkpoint, max_length=128, compute_score_kwargs={"cutoff_layers": [3]}
    )
    if loaded:
        model.load()
    twin = COPIERS[name](model)
    assert twin.model_dump() == model.model_dump()
    assert twin._encoder is None
    assert twin.score(PAIRS[1:4]) == model.score(PAIRS[1:4])
    assert twin._encoder is not model._encoder


def test_a_copy_with_another_model_scores_by_that_model(tiny, checkpoint):
    tiny.load()
    other = tiny.model_copy(update={"model": checkpoint})
    assert other.score([(BERLIN, POPULATION)]) == pytest.approx([9.08509], abs=1e-3)


def test_no_bar_unless_asked_for(tiny, capfd):
    tiny.score(PAIRS[1:4])
    assert capfd.readouterr() == ("", "")
    tiny.model_copy(update={"show_progress": True}).score(PAIRS[1:4])
    assert "Scoring" in capfd.readouterr().err
