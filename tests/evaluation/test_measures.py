"""Measures: ir_measures' numbers and names, and intervals and a test by hand."""

from __future__ import annotations

import itertools

import ir_measures
import numpy as np
import pytest
import scipy.stats
from ir_measures import AP, RR, P, R, SetR, nDCG

from langchain_rerank.errors import MissingDependencyError
from langchain_rerank.evaluation.measures import (
    Interval,
    bootstrap_interval,
    check_draws,
    depth,
    paired_test,
    parse_measures,
    per_query_values,
)
from langchain_rerank.evaluation.runs import falling_scores, write_run

RNG = np.random.default_rng(7)
BEFORE = RNG.random(54).tolist()
DIFFERENCES = RNG.normal(0.05, 0.2, 54).tolist()


def test_values_are_those_of_ir_measures_on_written_files(tmp_path):
    ids = [f"d{number}" for number in range(60)]
    qrels = {
        f"q{n}": {str(one): int(RNG.integers(0, 4)) for one in RNG.choice(ids, 15, replace=False)}
        for n in range(20)
    }
    rankings = {f"q{n}": RNG.permutation(ids)[: RNG.integers(1, 60)].tolist() for n in range(18)}
    names = ["nDCG@10", "RR@10", "P@5", "R@20", "AP"]

    values = per_query_values(parse_measures(names, min_relevance=2), rankings, qrels)

    write_run(tmp_path / "run.trec", {q: falling_scores(found) for q, found in rankings.items()})
    lines = [f"{q} 0 {d} {grade}" for q, judged in qrels.items() for d, grade in judged.items()]
    (tmp_path / "qrels.txt").write_text("\n".join(lines))
    expected = ir_measures.iter_calc(
        [nDCG @ 10, RR(rel=2) @ 10, P(rel=2) @ 5, R(rel=2) @ 20, AP(rel=2)],
        list(ir_measures.read_trec_qrels(str(tmp_path / "qrels.txt"))),
        list(ir_measures.read_trec_run(str(tmp_path / "run.trec"))),
    )
    found = {(m, q): value for m, given in values.items() for q, value in given.items()}
    assert found == pytest.approx({(str(m.measure), m.query_id): m.value for m in expected})
    assert len(found) == 5 * 20  # a query without results counts 0


@pytest.mark.parametrize("ids", [["a", "b", "c"], ["c", "b", "a"], ["b", "c", "a"]])
def test_all_measures_see_the_order_given_whatever_the_ids(ids):
    values = per_query_values(parse_measures(["RR", "RR@10", "AP"]), {"q": ids}, {"q": {ids[1]: 1}})
    assert [value["q"] for value in values.values()] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("given", "min_relevance", "expected"),
    [
        ("nDCG@10", 2, nDCG @ 10),
        ("RR@10", 1, RR @ 10),
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
    assert [depth(measure) for measure in parsed] == [10, 5, 20, None]


@pytest.mark.parametrize(
    ("measures", "min_relevance", "message"),
    [
        (["nDGC@10"], 1, "unknown measure 'nDGC@10'"),
        (["nDCG@10; 1"], 1, "unknown measure"),
        (["P"], 1, "measure P lacks cutoff.*P@10"),
        (["P@"], 1, "unknown measure 'P@'"),
        (["P(2)@5"], 1, "parameters that can't be read"),
        (["P(rel=x)@5"], 1, "parameters that can't be read"),
        (["P@five"], 1, "parameters that can't be read"),
        (["P(foo=1)@5"], 1, "foo"),
        (["nDCG@0"], 1, "1 rank or more"),
        (["NumRet"], 1, "sum over queries"),
        ([], 1, "at least one measure"),
        (["RR"], 0, "min_relevance must be"),
        (["RR"], True, "min_relevance must be"),
        ([f"P(rel={2**62})@5"], 1, "min_relevance must be"),
    ],
)
def test_wrong_measures_are_named(measures, min_relevance, message):
    with pytest.raises(ValueError, match=message):
        parse_measures(measures, min_relevance=min_relevance)


def test_wrong_types_and_what_ir_measures_lacks_are_named(monkeypatch):
    for measures in ("nDCG@10", [10]):
        with pytest.raises(TypeError, match="str"):
            parse_measures(measures)
    with pytest.raises(ValueError, match="can't compute alpha_nDCG@10"):
        per_query_values(parse_measures(["alpha_nDCG@10"]), {"q": ["d"]}, {"q": {"d": 1}})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r'pip install "langchain-rerank\[eval\]"'):
        parse_measures(["nDCG@10"])


def test_interval_is_the_percentile_bootstrap():
    draws = np.random.default_rng(99).choice(BEFORE, (100_000, len(BEFORE))).mean(axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])

    interval = bootstrap_interval(BEFORE)

    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.004)
    assert bootstrap_interval([0.5, 0.5, 0.5]) == Interval(0.5, 0.5)
    assert bootstrap_interval([0.5]) is None


@pytest.mark.parametrize(("start", "end"), [(0, 2), (10, 15), (20, 30)])
def test_p_is_the_share_of_sign_flips_by_hand(start, end):
    differences = np.array(DIFFERENCES[start:end])
    seen = abs(differences.mean()) - 1e-12
    flips = itertools.product([1, -1], repeat=end - start)
    expected = np.mean([abs((differences * flip).mean()) >= seen for flip in flips])
    assert paired_test(differences.tolist()) == pytest.approx(expected)


def test_p_of_many_queries_is_close_to_the_t_test_and_has_no_direction():
    expected = scipy.stats.ttest_1samp(DIFFERENCES, 0).pvalue
    assert 0.001 < expected < 0.5
    for sign in (1, -1):
        found = paired_test([sign * one for one in DIFFERENCES])
        assert found == pytest.approx(expected, rel=0.15, abs=0.002)
    assert paired_test([1.0] * 54, resamples=999) == pytest.approx(2 / 1000)
    # No difference and one query tell nothing.
    assert paired_test([0.0, 0.0]) == paired_test([1.0]) == 1


def test_the_seed_decides():
    draws = {"resamples": 300}
    assert bootstrap_interval(BEFORE, **draws) == bootstrap_interval(BEFORE, **draws)
    assert bootstrap_interval(BEFORE, **draws) != bootstrap_interval(BEFORE, seed=1, **draws)
    assert paired_test(DIFFERENCES, **draws) == paired_test(DIFFERENCES, **draws)


@pytest.mark.parametrize(
    ("draws", "message"),
    [
        ((0, 99, 0), "confidence must be"),
        ((95, 99, 0), "confidence must be"),
        ((0.9, 1, 0), "resamples must be"),
        ((0.9, True, 0), "resamples must be"),
        ((0.9, 99, -1), "seed must be"),
    ],
)
def test_wrong_settings_are_named(draws, message):
    with pytest.raises(ValueError, match=message):
        check_draws(*draws)
