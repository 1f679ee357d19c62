"""Ordering, cutting and merging: pure functions against plain-Python statements of the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_rerank.cross_encoders.batching import (
    batches_by_length,
    merge_windows,
    pad,
    run_in_batches,
    sigmoid,
    without_prefix,
)

LENGTHS = st.lists(st.integers(1, 600), max_size=60)
BUDGETS = st.integers(1, 5000)


class TooBigError(Exception):
    """Stands for a device's out-of-memory error."""


class Device:
    """Computes `10 * position` as long as a padded batch fits; remembers what it computed."""

    def __init__(self, lengths: list[int], capacity: int) -> None:
        self.lengths = lengths
        self.capacity = capacity
        self.calls = 0
        self.computed: list[int] = []

    def forward(self, batch: list[int]) -> list[int]:
        self.calls += 1
        if max(self.lengths[position] for position in batch) * len(batch) > self.capacity:
            raise TooBigError
        self.computed += batch
        return [10 * position for position in batch]


@given(LENGTHS, BUDGETS)
def test_batches_hold_every_input_once(lengths, budget):
    batches = batches_by_length(lengths, budget)
    assert sorted(position for batch in batches for position in batch) == list(range(len(lengths)))


@given(LENGTHS, BUDGETS)
def test_batches_keep_to_the_budget_unless_single(lengths, budget):
    for batch in batches_by_length(lengths, budget):
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget


@given(LENGTHS, BUDGETS)
def test_longest_inputs_come_first(lengths, budget):
    ordered = [lengths[i] for batch in batches_by_length(lengths, budget) for i in batch]
    assert ordered == sorted(lengths, reverse=True)


def test_batches_are_as_full_as_the_budget_allows():
    assert batches_by_length([10] * 7, 30) == [[0, 1, 2], [3, 4, 5], [6]]


def test_an_input_over_the_budget_is_a_batch_of_its_own():
    assert batches_by_length([5, 100, 5], 20) == [[1], [0, 2]]


@given(LENGTHS, BUDGETS, st.integers(600, 5000))
def test_running_out_of_memory_computes_every_input_exactly_once(lengths, budget, capacity):
    device = Device(lengths, capacity)
    batches, outputs, held = run_in_batches(lengths, budget, device.forward, TooBigError)
    assert sorted(device.computed) == list(range(len(lengths)))
    assert [[10 * position for position in batch] for batch in batches] == outputs
    assert held <= budget
    if budget <= capacity:
        assert held == budget


def test_out_of_memory_halves_the_budget_until_it_holds():
    device = Device([10] * 16, capacity=40)
    batches, _, held = run_in_batches(device.lengths, 160, device.forward, TooBigError)
    assert held == 40
    assert [len(batch) for batch in batches] == [4] * 4
    # 160 and 80 failed once each: finished batches are not run again.
    assert device.calls == 2 + 4


def test_a_budget_far_above_the_work_still_halves_from_the_work():
    device = Device([10] * 4, capacity=20)
    _, _, held = run_in_batches(device.lengths, 10**9, device.forward, TooBigError)
    assert held == 20
    assert device.calls == 1 + 2


def test_memory_that_runs_out_midway_keeps_what_is_done():
    lengths = [40, 40, 10, 10, 10, 10]
    device = Device(lengths, capacity=80)
    shrink = iter([80, 80, 20, 20, 20, 20, 20])

    def forward(batch: list[int]) -> list[int]:
        device.capacity = next(shrink) if len(batch) > 1 else 80
        return device.forward(batch)

    run_in_batches(lengths, 80, forward, TooBigError)
    assert sorted(device.computed) == list(range(6))


def test_a_single_input_that_does_not_fit_raises_again():
    device = Device([10, 500], capacity=100)
    with pytest.raises(TooBigError):
        run_in_batches(device.lengths, 1000, device.forward, TooBigError)


def test_other_errors_pass_through_unchanged_and_are_not_retried():
    error = RuntimeError("boom")
    calls = []

    def forward(batch: list[int]) -> None:
        calls.append(batch)
        raise error

    with pytest.raises(RuntimeError) as raised:
        run_in_batches([5, 5, 5], 100, forward, TooBigError)
    assert raised.value is error
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("side", "expected"), [("right", [[1, 2, 3], [4, 9, 9]]), ("left", [[1, 2, 3], [9, 9, 4]])]
)
def test_pad_fills_the_side_that_the_tokenizer_names(side, expected):
    padded = pad([[1, 2, 3], [4]], 9, side)
    assert padded.tolist() == expected
    assert padded.dtype == np.int64


def test_pad_of_an_empty_row():
    assert pad([[], [7]], 0, "left").tolist() == [[0], [7]]


FINITE = st.floats(-1e6, 1e6)
DOCUMENTS = st.lists(st.lists(FINITE, min_size=1, max_size=6), min_size=1, max_size=12)


@given(DOCUMENTS)
@pytest.mark.parametrize(
    ("how", "reduce"), [("first", lambda scores: scores[0]), ("max", max), ("mean", np.mean)]
)
def test_windows_merge_as_a_loop_over_documents_would(how, reduce, documents):
    scores = np.array([score for document in documents for score in document])
    owners = [owner for owner, document in enumerate(documents) for _ in document]
    expected = [reduce(document) for document in documents]
    np.testing.assert_allclose(merge_windows(scores, owners, how), expected, rtol=1e-9, atol=1e-6)


def test_sigmoid_neither_overflows_nor_warns():
    logits = np.array([-np.inf, -1e308, -800.0, 0.0, 800.0, 1e308, np.inf])
    assert sigmoid(logits).tolist() == [0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0]


def test_sigmoid_keeps_nan_without_a_warning():
    assert np.isnan(sigmoid(np.array([np.nan]))).all()


@given(st.lists(st.floats(-30, 30), min_size=1))
def test_sigmoid_is_the_logistic_function(logits):
    values = np.array(logits)
    np.testing.assert_allclose(sigmoid(values), 1 / (1 + np.exp(-values)), rtol=1e-12)


def test_sigmoid_tells_close_high_logits_apart():
    # In float32 both would be 1.0, and the order of two good passages lost.
    assert np.all(np.diff(sigmoid(np.array([20.0, 20.5, 30.0]))) > 0)


@pytest.mark.parametrize(
    ("rows", "shared"),
    [
        ([[*range(20), 7, 8], [*range(20), 9], [*range(20), 7], [*range(20), 1, 2]], 20),
        ([[*range(20)], [*range(20)], [*range(20)], [*range(20)]], 19),
        ([[*range(15), 50], [*range(15), 51], [*range(15), 52], [*range(15), 53]], 0),
        ([[*range(20), 7], [*range(20), 9]], 0),
        ([[1], [1], [1], [1]], 0),
    ],
    ids=["shared", "equal rows keep a token", "short", "few rows", "one token"],
)
def test_a_shared_start_is_taken_off_where_it_is_worth_it(rows, shared):
    masks = [[1] * len(row) for row in rows]
    prefix, left = without_prefix({"input_ids": rows, "attention_mask": masks})
    assert len(prefix) == shared
    assert [[*prefix, *row] for row in left["input_ids"]] == rows
    assert list(map(len, left["attention_mask"])) == list(map(len, left["input_ids"]))
