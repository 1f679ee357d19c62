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
from tests.evaluation.toy import QUIET, random_run, toy
from tests.fakes import BrokenCrossEncoder, RecordingRetriever, WordOverlapCrossEncoder

DATA = Path(os.environ.get("LANGCHAIN_RERANK_DATA", "not set"))
DATASET = toy()
RERANKER = Reranker(model=WordOverlapCrossEncoder(), deduplicate=False)
EVERYTHING = RunnableLambda(lambda query: DATASET.documents)


@pytest.fixture(scope="module")
def report():
    """A run, the run reranked, and a retriever over a real Chroma."""
    store = index_documents(
        DATASET.documents, DeterministicFakeEmbedding(size=16), collection_name="evaluate"
    )
    run = random_run(DATASET)
    systems = {
        "run": run,
        "run reranked": RerankedRun(run, RERANKER, fetch_k=15),
        "chroma reranked": create_rerank_retriever(store, reranker=RERANKER, k=1, fetch_k=30),
    }
    measures = ("nDCG@10", "RR@10", "P@5", "R@100")
    return evaluate(systems, DATASET, measures, min_relevance=2, show_progress=False)


def only(system, dataset=DATASET, measure="nDCG@10", **settings):
    """Evaluate one system; its result and the report."""
    report = evaluate({"it": system}, dataset, [measure], **QUIET, **settings)
    return report.systems["it"], report


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


@pytest.mark.parametrize("name", ["run", "run reranked", "chroma reranked"])
def test_means_and_values_are_those_of_ir_measures_on_written_files(name, report, tmp_path):
    result = report.systems[name]
    write_run(tmp_path / "run.trec", result.run())
    measures = [nDCG @ 10, RR(rel=2) @ 10, P(rel=2) @ 5, R(rel=2) @ 100]
    run = list(ir_measures.read_trec_run(str(tmp_path / "run.trec")))
    means, values = ir_measures.calc(measures, dict(DATASET.qrels), run)

    assert list(result.summaries) == list(map(str, measures)) == list(report.settings.measures)
    for measure in measures:
        assert result.summaries[str(measure)].mean == pytest.approx(means[measure])
    assert len(values) == 4 * len(DATASET.queries)
    for value in values:
        found = result.per_query[str(value.measure)][value.query_id]
        assert found == pytest.approx(value.value)


def test_differences_intervals_and_tests_are_scipys_on_the_values_of_the_report(report):
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
    assert summary.difference > 0.1
    # 12 queries: all 4096 sign flips are tried.
    flips = np.array(np.meshgrid(*[[1, -1]] * 12)).T.reshape(-1, 12)
    larger = abs((flips * differences).mean(axis=1)) >= abs(differences.mean()) - 1e-12
    assert summary.p_value == pytest.approx(larger.mean())
    assert report.systems["run"].summaries["nDCG@10"].difference is None


def test_candidate_recall_is_that_of_what_the_reranker_saw(report):
    for name, depth in (("run", 20), ("run reranked", 15), ("chroma reranked", 30)):
        result = report.systems[name]
        assert {len(candidates) for candidates in result.candidates.values()} == {depth}
        run = {query: dict.fromkeys(ids, 1.0) for query, ids in result.candidates.items()}
        expected = ir_measures.calc_aggregate([SetR(rel=2)], dict(DATASET.qrels), run)
        assert result.candidate_recall == pytest.approx(expected[SetR(rel=2)])


def test_stages_are_timed_wherever_a_reranker_is(report):
    seconds = report.systems["chroma reranked"].seconds
    assert {len(given) for given in seconds.values()} == {12}
    for retrieval, reranking, total in zip(*(seconds[s] for s in seconds), strict=True):
        assert min(retrieval, reranking) > 0
        assert retrieval + reranking == pytest.approx(total)
    assert list(report.systems["run reranked"].seconds) == ["reranking"]
    assert report.systems["run"].seconds == {}
    inner = create_rerank_retriever(EVERYTHING, reranker=RERANKER, k=9, fetch_k=40)
    cascade = create_rerank_retriever(inner, reranker=RERANKER, k=3, fetch_k=9)
    result, _ = only(RunnableLambda(str.strip) | cascade | RunnableLambda(lambda found: found[:1]))
    assert list(result.seconds) == ["retrieval", "reranking", "total"]
    # What the first of two rerankers saw.
    assert {len(found) for found in result.candidates.values()} == {40}
    assert {len(found) for found in result.rankings.values()} == {1}
    plain, _ = only(EVERYTHING)
    assert list(plain.seconds) == ["retrieval", "total"]
    assert {one.score for found in plain.rankings.values() for one in found} == {None}


def test_a_reranked_run_returns_all_candidates_with_scores_and_ranks():
    run = random_run(DATASET)
    cut = RERANKER.model_copy(update={"top_n": 1})
    result, report = only(RerankedRun(run, cut, fetch_k=3))
    for query, found in result.rankings.items():
        assert sorted(one.id for one in found) == sorted(result.candidates[query])
        assert sorted(one.retrieval_rank for one in found) == [1, 2, 3]
        scores = [one.score for one in found]
        assert scores == sorted(scores, reverse=True)
        assert {one.id: report.texts[one.id] for one in found} == {
            one.id: DATASET.corpus[one.id].page_content for one in found
        }
    assert cut.top_n == 1


def test_first_chunk_stands_for_its_document_and_no_text_for_many_chunks():
    chunks = [
        Document("x", id=str(n), metadata={"topic": topic, "retrieval_rank": 9 - n, **score})
        for n, (topic, score) in enumerate(
            [("try", {"relevance_score": -1}), ("for", {}), ("try", {}), (7, {})]
        )
    ]
    labelled = Dataset({"1": "first"}, {"1": {"try": 1}})
    # A NaN, which the Reranker leaves out, is no score.
    result, report = only(RunnableLambda(lambda query: chunks), labelled, id_key="topic")
    found = [(one.id, one.score, one.retrieval_rank) for one in result.rankings["1"]]
    assert found == [("try", -1, 9), ("for", None, 8), ("7", None, 6)]
    assert result.candidates["1"] == ("try", "for", "7")
    assert report.texts == {}


def test_only_judged_queries_are_asked_in_order():
    asked = []
    some = Dataset(
        {"a": "first", "b": "second", "c": "third", "d": "fourth"},
        {"c": {"d1": 1}, "a": {"d2": 1}, "b": {}},
        DATASET.corpus,
    )
    result, report = only(RunnableLambda(lambda q: asked.append(q) or DATASET.documents), some)

    assert list(report.queries) == ["c", "a"]
    # The first one comes twice: once so that models load, unmeasured.
    assert asked == ["third", "third", "first"]
    assert len(result.seconds["total"]) == 2


def test_query_without_results_counts_0():
    run = random_run(DATASET)
    values = dict(only(run)[0].per_query["nDCG@10"])
    run["q3"] = {}
    del run["q5"]
    values.update(q3=0.0, q5=0.0)
    less, _ = only(run)
    assert less.per_query["nDCG@10"] == values
    assert less.summaries["nDCG@10"].mean == np.mean(list(values.values()))

    def rerank(found):
        return RERANKER.compress_documents(found, "sun") if found else []

    empty = RunnableLambda(lambda q: [] if q == DATASET.queries["q2"] else DATASET.documents)
    times = only(empty | RunnableLambda(rerank))[0].seconds["reranking"]
    assert [time == 0 for time in times] == [
        text == DATASET.queries["q2"] for text in DATASET.queries.values()
    ]


def test_notes_say_what_misleads(caplog):
    short = RunnableLambda(lambda query: DATASET.documents[:7])
    systems = {"short": short, "run": random_run(DATASET)}
    report = evaluate(systems, DATASET, ["nDCG@10", "P@5"], min_relevance=3, **QUIET)
    assert report.notes == (
        "12 of 12 queries have no document of grade 3 or above and count 0 in binary measures.",
        "short returned at most 7 documents a query, nDCG@10 would look at more.",
    )
    assert [record.message for record in caplog.records] == list(report.notes)
    assert only(EVERYTHING, measure="R@100")[1].notes == ()


def test_documents_of_another_corpus_are_an_error():
    retriever = RecordingRetriever(documents=[Document("x", id=key) for key in ("s1", "s2")])
    with pytest.raises(ValueError, match=r"'it' returned no document.*'d0'.*'s1'.*id_key"):
        only(retriever)
    _, report = only(retriever, replace(DATASET, corpus=None), "RR")
    assert report.notes == ("it returned no judged document: do its ids match those of the qrels?",)


HIDDEN = Reranker(model=BrokenCrossEncoder(), on_error="keep_order")


@pytest.mark.parametrize(
    ("system", "settings", "message"),
    [
        (RecordingRetriever(documents=[Document("x")]), {}, "document 0 has no id.*id_key"),
        (EVERYTHING, {"id_key": "topic"}, "no metadata field 'topic'"),
        (RunnableLambda(lambda query: "text"), {}, "expected a list of documents, got str"),
        (RunnableLambda(lambda query: ["text"]), {}, "document 0 must be a Document"),
        (RerankedRun({"q0": {"lost": 1.0}}, RERANKER), {}, "'lost' is not in the corpus"),
        ({"q0": {"d1": 2.0, "d2": float("nan")}}, {}, "score of document 'd2', got NaN"),
        (RerankedRun(random_run(DATASET), HIDDEN), {}, "the device is gone"),
        (create_rerank_retriever(EVERYTHING, reranker=HIDDEN), {}, "on_error='raise'"),
    ],
)
def test_a_failure_names_system_and_query_and_has_its_cause(system, settings, message):
    with pytest.raises(EvaluationError, match=f"'it' failed on query 'q0'.*{message}") as error:
        only(system, **settings)
    assert error.value.__cause__ is not None


def test_ctrl_c_passes_through():
    def interrupted(query):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        only(RunnableLambda(interrupted))


@pytest.mark.parametrize(
    ("systems", "settings", "error", "message"),
    [
        ({}, {}, ValueError, "at least one system"),
        ([{}], {}, TypeError, "systems must map names"),
        ({"a": "bm25.trec"}, {}, TypeError, "'a' must be a retriever, a run.*got str"),
        ({"": {}}, {}, TypeError, "name must be"),
        ({"a": EVERYTHING}, {"measures": ["nope"]}, ValueError, "nope"),
        ({"a": EVERYTHING}, {"confidence": 2}, ValueError, "confidence"),
        ({"a": EVERYTHING}, {"min_relevance": 2**62}, ValueError, "min_relevance must be an int"),
        ({"a": RerankedRun({}, RERANKER)}, {"corpus": None}, ValueError, "with a corpus"),
    ],
)
def test_what_is_wrong_is_named_before_anything_runs(systems, settings, error, message):
    dataset = replace(DATASET, corpus=settings.pop("corpus", DATASET.corpus))
    with pytest.raises(error, match=message):
        evaluate(systems, dataset, **{**QUIET, **settings})


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"fetch_k": 0}, ValueError),
        ({"fetch_k": True}, ValueError),
        ({"run": "bm25.trec"}, TypeError),
        ({"reranker": WordOverlapCrossEncoder()}, TypeError),
    ],
)
def test_wrong_reranked_run_is_refused_at_once(changes, error):
    with pytest.raises(error, match=next(iter(changes))):
        RerankedRun(**{"run": {}, "reranker": RERANKER, **changes})


def test_progress_is_shown_if_wanted(capsys):
    run = {"my run": random_run(DATASET)}
    evaluate(run, DATASET)
    assert "my run: 100%" in capsys.readouterr().err
    evaluate(run, DATASET, show_progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("run", "qrels", "mean"),
    [
        ({"q": {"\udc00": 1.0}}, {"q": {"\udc00": 1}}, 1),
        ({"\ud800": {"d": 1.0}}, {"\ud800": {"d": 1}}, 1),
        ({"q": {"x\0b": 1.0}}, {"q": {"x\0a": 1}}, 0),
        ({"q\0a": {"d": 1.0}, "q\0b": {"e": 1.0}}, {"q\0a": {"d": 1}, "q\0b": {"d": 1}}, 0.5),
        ({"q\t1": {"d 1\n": 1.0}}, {"q\t1": {"d 1\n": 1, "d": 0}}, 1),
        ({"": {"": 1.0}}, {"": {"": 3}}, 1),
        ({"q": {"d": 1.0, "e": 0.5}}, {"q": {"d": 1_000_000, "e": -1_000_000}}, 1),
    ],
)
def test_any_id_and_grade_is_measured_as_it_is_and_written_as_json(run, qrels, mean):
    dataset = Dataset(dict.fromkeys(qrels, "question"), qrels)
    for measure in ("nDCG@10", "RR@10", "R@100"):
        result, report = only(run, dataset, measure)
        assert result.summaries[measure].mean == mean
    back = evaluation.Report.from_json(report.to_json())
    assert report.to_json().encode()
    assert back.to_json() == report.to_json()
    assert "it" in report.to_markdown()


ARGUMENTS = {
    "a1": "school uniforms improve discipline in class",
    "a2": "uniforms do not improve discipline",
    "b1": "zoos protect endangered animals",
    "b2": "zoos harm wild animals",
}
CORPUS = {key: Document(text, id=key, metadata={"source": key}) for key, text in ARGUMENTS.items()}
QUERIES = {key: ARGUMENTS[key] for key in ("a1", "b1")}
COUNTER = Dataset(QUERIES, {"a1": {"a2": 1}, "b1": {"b2": 1}}, CORPUS)
RUN = {query: {key: 1 - n / 10 for n, key in enumerate(CORPUS)} for query in QUERIES}
OWN_FIRST = {"a1": {"a1": 2.0, "a2": 1.0}, "b1": {"b1": 2.0, "b2": 1.0}}
OWN = "own document is left out"


@pytest.mark.parametrize(
    ("system", "settings"),
    [
        (RerankedRun(RUN, RERANKER, fetch_k=3), {}),
        (RunnableLambda(lambda query: RERANKER.compress_documents(CORPUS.values(), query)), {}),
        (
            RunnableLambda(lambda query: RERANKER.compress_documents(CORPUS.values(), query)),
            {"id_key": "source"},
        ),
        (OWN_FIRST, {}),
        (OWN_FIRST, {"dataset": replace(COUNTER, corpus=None)}),
    ],
)
def test_a_query_that_is_a_document_is_left_out_of_its_results(system, settings):
    result, report = only(system, **{"dataset": COUNTER, **settings})

    assert result.summaries["nDCG@10"].mean == 1
    assert all(query not in found for query, found in result.candidates.items())
    assert all(query != one.id for query, found in result.rankings.items() for one in found)
    assert OWN in report.notes[0]


@pytest.mark.parametrize(
    ("own_text", "grade", "kept"),
    [
        ("Zoos  protect\nendangered animals", 0, False),
        ("On zoos: zoos protect endangered animals", 0, False),
        ("zoos protect endangered animals", 1, True),
        ("another document of that number", 0, True),
        ("", 0, True),
    ],
)
def test_only_the_query_itself_is_left_out(own_text, grade, kept):
    corpus = {"b1": Document(own_text, id="b1"), "b2": CORPUS["b2"]}
    dataset = Dataset({"b1": QUERIES["b1"]}, {"b1": {"b2": 1, "b1": grade}}, corpus)

    result, report = only({"b1": {"b1": 2.0, "b2": 1.0}}, dataset)

    assert ("b1" in result.candidates["b1"]) == kept
    assert any(OWN in note for note in report.notes) != kept


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
    assert round(report.systems["BM25"].summaries["nDCG@10"].mean, 4) == 0.4796
    summary = report.systems["reranked"].summaries["nDCG@10"]
    assert summary.mean >= 0.665
    assert summary.difference_interval.low > 0.1
    assert "reranked helps: nDCG@10 +" in report.to_markdown()
