"""Ordering, cutting and merging: pure functions against plain-Python statements of the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_rerank.cross_encoders.batching import (
    batches_by_length,
    groups_by_size,
    merge_windows,
    pad_batch,
    sigmoid,
    without_prefix,
)


@given(st.lists(st.integers(1, 600), max_size=60), st.integers(1, 5000))
def test_batches_hold_every_input_once_longest_first_and_keep_to_the_budget(lengths, budget):
    batches = batches_by_length(lengths, budget)
    positions = [position for batch in batches for position in batch]
    assert sorted(positions) == list(range(len(lengths)))
    assert [lengths[position] for position in positions] == sorted(lengths, reverse=True)
    assert all(len(batch) == 1 or lengths[batch[0]] * len(batch) <= budget for batch in batches)
    assert batches_by_length([5, *[10] * 7, 5], 30) == [[1, 2, 3], [4, 5, 6], [7, 0, 8]]


@given(
    st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), min_size=1), st.integers(1, 40)
)
def test_groups_hold_the_pairs_in_order_and_no_more_than_fits_side_by_side(pairs, characters):
    groups = groups_by_size(pairs, characters)
    assert [pair for group in groups for pair in group] == pairs
    assert all(len(group) == 1 or sum(map(len, sum(group, ()))) <= characters for group in groups)


@pytest.mark.parametrize(("multiple", "width"), [(1, 3), (4, 4)])
def test_padding_fills_on_the_right_up_to_a_multiple(multiple, width):
    features = {"input_ids": [[4], [], [1, 2, 3]], "attention_mask": [[1], [], [1, 1, 1]]}
    padded = pad_batch(features, [2, 0], 9, multiple)
    assert padded["input_ids"].tolist() == [[1, 2, 3, 9][:width], [4, 9, 9, 9][:width]]
    assert padded["attention_mask"].tolist() == [[1, 1, 1, 0][:width], [1, 0, 0, 0][:width]]
    assert padded["input_ids"].dtype == np.int64


@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6), min_size=1, max_size=12))
@pytest.mark.parametrize(
    ("how", "reduce"), [("first", lambda scores: scores[0]), ("max", max), ("mean", np.mean)]
)
def test_windows_merge_as_a_loop_over_documents_would(how, reduce, documents):
    scores = np.array([score for document in documents for score in document])
    owners = [owner for owner, document in enumerate(documents) for _ in document]
    expected = [reduce(document) for document in documents]
    np.testing.assert_allclose(merge_windows(scores, owners, how), expected, rtol=1e-9, atol=1e-6)


def test_the_sigmoid_neither_overflows_nor_warns_nor_makes_close_logits_equal():
    logits = np.array([-np.inf, -1e308, -800.0, 0.0, 800.0, 1e308, np.inf])
    assert sigmoid(logits).tolist() == [0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0]
    assert np.isnan(sigmoid(np.array([np.nan]))).all()
    values = np.linspace(-30, 30, 100)
    np.testing.assert_allclose(sigmoid(values), 1 / (1 + np.exp(-values)), rtol=1e-12)
    # In float32 all would be 1.0, and the order of two good passages lost.
    assert np.all(np.diff(sigmoid(np.array([20.0, 20.5, 30.0]))) > 0)


@pytest.mark.parametrize(
    ("rows", "shared"),
    [
        ([[*range(20), 7, 8], [*range(20), 9], [*range(20), 7], [*range(20), 1, 2]], 20),
        ([[*range(20)]] * 4, 19),
        ([[*range(15), end] for end in (50, 51, 52, 53)], 0),
        ([[*range(20), 7], [*range(20), 9]], 0),
        ([[1]] * 4, 0),
    ],
    ids=["shared", "equal rows keep a token", "short", "few rows", "one token"],
)
def test_a_shared_start_is_taken_off_where_it_is_worth_it(rows, shared):
    masks = [[1] * len(row) for row in rows]
    prefix, left = without_prefix({"input_ids": rows, "attention_mask": masks})
    assert len(prefix) == shared
    assert [[*prefix, *row] for row in left["input_ids"]] == rows
    assert list(map(len, left["attention_mask"])) == list(map(len, left["input_ids"]))
