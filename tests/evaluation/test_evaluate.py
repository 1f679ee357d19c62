"""Evaluation as a whole: numbers as other tools have them, and nothing half-true."""

from __future__ import annotations

import os
import subprocess
import sys
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
    evaluation,
    index_documents,
)
from langchain_rerank.evaluation import (
    Dataset,
    EvaluationError,
    RerankedRun,
    evaluate,
    load_beir,
    read_run,
    write_run,
)
from tests.fakes import WordOverlapCrossEncoder

DATA = Path(os.environ.get("LANGCHAIN_RERANK_DATA", "not set"))
WORDS = ["sun", "moon", "star", "sky", "rain", "snow", "wind", "sea"]


def toy(seed=0, queries=12, documents=40):
    """Texts of random words; a document is graded by how many of the query's words it holds."""
    rng = np.random.default_rng(seed)
    corpus = {
        f"d{number}": Document(" ".join(rng.choice(WORDS, 3)), id=f"d{number}")
        for number in range(documents)
    }
    asked = {f"q{number}": " ".join(rng.choice(WORDS, 2)) for number in range(queries)}
    qrels = {
        query: {
            key: len(set(text.split()) & set(document.page_content.split()))
            for key, document in list(corpus.items())[: documents // 2]
        }
        for query, text in asked.items()
    }
    return Dataset(asked, qrels, corpus, name="toy")


def random_run(dataset, seed=1, depth=20):
    rng = np.random.default_rng(seed)
    ids = list(dataset.corpus)
    return {
        query: {str(key): float(rng.random()) for key in rng.choice(ids, depth, replace=False)}
        for query in dataset.queries
    }


@pytest.fixture(scope="module")
def dataset():
    return toy()


@pytest.fixture(scope="module")
def report(dataset):
    """A run, the run reranked, and a retriever over a real Chroma."""
    store = index_documents(
        dataset.documents, DeterministicFakeEmbedding(size=16), collection_name="evaluate"
    )
    run = random_run(dataset)
    reranker = Reranker(model=WordOverlapCrossEncoder(), deduplicate=False)
    systems = {
        "run": run,
        "run reranked": RerankedRun(run, reranker, fetch_k=15),
        "chroma reranked": create_rerank_retriever(store, reranker=reranker, k=1, fetch_k=30),
    }
    measures = ("nDCG@10", "RR@10", "P@5", "R@100")
    return evaluate(systems, dataset, measures, min_relevance=2, show_progress=False)


def test_public_names_stay_what_they_are_whatever_is_imported_first():
    code = """
import importlib, pkgutil, langchain_rerank.evaluation as evaluation
for module in pkgutil.iter_modules(evaluation.__path__, evaluation.__name__ + "."):
    importlib.import_module(module.name)
print([name for name in evaluation.__all__ if hasattr(getattr(evaluation, name), "__file__")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert set(evaluation.__all__) <= set(dir(evaluation))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        evaluation.nothing  # noqa: B018  # the access is the test


def qrels_file(dataset, path):
    lines = [
        f"{query} 0 {key} {grade}"
        for query, judged in dataset.qrels.items()
        for key, grade in judged.items()
    ]
    path.write_text("\n".join(lines))
    return str(path)


@pytest.mark.parametrize("name", ["run", "run reranked", "chroma reranked"])
def test_means_and_values_are_those_of_ir_measures_on_written_files(
    name, report, dataset, tmp_path
):
    result = report.systems[name]
    write_run(tmp_path / "run.trec", result.run())

    measures = [nDCG @ 10, RR(rel=2) @ 10, P(rel=2) @ 5, R(rel=2) @ 100]
    qrels = list(ir_measures.read_trec_qrels(qrels_file(dataset, tmp_path / "qrels.txt")))
    run = list(ir_measures.read_trec_run(str(tmp_path / "run.trec")))
    means, values = ir_measures.calc(measures, qrels, run)

    assert list(result.summaries) == list(map(str, measures)) == list(report.settings.measures)
    for measure in measures:
        assert result.summaries[str(measure)].mean == pytest.approx(means[measure])
    assert len(values) == 4 * len(dataset.queries)
    for value in values:
        found = result.per_query[str(value.measure)][value.query_id]
        assert found == pytest.approx(value.value)


def test_reranking_lifts_what_is_graded_by_overlap(report):
    summaries = {name: one.summaries["nDCG@10"] for name, one in report.systems.items()}
    assert summaries["run reranked"].mean > summaries["run"].mean + 0.1
    assert summaries["run reranked"].p_value < 0.01
    for name in ("run reranked", "chroma reranked"):
        gain = summaries[name].mean - summaries["run"].mean
        assert summaries[name].difference == pytest.approx(gain)
    assert summaries["run"].p_value is None
    assert summaries["run"].difference is None


def test_intervals_and_tests_are_scipys_on_the_values_of_the_report(report):
    before = list(report.systems["run"].per_query["nDCG@10"].values())
    after = list(report.systems["run reranked"].per_query["nDCG@10"].values())
    differences = np.subtract(after, before)
    summary = report.systems["run reranked"].summaries["nDCG@10"]

    for values, interval in ((after, summary.interval), (differences, summary.difference_interval)):
        expected = scipy.stats.bootstrap(
            (values,), np.mean, method="percentile", rng=np.random.default_rng(0)
        ).confidence_interval
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert summary.difference == pytest.approx(differences.mean())
    # 12 queries: all 4096 sign flips are tried.
    flips = np.array(np.meshgrid(*[[1, -1]] * 12)).T.reshape(-1, 12)
    larger = abs((flips * differences).mean(axis=1)) >= abs(differences.mean()) - 1e-12
    assert summary.p_value == pytest.approx(larger.mean())


def test_candidate_recall_is_that_of_what_the_reranker_saw(report, dataset):
    for name, depth in (("run", 20), ("run reranked", 15), ("chroma reranked", 30)):
        result = report.systems[name]
        assert {len(candidates) for candidates in result.candidates.values()} == {depth}
        run = {query: dict.fromkeys(ids, 1.0) for query, ids in result.candidates.items()}
        expected = ir_measures.calc_aggregate([SetR(rel=2)], dict(dataset.qrels), run)
        assert result.candidate_recall == pytest.approx(expected[SetR(rel=2)])
    cut = report.systems["chroma reranked"]
    assert cut.candidate_recall > cut.summaries["R(rel=2)@100"].mean


def test_report_holds_what_was_asked_and_how(report, dataset):
    assert report.dataset == "toy"
    assert report.queries == dataset.queries
    assert report.baseline == "run"
    assert report.settings.min_relevance == 2
    assert report.settings.versions["ir-measures"] == ir_measures.__version__
    returned = {one.id for r in report.systems["run"].rankings.values() for one in r}
    assert {key: report.texts[key] for key in returned} == {
        key: dataset.corpus[key].page_content for key in returned
    }
    times = report.systems["chroma reranked"].seconds
    assert {len(given) for given in times.values()} == {len(dataset.queries)}


def test_no_passage_stands_for_an_id_that_several_share():
    passages = {
        "first": [Document("a", metadata={"topic": "x"}), Document("c", metadata={"topic": "z"})],
        "second": [Document("b", metadata={"topic": "x"}), Document("c", metadata={"topic": "z"})],
    }
    labelled = Dataset({"1": "first", "2": "second"}, {"1": {"x": 1}, "2": {"x": 1}})
    retriever = RunnableLambda(passages.__getitem__)
    report = evaluate({"it": retriever}, labelled, ["RR"], id_key="topic", show_progress=False)
    assert report.texts == {"z": "c"}


def test_only_judged_queries_are_asked_in_order(dataset):
    asked = []

    def retrieve(query):
        asked.append(query)
        return dataset.documents

    some = Dataset(
        {"a": "first", "b": "second", "c": "third", "d": "fourth"},
        {"c": {"d1": 1}, "a": {"d2": 1}, "b": {}},
        dataset.corpus,
    )
    report = evaluate({"all": RunnableLambda(retrieve)}, some, show_progress=False)

    assert list(report.queries) == ["c", "a"]
    # The first one comes twice: once so that models load, unmeasured.
    assert asked == ["third", "third", "first"]
    assert len(report.systems["all"].seconds["total"]) == 2


def test_query_without_results_counts_0(dataset):
    run = random_run(dataset)
    full = evaluate({"run": run}, dataset, ["nDCG@10"], show_progress=False)
    run["q3"] = {}
    del run["q5"]
    less = evaluate({"run": run}, dataset, ["nDCG@10"], show_progress=False)

    values = dict(full.systems["run"].per_query["nDCG@10"])
    values.update(q3=0.0, q5=0.0)
    assert less.systems["run"].per_query["nDCG@10"] == values
    assert less.systems["run"].summaries["nDCG@10"].mean == np.mean(list(values.values()))


def test_a_first_stage_that_finds_nothing_for_one_query(dataset):
    def retrieve(query):
        return [] if query == dataset.queries["q2"] else dataset.documents

    chain = RunnableLambda(retrieve) | RunnableLambda(
        lambda found: (
            Reranker(model=WordOverlapCrossEncoder()).compress_documents(found, "sun")
            if found
            else []
        )
    )
    report = evaluate({"chain": chain}, dataset, ["nDCG@10"], show_progress=False)
    reranking = report.systems["chain"].seconds["reranking"]
    assert [time == 0 for time in reranking] == [
        text == dataset.queries["q2"] for text in dataset.queries.values()
    ]


def test_a_failing_query_ends_the_evaluation(dataset):
    def retrieve(query):
        if query == dataset.queries["q7"]:
            msg = "the store is gone"
            raise ConnectionError(msg)
        return dataset.documents

    with pytest.raises(EvaluationError, match=r"'mine' failed on query 'q7'.*the store is gone"):
        evaluate({"mine": RunnableLambda(retrieve)}, dataset, show_progress=False)


def test_documents_of_another_corpus_are_an_error(dataset):
    strangers = [Document("x", id=key) for key in ("s1", "s2")]
    retriever = RunnableLambda(lambda query: strangers)
    with pytest.raises(ValueError, match=r"'mine' returned no document.*'d0'.*'s1'.*id_key"):
        evaluate({"mine": retriever}, dataset, show_progress=False)
    without_corpus = replace(dataset, corpus=None)
    report = evaluate({"mine": retriever}, without_corpus, ["RR"], show_progress=False)
    assert report.notes == (
        "mine returned no judged document: do its ids match those of the qrels?",
    )


def test_notes_say_what_misleads(dataset, caplog):
    retriever = RunnableLambda(lambda query: dataset.documents[:7])
    report = evaluate(
        {"short": retriever, "run": random_run(dataset)},
        dataset,
        ["nDCG@10", "P@5"],
        min_relevance=3,
        show_progress=False,
    )
    assert report.notes == (
        "12 of 12 queries have no document of grade 3 or above and count 0 in binary measures.",
        "short returned at most 7 documents a query, nDCG@10 would look at more.",
    )
    assert [record.message for record in caplog.records] == list(report.notes)


def test_all_there_is_is_not_too_little(dataset):
    report = evaluate(
        {"all": RunnableLambda(lambda query: dataset.documents)},
        dataset,
        ["R@100"],
        show_progress=False,
    )
    assert report.notes == ()


@pytest.mark.parametrize(
    ("systems", "error", "message"),
    [
        ({}, ValueError, "at least one system"),
        ([{}], TypeError, "systems must map names"),
        ({"a": 1}, TypeError, "'a' must be a retriever"),
    ],
)
def test_wrong_systems_are_named_before_anything_runs(systems, error, message, dataset):
    with pytest.raises(error, match=message):
        evaluate(systems, dataset, show_progress=False)


@pytest.mark.parametrize(
    "wrong", [{"measures": ["nope"]}, {"confidence": 2}, {"resamples": 1}, {"seed": -1}]
)
def test_wrong_settings_are_named_before_anything_runs(wrong, dataset):
    asked = []
    with pytest.raises(ValueError, match=r"nope|confidence|resamples|seed"):
        evaluate({"mine": RunnableLambda(asked.append)}, dataset, **wrong)
    assert asked == []


def test_progress_is_shown_if_wanted(dataset, capsys):
    run = {"my run": random_run(dataset)}
    evaluate(run, dataset)
    assert "my run: 100%" in capsys.readouterr().err
    evaluate(run, dataset, show_progress=False)
    assert capsys.readouterr().err == ""


@pytest.fixture(scope="module")
def trec():
    folder = DATA / "trec-dl20"
    if not folder.is_dir():
        pytest.skip("LANGCHAIN_RERANK_DATA names no folder of measuring data")
    return load_beir(folder, "full", partial_corpus=True), read_run(folder / "runs" / "bm25.trec")


def test_bm25_on_trec_dl_2020_is_the_published_number(trec, tmp_path):
    dataset, bm25 = trec
    report = evaluate({"BM25": bm25}, dataset, min_relevance=2, show_progress=False)
    assert round(report.systems["BM25"].summaries["nDCG@10"].mean, 4) == 0.4796

    measures = [nDCG @ 10, P(rel=2) @ 5, R(rel=2) @ 100]
    expected = ir_measures.calc_aggregate(
        measures,
        list(ir_measures.read_trec_qrels(qrels_file(dataset, tmp_path / "qrels.txt"))),
        list(ir_measures.read_trec_run(str(DATA / "trec-dl20" / "runs" / "bm25.trec"))),
    )
    for measure in measures:
        found = report.systems["BM25"].summaries[str(measure)].mean
        assert found == pytest.approx(expected[measure], abs=1e-9)


@pytest.mark.integration
def test_reranking_bm25_on_trec_dl_2020(trec, checkpoint):
    dataset, bm25 = trec
    reranker = Reranker(model=OnnxCrossEncoder(model=checkpoint))
    systems = {"BM25": bm25, "reranked": RerankedRun(bm25, reranker)}
    report = evaluate(systems, dataset, ["nDCG@10"], min_relevance=2, show_progress=False)
    summary = report.systems["reranked"].summaries["nDCG@10"]
    assert summary.mean >= 0.665
    assert summary.difference_interval.low > 0.1
    assert summary.p_value < 0.001
