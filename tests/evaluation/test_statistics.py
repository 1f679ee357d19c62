"""Intervals and the paired test, against numpy and enumeration by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats

from langchain_rerank.evaluation.statistics import Interval, bootstrap_interval, paired_test

RNG = np.random.default_rng(7)
BEFORE = RNG.random(54).tolist()
AFTER = np.clip(np.array(BEFORE) + RNG.normal(0.08, 0.2, 54), 0, 1).tolist()


def test_interval_is_the_percentile_bootstrap():
    draws = np.random.default_rng(99).choice(BEFORE, (100_000, len(BEFORE))).mean(axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])

    interval = bootstrap_interval(BEFORE)

    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.004)
    assert bootstrap_interval([0.5, 0.5, 0.5]) == Interval(0.5, 0.5)
    assert bootstrap_interval([0.5]) is None


def test_interval_holds_the_true_mean_about_as_often_as_it_says():
    samples = np.random.default_rng(5).beta(2, 3, (200, 40))
    intervals = [bootstrap_interval(sample.tolist(), resamples=400) for sample in samples]
    hits = sum(interval.low <= 0.4 <= interval.high for interval in intervals)
    assert 176 <= hits <= 198


@pytest.mark.parametrize("count", [2, 5, 10])
@pytest.mark.parametrize("start", [0, 10, 20])
def test_p_is_the_share_of_sign_flips_by_hand(count, start):
    after, before = AFTER[start : start + count], BEFORE[start : start + count]
    differences = np.subtract(after, before)
    seen = abs(differences.mean()) - 1e-12
    flips = itertools.product([1, -1], repeat=count)
    expected = np.mean([abs((differences * flip).mean()) >= seen for flip in flips])
    assert paired_test(after, before) == pytest.approx(expected)


def test_p_of_many_queries_is_close_to_the_paired_t_test_and_has_no_direction():
    expected = scipy.stats.ttest_rel(AFTER, BEFORE).pvalue
    assert 0.001 < expected < 0.5
    for pair in ((AFTER, BEFORE), (BEFORE, AFTER)):
        assert paired_test(*pair) == pytest.approx(expected, rel=0.15, abs=0.002)
    better = [value + 1 for value in BEFORE]
    assert paired_test(better, BEFORE, resamples=999) == pytest.approx(2 / 1000)
    # No difference and one query tell nothing.
    assert paired_test(BEFORE, BEFORE) == paired_test([1.0], [0.0]) == 1


def test_the_seed_decides():
    draws = {"resamples": 300}
    assert bootstrap_interval(AFTER, **draws) == bootstrap_interval(AFTER, **draws)
    assert bootstrap_interval(AFTER, **draws) != bootstrap_interval(AFTER, seed=1, **draws)
    assert paired_test(AFTER, BEFORE, **draws) == paired_test(AFTER, BEFORE, **draws)


@pytest.mark.parametrize(
    "settings",
    [{"confidence": 0}, {"confidence": 95}, {"resamples": 1}, {"resamples": True}, {"seed": -1}],
)
def test_wrong_settings_are_named(settings):
    [name] = settings
    with pytest.raises(ValueError, match=f"{name} must be"):
        bootstrap_interval(BEFORE, **settings)
    if name != "confidence":
        with pytest.raises(ValueError, match=f"{name} must be an int of at least"):
            paired_test(AFTER, BEFORE, **settings)


@pytest.mark.parametrize(("values", "baseline"), [([], []), ([1.0], [1.0, 2.0])])
def test_values_must_be_in_pairs(values, baseline):
    with pytest.raises(ValueError, match="as many values"):
        paired_test(values, baseline)
