"""Measures: ir_measures' names and orders, and statistics; their values are tested in reports."""

from __future__ import annotations

import ir_measures
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import RR, P, R, SetR, nDCG

from langchain_rerank.errors import MissingDependencyError
from langchain_rerank.evaluation.measures import (
    check_draws,
    depth,
    estimate,
    paired_test,
    parse_measures,
    per_query_values,
    questions_needed,
    ranking,
)

RNG = np.random.default_rng(7)
DIFFERENCES = RNG.normal(0.05, 0.2, 54)


@given(st.lists(st.text(), unique=True, min_size=2))
def test_all_measures_see_the_order_given_whatever_the_ids(ids):
    values = per_query_values(parse_measures(["RR", "RR@10", "AP"]), {"q": ids}, {"q": {ids[1]: 1}})
    assert values.loc["q"].tolist() == [0.5, 0.5, 0.5]


# Few values, some of which differ only beyond single precision: ties are the rule.
@given(
    st.dictionaries(
        st.text(st.characters(codec="ascii", categories=["L"]), min_size=1),
        st.sampled_from([1.0, 1.0 + 1e-12, 1.0 - 1e-12, 0.5, -2.0, np.inf]),
        min_size=1,
    )
)
def test_ranking_is_the_order_of_trec_eval_on_ties(run):
    # A query for each relevant document.
    qrels = {doc_id: {doc_id: 1} for doc_id in run}
    values = ir_measures.iter_calc([RR], qrels, dict.fromkeys(qrels, run))
    places = {value.query_id: value.value for value in values}
    assert places == pytest.approx({one: 1 / n for n, one in enumerate(ranking(run), start=1)})


@pytest.mark.parametrize(
    ("given", "min_relevance", "expected"),
    [
        ("nDCG@10", 2, nDCG @ 10),
        ("MRR@10", 2, RR(rel=2) @ 10),
        (" P(rel=3)@5 ", 2, P(rel=3) @ 5),
        ("nDCG(dcg='exp-log2')@10", 1, nDCG(dcg="exp-log2") @ 10),
        ("SetR", 2, SetR(rel=2)),
        (P @ 5, 2, P(rel=2) @ 5),
        (P(rel=1) @ 5, 2, P @ 5),
    ],
)
def test_names_and_grades(given, min_relevance, expected):
    assert parse_measures([given], min_relevance=min_relevance) == [expected]


def test_each_measure_comes_once_and_its_depth_is_its_cutoff():
    parsed = parse_measures(["RR@10", "P@5", "MRR@10", "R@20", "RR"])
    assert parsed == [RR @ 10, P @ 5, R @ 20, RR]
    assert [depth(measure) for measure in parsed] == [10, 5, 20, np.inf]


@pytest.mark.parametrize(
    ("measures", "min_relevance", "error", "message"),
    [
        (["nDGC@10"], 1, ValueError, "unknown measure 'nDGC@10'"),
        (["nDCG@10; 1"], 1, ValueError, "unknown measure"),
        (["P"], 1, ValueError, "measure P: invalid param cutoff.*nDCG@10"),
        (["P(2)@5"], 1, ValueError, "parameters that can't be read"),
        (["P(rel=x)@5"], 1, ValueError, "parameters that can't be read"),
        (["P(foo=1)@5"], 1, ValueError, "foo"),
        (["nDCG@0"], 1, ValueError, "1 rank or more"),
        (["NumRet"], 1, ValueError, "a mean over queries"),
        (["alpha_nDCG@10"], 1, ValueError, r"can't compute alpha_nDCG@10(.|\n)*pyndeval"),
        ([], 1, ValueError, "at least one measure"),
        (["RR"], 0, ValueError, "min_relevance must be"),
        (["nDCG@10"], True, ValueError, "min_relevance must be"),
        ([f"P(rel={2**62})@5"], 1, ValueError, "min_relevance must be"),
        ("nDCG@10", 1, TypeError, "the single str"),
        ([10], 1, TypeError, "must be a str or an ir_measures.Measure, got int"),
    ],
)
def test_wrong_measures_are_named(measures, min_relevance, error, message):
    with pytest.raises(error, match=message):
        parse_measures(measures, min_relevance=min_relevance)


def test_what_ir_measures_lacks_is_named(monkeypatch):
    with pytest.raises(ValueError, match="can't compute ERR@10"):
        per_query_values(parse_measures(["ERR@10"]), {"q": ["d"]}, {"q": {"d": 5}})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r'pip install "langchain-rerank\[eval\]"'):
        parse_measures(["nDCG@10"])


def test_statistics_of_many_queries_of_few_and_of_one():
    expected = scipy.stats.ttest_1samp(DIFFERENCES, 0)
    low, high = expected.confidence_interval()
    assert estimate(DIFFERENCES) == pytest.approx((DIFFERENCES.mean(), low, high), abs=0.005)
    assert f"{estimate([0.5]):+.2f} {estimate([0.5, 0.5]):.1f}" == "+0.50 0.5 [0.5, 0.5]"
    for sign in (1, -1):
        found = paired_test(sign * DIFFERENCES)
        assert found == pytest.approx(expected.pvalue, rel=0.15, abs=0.002)
    assert paired_test([1.0] * 54, resamples=999) == pytest.approx(2 / 1000)
    assert paired_test([0.0, 0.0]) == paired_test([1.0]) == 1
    seeds = [estimate(DIFFERENCES, resamples=300, seed=seed) for seed in (0, 0, 1)]
    assert seeds[0] == seeds[1] != seeds[2]


def test_questions_needed_are_those_of_a_test_with_a_power_of_four_fifths():
    sample = RNG.normal(0.05, 0.2, 40)
    needed = questions_needed(sample)
    draws = RNG.normal(sample.mean(), sample.std(ddof=1), (4000, needed))
    z = draws.mean(axis=1) / (draws.std(axis=1, ddof=1) / np.sqrt(needed))
    assert np.mean(abs(z) > 1.96) == pytest.approx(0.8, abs=0.05)
    assert questions_needed(sample[:1]) is questions_needed(0 * sample) is None


@pytest.mark.parametrize(
    ("draws", "named"),
    [
        ((0, 99, 0), "confidence"),
        ((95, 99, 0), "confidence"),
        ((0.9, 1, 0), "resamples"),
        ((0.9, True, 0), "resamples"),
        ((0.9, 99, -1), "seed"),
    ],
)
def test_wrong_settings_are_named(draws, named):
    with pytest.raises(ValueError, match=f"{named} must be"):
        check_draws(*draws)
