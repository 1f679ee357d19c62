"""Data that other collections hold: the query in the corpus, odd ids and grades, odd lines."""

from __future__ import annotations

import math

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_rerank import Reranker
from langchain_rerank.evaluation import (
    Dataset,
    Report,
    RerankedRun,
    evaluate,
    load_beir,
    read_run,
    sweep,
    write_run,
)
from tests.fakes import WordOverlapCrossEncoder

ARGUMENTS = {
    "a1": "school uniforms improve discipline in class",
    "a2": "uniforms do not improve discipline",
    "b1": "zoos protect endangered animals",
    "b2": "zoos harm wild animals",
}
CORPUS = {key: Document(text, id=key) for key, text in ARGUMENTS.items()}
QUERIES = {key: ARGUMENTS[key] for key in ("a1", "b1")}
COUNTER = Dataset(QUERIES, {"a1": {"a2": 1}, "b1": {"b2": 1}}, CORPUS)
RUN = {query: {key: 1 - n / 10 for n, key in enumerate(CORPUS)} for query in QUERIES}
RERANKER = Reranker(model=WordOverlapCrossEncoder())
OWN = "own document is left out"


def measured(system, dataset=COUNTER, measure="nDCG@10"):
    report = evaluate({"it": system}, dataset, [measure], show_progress=False)
    return report.systems["it"].summaries[measure].mean, report


@pytest.mark.parametrize(
    "system",
    [
        RerankedRun(RUN, RERANKER, fetch_k=3),
        RunnableLambda(lambda query: RERANKER.compress_documents(CORPUS.values(), query)),
        # The run puts a query's own document first, then the one that argues against it.
        {"a1": {"a1": 2.0, "a2": 1.0}, "b1": {"b1": 2.0, "b2": 1.0}},
    ],
)
def test_a_query_that_is_a_document_is_left_out_of_its_results(system):
    mean, report = measured(system)
    result = report.systems["it"]

    assert mean == 1
    assert all(query not in found for query, found in result.candidates.items())
    assert all(query != one.id for query, found in result.rankings.items() for one in found)
    assert OWN in report.notes[0]


def test_a_sweep_leaves_it_out_as_well():
    store = InMemoryVectorStore.from_documents(
        [*CORPUS.values()], DeterministicFakeEmbedding(size=4)
    )
    for source in (RUN, store):
        found = sweep(
            source, COUNTER, models={"it": RERANKER}, fetch_k=[4], k=4, show_progress=False
        )
        assert found.trials[0].mean == 1
        assert OWN in found.notes[0]


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

    _, report = measured({"b1": {"b1": 2.0, "b2": 1.0}}, dataset)

    assert ("b1" in report.systems["it"].candidates["b1"]) == kept
    assert any(OWN in note for note in report.notes) != kept


def test_chunks_of_the_query_are_left_out_and_a_run_without_texts_goes_by_ids():
    chunks = [Document(ARGUMENTS[key], id=f"{key}#0", metadata={"source": key}) for key in CORPUS]
    report = evaluate(
        {"it": RunnableLambda(lambda query: chunks)},
        COUNTER,
        ["RR"],
        id_key="source",
        show_progress=False,
    )
    assert all(query not in found for query, found in report.systems["it"].candidates.items())
    bare = Dataset(COUNTER.queries, COUNTER.qrels)
    assert measured({"a1": {"a1": 2.0, "a2": 1.0}, "b1": {"b2": 1.0}}, bare)[0] == 1


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
        found, report = measured(run, dataset, measure)
        assert found == mean
    back = Report.from_json(report.to_json())
    assert report.to_json().encode()
    assert back.to_json() == report.to_json()
    assert len(report.per_query()) == len(qrels)
    assert "it" in report.to_markdown()


def test_names_with_lone_surrogates_are_written_apart():
    good, bad = "a\ud800", "a\ud801"
    dataset = Dataset({"q": "who?"}, {"q": {good: 1, bad: 0}}, name="\ud800")
    run = {"q": {bad: 2.0, good: 1.0}}
    report = evaluate({"\ud800 run": run, "other": {}}, dataset, ["RR"], show_progress=False)

    back = Report.from_json(report.to_json())

    assert list(back.qrels["q"]) == [r"a\ud800", r"a\ud801"]
    assert back.systems[r"\ud800 run"].summaries == report.systems["\ud800 run"].summaries
    assert report.to_dataframe().index[0] == r"\ud800 run"
    assert report.worst_queries()["document_id"].tolist() == [r"a\ud801", r"a\ud800"]
    assert report._repr_html_().encode()
    with pytest.raises(ValueError, match="document id of one word of UTF-8"):
        write_run("unused.trec", report.systems["\ud800 run"].run())


@pytest.mark.parametrize("grade", [2**62, 2**32 + 1, -(2**40), 1_000_001, 2**70])
def test_grades_beyond_all_measure_are_refused(grade):
    with pytest.raises(ValueError, match=r"'d' for query 'q' must be .*at most 1,000,000"):
        Dataset({"q": "who?"}, {"q": {"d": grade}})
    dataset = Dataset({"q": "who?"}, {"q": {"d": 1}})
    for settings in ({"min_relevance": abs(grade)}, {"measures": [f"P(rel={2**62})@5"]}):
        with pytest.raises(ValueError, match="min_relevance must be an int"):
            evaluate({"it": {}}, dataset, **settings)


def beir(folder, qrels="q1\td1\t1\n", corpus='{"_id": "d1", "text": "one"}\n'):
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text(qrels)
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "question"}\n')
    (folder / "corpus.jsonl").write_text(corpus + '{"_id": "d2", "text": "two"}\n')
    return folder


@pytest.mark.parametrize(
    "qrels",
    [
        "q1\tQ0\td1\t1\t\nq1\tQ0\td2\t0\t\t\n",
        "query-id\tcorpus-id\tscore\t\nq1\td1\t1\t\nq1\td2\t0\n",
        "q1\td1\t1\nq1\td2\t0\nq1\td1\t1\n",
        "q1 0 d1 1  \r\nq1 0 d2 0 \t\r\n",
        "q1\td1\t 1 \nq1\td2\t+0\n",
    ],
)
def test_tabs_at_the_end_and_repeated_judgments_say_the_same(tmp_path, qrels):
    assert load_beir(beir(tmp_path, qrels)).qrels == {"q1": {"d1": 1, "d2": 0}}


@pytest.mark.parametrize(
    ("qrels", "said"),
    [
        ("q1\td1\t1\nq1\td2\t0\nq1\td1\t2\n", r"line 3: .*'d1' is judged twice.* 1 in .* 2 here"),
        ("q1\td1\t1\n\nq1\td1\t0\t\n", "line 3: .*judged twice"),
        ("q1\td1\t\n", "line 1: expected query id, document id and grade, got 2 columns"),
        ("q1\td1\t1\textra\tmore\n", "line 1: .*got 5 columns"),
        (f"q1\td1\t{2**62}\n", "line 1: grade of document 'd1' .*at most 1,000,000"),
        ("q1\td1\t" + "9" * 5000, "line 1: expected a whole number"),
    ],
)
def test_other_judgments_name_their_file_and_line(tmp_path, qrels, said):
    with pytest.raises(ValueError, match=rf"test\.tsv, {said}"):
        load_beir(beir(tmp_path, qrels))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"_id": 1.5, "text": "a"}', "expected a string in the field '_id', got float"),
        ("1.5", "expected a JSON object, got a float"),
        ("NaN", "expected a JSON object, got a float"),
        (r'{"_id": "d\u0000", "text": "a"}', "an id without NUL and lone surrogates, got 'd.x00'"),
        (r'{"_id": "d\ud800", "text": "a"}', "an id without NUL and lone surrogates"),
        ('{"_id": "d\0", "text": "a"}', "expected a JSON object"),
        ('{"_id": "d", "text": ' + "[" * 100_000 + "]" * 100_000 + "}", "expected a JSON object"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "expected a JSON object"),
        ('{"_id": "d", "text": ' + "9" * 5000 + "}", "expected a JSON object"),
    ],
)
def test_odd_json_names_its_file_and_line(tmp_path, line, said):
    folder = beir(tmp_path, corpus='{"_id": "d1", "text": "one"}\n' + line + "\n")
    with pytest.raises(ValueError, match=rf"corpus\.jsonl, line 2: .*{said}"):
        load_beir(folder)


def test_a_run_of_odd_bytes_names_its_line(tmp_path):
    path = tmp_path / "run.trec"
    for line in (b"q Q0 \xed\xa0\x80 1 1.0 t", b"q Q0 d 1 \0 t", b"q Q0 d 1 1_.0 t"):
        path.write_bytes(b"q Q0 first 1 2.0 t\n" + line)
        with pytest.raises(ValueError, match=r"run\.trec, line 2: expected"):
            read_run(path)
    path.write_text("q Q0 x\0a 1 2.0 t\nq Q0 x\0b 2 inf t\n")
    assert read_run(path)["q"] == {"x\0b": math.inf, "x\0a": 2.0}
