"""Evaluation as a whole: numbers as other tools have them, and nothing half-true."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import ir_measures
import numpy as np
import pytest
import scipy.stats
from ir_measures import RR, P, R, SetR, nDCG
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.runnables import RunnableLambda

from langchain_rerank import (
    OnnxCrossEncoder,
    Reranker,
    create_rerank_retriever,
    index_documents,
)
from langchain_rerank.evaluation import (
    Dataset,
    Report,
    RerankedRun,
    evaluate,
    load_beir,
    read_run,
    write_run,
)
from tests.evaluation.toy import QUIET, only, random_run, toy
from tests.fakes import RecordingRetriever, WordOverlapCrossEncoder

DATA = Path(os.environ.get("LANGCHAIN_RERANK_DATA", "not set"))
DATASET = toy()
RUN = random_run(DATASET)
RERANKER = Reranker(model=WordOverlapCrossEncoder(), deduplicate=False)
EVERYTHING = RunnableLambda(lambda query: DATASET.documents)


@pytest.fixture(scope="module")
def report():
    """A run, the run reranked, and a retriever over a real Chroma."""
    store = index_documents(
        DATASET.documents, DeterministicFakeEmbedding(size=16), collection_name="evaluate"
    )
    systems = {
        "run": RUN,
        "run reranked": RerankedRun(RUN, RERANKER, fetch_k=15),
        "chroma reranked": create_rerank_retriever(store, reranker=RERANKER, k=1, fetch_k=30),
    }
    measures = ("nDCG@10", "RR@10", "P@5", "R@100")
    return evaluate(systems, DATASET, measures, min_relevance=2, show_progress=False)


@pytest.mark.parametrize(
    ("name", "depth"), [("run", 20), ("run reranked", 15), ("chroma reranked", 30)]
)
def test_means_and_values_are_those_of_ir_measures_on_written_files(name, depth, report, tmp_path):
    write_run(tmp_path / "run.trec", report.run(name))
    measures = [nDCG @ 10, RR(rel=2) @ 10, P(rel=2) @ 5, R(rel=2) @ 100]
    run = list(ir_measures.read_trec_run(str(tmp_path / "run.trec")))
    means, values = ir_measures.calc([*measures, SetR(rel=2)], dict(DATASET.qrels), run)

    assert list(report.measures) == list(map(str, measures))
    for measure in measures:
        assert report.summary.loc[name, str(measure)] == pytest.approx(means[measure])
    found = report.per_query.loc[name]
    for one in values:
        if one.measure in measures:
            assert found.loc[one.query_id, str(one.measure)] == pytest.approx(one.value)
    assert found[list(report.measures)].shape == (len(DATASET.queries), 4)
    # What the reranker saw.
    assert set(found["candidates"]) == {depth}
    if name == "run reranked":
        recall = report.summary.loc[name, "candidate recall"]
        assert recall == pytest.approx(means[SetR(rel=2)])


def test_differences_intervals_and_tests_are_scipys_on_the_values_of_the_report(report):
    after = report.per_query.loc["run reranked", "nDCG@10"].to_numpy()
    differences = after - report.per_query.loc["run", "nDCG@10"].to_numpy()
    summary = report.summary["nDCG@10 difference"]
    for values, column in ((after, "nDCG@10"), (differences, "nDCG@10 difference")):
        expected = scipy.stats.bootstrap(
            (values,), np.mean, method="percentile", rng=np.random.default_rng(0)
        ).confidence_interval
        found = report.estimate("run reranked", column)
        assert found == pytest.approx((values.mean(), expected.low, expected.high))
    assert summary["run reranked"] > 0.1
    assert np.isnan(summary["run"])
    # 12 queries: all 4096 sign flips are tried.
    flips = np.array(np.meshgrid(*[[1, -1]] * 12)).T.reshape(-1, 12)
    larger = abs((flips * differences).mean(axis=1)) >= abs(differences.mean()) - 1e-12
    assert report.summary.loc["run reranked", "nDCG@10 p"] == pytest.approx(larger.mean())


def test_stages_are_timed_wherever_a_reranker_is(report):
    stages = ["retrieval", "reranking", "total"]
    seconds = report.per_query[stages]
    times = seconds.loc["chroma reranked"]
    assert (times > 0).all(axis=None)
    assert (times["retrieval"] + times["reranking"]).tolist() == pytest.approx(times["total"])
    assert list(seconds.loc["run reranked"].dropna(axis=1)) == ["reranking"]
    assert seconds.loc["run"].isna().all(axis=None)
    inner = create_rerank_retriever(EVERYTHING, reranker=RERANKER, k=9, fetch_k=40)
    cascade = create_rerank_retriever(inner, reranker=RERANKER, k=3, fetch_k=9)
    chain = RunnableLambda(str.strip) | cascade | RunnableLambda(lambda found: found[:1])
    values, documents, _ = only(chain, DATASET)
    assert list(values)[-3:] == stages
    # What the first of two rerankers saw.
    assert (set(values["candidates"]), len(documents)) == ({40}, 12)
    values, documents, _ = only(EVERYTHING, DATASET)
    assert "reranking" not in values
    assert documents["score"].isna().all()


def test_a_reranked_run_returns_all_candidates_with_scores_and_ranks():
    cut = RERANKER.model_copy(update={"top_n": 1})
    _, documents, report = only(RerankedRun(RUN, cut, fetch_k=3), DATASET)
    for query, found in documents.groupby("query"):
        assert set(found["id"]) == set(sorted(RUN[query], key=RUN[query].get)[-3:])
        assert sorted(found["retrieval_rank"]) == [1, 2, 3]
        assert found["score"].is_monotonic_decreasing
        grades = [DATASET.qrels[query].get(one, np.nan) for one in found["id"]]
        assert found["grade"].tolist() == pytest.approx(grades, nan_ok=True)
    assert report.texts == {one: DATASET.corpus[one].page_content for one in documents["id"]}
    assert cut.top_n == 1


def test_only_judged_queries_are_asked_in_order():
    asked = []
    queries = {"a": "first", "b": "second", "c": "third", "d": "fourth"}
    some = Dataset(queries, {"c": {"d1": 1}, "a": {"d2": 1}, "b": {}}, DATASET.corpus)
    values, *_ = only(RunnableLambda(lambda q: asked.append(q) or DATASET.documents), some)
    assert list(values.index) == ["c", "a"]
    # The first one comes twice: once so that models load, unmeasured.
    assert asked == ["third", "third", "first"]


def test_query_without_results_counts_0():
    values = only(RUN, DATASET)[0]["nDCG@10"].to_dict() | {"q3": 0.0, "q5": 0.0}
    less, _, report = only({**{q: RUN[q] for q in RUN if q != "q5"}, "q3": {}}, DATASET)
    assert less["nDCG@10"].to_dict() == values
    assert report.summary["nDCG@10"]["it"] == np.mean(list(values.values()))

    def rerank(found):
        return RERANKER.compress_documents(found, "sun") if found else []

    empty = RunnableLambda(lambda q: [] if q == DATASET.queries["q2"] else DATASET.documents)
    times = only(empty | RunnableLambda(rerank), DATASET)[0]["reranking"]
    asked_in_vain = [text == DATASET.queries["q2"] for text in DATASET.queries.values()]
    assert (times == 0).tolist() == asked_in_vain


def test_notes_say_what_misleads(caplog):
    short = RunnableLambda(lambda query: DATASET.documents[:7])
    systems = {"short": short, "run": RUN}
    report = evaluate(systems, DATASET, ["nDCG@10", "P@5"], min_relevance=3, **QUIET)
    assert report.notes == (
        "12 of 12 queries have no document of grade 3 or above and count 0 in binary measures.",
        "short returned at most 7 documents a query, nDCG@10 would look at more.",
    )
    assert [record.message for record in caplog.records] == list(report.notes)
    assert only(EVERYTHING, DATASET, measure="R@100")[2].notes == ()
    foreign = RecordingRetriever(documents=[Document("x", id=key) for key in ("s1", "s2")])
    with pytest.raises(ValueError, match=r"'it' returned no document.*'d0'.*'s1'.*id_key"):
        only(foreign, DATASET)
    *_, report = only(foreign, replace(DATASET, corpus=None), "RR")
    assert report.notes == ("it returned no judged document: do its ids match those of the qrels?",)


@pytest.mark.parametrize(
    ("systems", "settings", "error", "message"),
    [
        ({}, {}, TypeError, "one name or more"),
        ([{}], {}, TypeError, "systems must map one name or more"),
        ({"a": "bm25.trec"}, {}, TypeError, "'a' must be a retriever, a run.*got str"),
        ({"": {}}, {}, TypeError, "name must be"),
        ({"a": EVERYTHING}, {"measures": ["nope"]}, ValueError, "nope"),
        ({"a": EVERYTHING}, {"confidence": 2}, ValueError, "confidence"),
        ({"a": RerankedRun({}, RERANKER)}, {"corpus": None}, ValueError, "with a corpus"),
    ],
)
def test_what_is_wrong_is_named_before_anything_runs(systems, settings, error, message):
    dataset = replace(DATASET, corpus=settings.pop("corpus", DATASET.corpus))
    with pytest.raises(error, match=message):
        evaluate(systems, dataset, **{**QUIET, **settings})


@pytest.mark.parametrize(
    "wrong",
    [{"fetch_k": 0}, {"fetch_k": True}, {"run": "bm25.trec"}, {"reranker": RERANKER.model}],
)
def test_a_reranked_run_is_checked_when_it_is_made(wrong):
    with pytest.raises((ValueError, TypeError), match="(?i)" + next(iter(wrong))):
        RerankedRun(**{"run": {}, "reranker": RERANKER, **wrong})


def test_progress_is_shown_if_wanted(capsys):
    for shown in (True, False):
        evaluate({"my run": RUN}, DATASET, ["RR"], show_progress=shown)
        assert ("my run: 100%" in capsys.readouterr().err) == shown


@pytest.mark.parametrize(
    ("run", "qrels"),
    [
        ({"q\t1": {"d 1\n": 1.0}}, {"q\t1": {"d 1\n": 1, "d": 0}}),
        ({"": {"": 1.0}}, {"": {"": 3}}),
        ({"q": {"d": 1.0, "e": 0.5}}, {"q": {"d": 1_000_000, "e": -1_000_000}}),
    ],
)
def test_odd_ids_and_grades_are_measured_as_they_are_and_written_as_json(run, qrels):
    dataset = Dataset(dict.fromkeys(qrels, "question"), qrels)
    for measure in ("nDCG@10", "RR@10", "R@100"):
        *_, report = only(run, dataset, measure)
        assert report.summary[measure]["it"] == 1
    assert Report.from_json(report.to_json()).to_json() == report.to_json()
    assert "it" in report.to_markdown()


@pytest.mark.integration
def test_reranking_bm25_on_trec_dl_2020_gives_the_published_numbers(checkpoint):
    folder = DATA / "trec-dl20"
    if not folder.is_dir():
        pytest.skip("LANGCHAIN_RERANK_DATA names no folder of measuring data")
    dataset = load_beir(folder, "full", partial_corpus=True)
    bm25 = read_run(folder / "runs" / "bm25.trec")
    reranker = Reranker(model=OnnxCrossEncoder(model=checkpoint))
    systems = {"BM25": bm25, "reranked": RerankedRun(bm25, reranker)}
    report = evaluate(systems, dataset, ["nDCG@10"], min_relevance=2, show_progress=False)
    assert round(report.summary["nDCG@10"]["BM25"], 4) == 0.4796
    assert report.summary["nDCG@10"]["reranked"] >= 0.665
    assert report.estimate("reranked", "nDCG@10 difference").low > 0.1
    assert "reranked helps: nDCG@10 +" in report.to_markdown()
