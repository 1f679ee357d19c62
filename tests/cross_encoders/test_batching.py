"""Ordering, cutting and merging: pure functions against plain-Python statements of the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_rerank.cross_encoders.batching import (
    batches_by_length,
    merge_windows,
    pad_batch,
    sigmoid,
    without_prefix,
)

LENGTHS = st.lists(st.integers(1, 600), max_size=60)
BUDGETS = st.integers(1, 5000)


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


@pytest.mark.parametrize(
    ("side", "multiple", "expected"),
    [
        ("right", 1, [[1, 2, 3], [4, 9, 9]]),
        ("left", 1, [[1, 2, 3], [9, 9, 4]]),
        ("right", 4, [[1, 2, 3, 9], [4, 9, 9, 9]]),
        ("left", 4, [[9, 1, 2, 3], [9, 9, 9, 4]]),
    ],
)
def test_padding_fills_the_side_that_the_tokenizer_names(side, multiple, expected):
    features = {"input_ids": [[4], [], [1, 2, 3]], "attention_mask": [[1], [], [1, 1, 1]]}
    padded = pad_batch(features, [2, 0], 9, side, multiple)
    assert padded["input_ids"].tolist() == expected
    assert padded["attention_mask"].tolist() == [[int(x != 9) for x in row] for row in expected]
    assert padded["input_ids"].dtype == np.int64


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
