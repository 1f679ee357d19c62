"""Fusion as arithmetic: what its values are, and what they don't depend on."""

from __future__ import annotations

import math
from statistics import fmean

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import special, stats

from langchain_rerank.cross_encoders.batching import sigmoid
from langchain_rerank.ranking import as_logits, fused_scores, z_scores

FINITE = st.floats(-1e100, 1e100)
LOGITS = st.lists(st.floats(-15, 15), min_size=1, max_size=12)
WEIGHTS = st.floats(0, 1)


def falling(values: list[float]) -> list[int]:
    return sorted(range(len(values)), key=lambda position: -values[position])


@given(values=st.lists(FINITE, max_size=12))
@example([0.1, 0.1, 0.1])
@example([1e-300, 2e-300])
@example([-1.7e308, 1.7e308, 1.7e308])
def test_z_scores_have_mean_0_and_deviation_1(values: list[float]) -> None:
    standardized = z_scores(values)
    if len(set(values)) < 2:
        assert standardized == [0.0] * len(values)
    else:
        assert fmean(standardized) == pytest.approx(0, abs=1e-6)
        assert np.std(standardized) == pytest.approx(1, abs=1e-6)
        assert sorted(standardized) == [standardized[i] for i in falling(values)][::-1]


@given(logits=LOGITS)
def test_a_sigmoid_is_undone(logits: list[float]) -> None:
    assert as_logits(sigmoid(np.array(logits)).tolist()) == pytest.approx(logits, abs=1e-6)


def test_parts_are_scipys() -> None:
    values = [3.0, -1.0, 0.5, 0.5, 11.0]
    assert z_scores(values) == pytest.approx(stats.zscore(values))
    probabilities = [1e-9, 0.25, 0.5, 0.999, 1 - 1e-9]
    assert as_logits(probabilities) == pytest.approx(special.logit(probabilities))


def test_scores_without_a_finite_logit_take_the_nearest() -> None:
    assert as_logits([0.0, 5e-324, 0.5, 1.0]) == [-36.0, -36.0, 0.0, 36.0]
    assert as_logits([math.inf, 3.0, -7.0, -math.inf]) == [3.0, 3.0, -7.0, -7.0]
    assert len(set(as_logits([math.inf, -math.inf]))) == 1


def test_values_by_hand() -> None:
    # z of (4, 1, 1): mean 2, deviation √2. z of -log(1, 2, 4) = -(0, 1, 2) log 2: (1, 0, -1) √1.5.
    assert fused_scores([4.0, 1.0, 1.0], [1, 2, 4], 0.25) == pytest.approx(
        [
            0.75 * math.sqrt(2) + 0.25 * math.sqrt(1.5),
            -0.75 / math.sqrt(2),
            -0.75 / math.sqrt(2) - 0.25 * math.sqrt(1.5),
        ]
    )


@given(logits=LOGITS, weight=WEIGHTS)
def test_sigmoids_fuse_as_their_logits_do(logits: list[float], weight: float) -> None:
    ranks = list(range(1, len(logits) + 1))
    if all(0 <= logit <= 1 for logit in logits):
        logits = [*logits, -1.0]
        ranks = [*ranks, len(logits)]
    sigmoids = sigmoid(np.array(logits)).tolist()
    spread = max(logits) - min(logits)
    if spread == 0 or spread > 1e-3:  # below, rounding of the sigmoid is part of what is mixed
        expected = pytest.approx(fused_scores(logits, ranks, weight), abs=1e-5)
        assert fused_scores(sigmoids, ranks, weight) == expected


@given(logits=LOGITS, weight=WEIGHTS, scale=st.floats(0.1, 10), shift=st.floats(20, 30))
def test_scale_and_offset_of_scores_do_not_count(
    logits: list[float], weight: float, scale: float, shift: float
) -> None:
    ranks = list(range(1, len(logits) + 1))
    low = [logit - 40 for logit in logits]
    spread = max(logits) - min(logits)
    if spread == 0 or spread > 1e-3:
        moved = [logit * scale - shift * 20 for logit in low]
        expected = pytest.approx(fused_scores(low, ranks, weight), abs=1e-5)
        assert fused_scores(moved, ranks, weight) == expected


@given(scores=st.lists(st.floats(), max_size=12), weight=WEIGHTS)
def test_nan_stays_and_all_else_is_finite(scores: list[float], weight: float) -> None:
    fused = fused_scores(scores, range(1, len(scores) + 1), weight)
    assert [math.isnan(value) for value in fused] == [math.isnan(score) for score in scores]
    assert not any(map(math.isinf, fused))


@given(scores=st.lists(FINITE, max_size=12), data=st.data())
def test_weight_1_is_the_first_stage_and_a_tie_too(
    scores: list[float], data: st.DataObject
) -> None:
    ranks = data.draw(st.permutations(range(1, len(scores) + 1)))
    by_rank = falling([-rank for rank in ranks])
    assert falling(fused_scores(scores, ranks, 1)) == by_rank
    assert falling(fused_scores([0.7] * len(ranks), ranks, 0.1)) == by_rank


@given(scores=st.lists(FINITE, max_size=12))
def test_weight_0_is_the_order_of_the_scores(scores: list[float]) -> None:
    fused = fused_scores(scores, range(1, len(scores) + 1), 0)
    # Far apart magnitudes may round to one value, but none overtakes another.
    by_score = [fused[i] for i in falling(scores)]
    assert by_score == sorted(fused, reverse=True)


@pytest.mark.parametrize(("ranks", "message"), [([1], "shorter"), ([0, 1], "math domain|positive")])
def test_ranks_match_the_scores_and_start_at_1(ranks: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fused_scores([1.0, 2.0], ranks, 0.5)
