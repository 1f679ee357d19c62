"""Measures: the same numbers as ir_measures on files, and names that mean what papers mean."""

from __future__ import annotations

import ir_measures
import numpy as np
import pytest
from ir_measures import AP, RR, P, R, SetR, nDCG

from langchain_rerank.errors import MissingDependencyError
from langchain_rerank.evaluation.measures import depth, parse_measures, per_query_values
from langchain_rerank.evaluation.runs import falling_scores, write_run


def random_judgments(seed=0, queries=20, documents=60):
    """Rankings of some queries (not all of them) and graded judgments of all."""
    rng = np.random.default_rng(seed)
    ids = [f"d{number}" for number in range(documents)]
    qrels = {
        f"q{query}": {one: int(rng.integers(0, 4)) for one in rng.choice(ids, 15, replace=False)}
        for query in range(queries)
    }
    rankings = {
        f"q{query}": list(rng.permutation(ids)[: rng.integers(1, documents)])
        for query in range(queries - 2)
    }
    return {query: list(map(str, ids)) for query, ids in rankings.items()}, qrels


def test_values_are_those_of_ir_measures_on_written_files(tmp_path):
    rankings, qrels = random_judgments()
    measures = parse_measures(["nDCG@10", "RR@10", "P@5", "R@20", "AP"], min_relevance=2)

    values = per_query_values(measures, rankings, qrels)

    run = {query: falling_scores(ids) for query, ids in rankings.items()}
    write_run(tmp_path / "run.trec", run)
    lines = [f"{q} 0 {d} {grade}" for q, judged in qrels.items() for d, grade in judged.items()]
    (tmp_path / "qrels.txt").write_text("\n".join(lines))
    expected = ir_measures.iter_calc(
        [nDCG @ 10, RR(rel=2) @ 10, P(rel=2) @ 5, R(rel=2) @ 20, AP(rel=2)],
        list(ir_measures.read_trec_qrels(str(tmp_path / "qrels.txt"))),
        list(ir_measures.read_trec_run(str(tmp_path / "run.trec"))),
    )
    found = {(m, q): value for m, given in values.items() for q, value in given.items()}
    assert found == pytest.approx({(str(m.measure), m.query_id): m.value for m in expected})
    assert len(found) == 5 * 20


def test_a_query_without_results_counts_0():
    [values] = per_query_values(
        parse_measures(["nDCG@10"]), {"a": ["x"], "empty": []}, {"a": {"x": 1}, "empty": {"x": 1}}
    ).values()
    assert values == {"a": 1.0, "empty": 0.0}
    [values] = per_query_values(
        parse_measures(["nDCG@10"]), {"unknown": ["x"]}, {"b": {"x": 1}, "a": {"x": 1}}
    ).values()
    assert list(values.items()) == [("b", 0.0), ("a", 0.0)]


@pytest.mark.parametrize("ids", [["a", "b", "c"], ["c", "b", "a"], ["b", "c", "a"]])
def test_all_measures_see_the_order_given_whatever_the_ids(ids):
    measures = parse_measures(["RR", "RR@10", "AP"])
    values = per_query_values(measures, {"q": ids}, {"q": {ids[1]: 1}})
    assert [value["q"] for value in values.values()] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("given", "min_relevance", "expected"),
    [
        ("nDCG@10", 2, nDCG @ 10),
        ("RR@10", 1, RR @ 10),
        ("RR@10", 2, RR(rel=2) @ 10),
        ("MRR@10", 2, RR(rel=2) @ 10),
        (" P(rel=3)@5 ", 2, P(rel=3) @ 5),
        ("P(rel=1)@5", 2, P @ 5),
        ("nDCG(dcg='exp-log2')@10", 1, nDCG(dcg="exp-log2") @ 10),
        ("SetR", 2, SetR(rel=2)),
        (P @ 5, 2, P(rel=2) @ 5),
        (P(rel=1) @ 5, 2, P @ 5),
    ],
)
def test_names_and_grades(given, min_relevance, expected):
    assert parse_measures([given], min_relevance=min_relevance) == [expected]


def test_grades_from_min_relevance_on_are_relevant():
    qrels = {"q": {"low": 1, "high": 2}}
    measures = parse_measures(["RR@10", "RR(rel=1)@10"], min_relevance=2)
    values = per_query_values(measures, {"q": ["low", "high"]}, qrels)
    assert values == {"RR(rel=2)@10": {"q": 0.5}, "RR@10": {"q": 1.0}}


def test_each_measure_comes_once_and_its_depth_is_its_cutoff():
    parsed = parse_measures(["RR@10", "P@5", "MRR@10", "RR"])
    assert list(map(str, parsed)) == ["RR@10", "P@5", "RR"]
    assert [depth(measure) for measure in parsed] == [10, 5, None]


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
    ],
)
def test_wrong_measures_are_named(measures, min_relevance, message):
    with pytest.raises(ValueError, match=message):
        parse_measures(measures, min_relevance=min_relevance)


@pytest.mark.parametrize("measures", ["nDCG@10", [10]])
def test_wrong_types_are_named(measures):
    with pytest.raises(TypeError, match="str"):
        parse_measures(measures)


def test_what_ir_measures_cannot_compute_is_named():
    with pytest.raises(ValueError, match="can't compute alpha_nDCG@10"):
        per_query_values(parse_measures(["alpha_nDCG@10"]), {"q": ["d"]}, {"q": {"d": 1}})


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r'pip install "langchain-rerank\[eval\]"'):
        parse_measures(["nDCG@10"])
