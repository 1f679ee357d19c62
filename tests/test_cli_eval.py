"""`langchain-rerank eval` as a user types it, on a tiny data set."""

from __future__ import annotations

import json
import logging
import os
import re
import sys

import pytest
from typer.testing import CliRunner

from langchain_rerank.cache import cache_dir
from langchain_rerank.cli import app
from langchain_rerank.cli.console import console
from langchain_rerank.evaluation import Report, load_beir, read_run

pytestmark = pytest.mark.integration

CORPUS = {
    "museums": ("Berlin", "Berlin is well known for its museums."),
    "people": ("Berlin", "Berlin had a population of 3,520,031 registered inhabitants."),
    "soup": ("", "Soup is eaten warm or cold."),
    "tower": ("Eiffel Tower", "It is 330 metres high and stands in Paris."),
    "wine": ("", "Wine is made of grapes."),
}
QUERIES = {
    "1": "How many people live in Berlin?",
    "2": "How tall is the Eiffel Tower?",
    "3": "What is wine made of?",
}
QRELS = {"1": {"people": 2, "museums": 1}, "2": {"tower": 1}, "3": {"wine": 1, "soup": 0}}
# The first stage has each relevant passage low, but for the third query.
RUN = {
    "1": ["museums", "soup", "people"],
    "2": ["wine", "soup", "tower"],
    "3": ["wine", "soup", "museums"],
}


@pytest.fixture
def folder(tmp_path):
    """A data set in BEIR's layout, with a run of a first stage."""
    made = tmp_path / "tiny"
    (made / "qrels").mkdir(parents=True)
    corpus = [{"_id": k, "title": title, "text": text} for k, (title, text) in CORPUS.items()]
    queries = [{"_id": key, "text": text} for key, text in QUERIES.items()]
    for name, records in (("corpus", corpus), ("queries", queries)):
        lines = "".join(f"{json.dumps(record)}\n" for record in records)
        (made / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    write_qrels(made / "qrels" / "test.tsv", QRELS)
    lines = [
        f"{query} Q0 {one} {rank} {10 - rank} bm25\n"
        for query, ids in RUN.items()
        for rank, one in enumerate(ids, start=1)
    ]
    (made / "bm25.trec").write_text("".join(lines), encoding="utf-8")
    return made


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache with the models of the user's, and no index."""
    made = tmp_path / "cache"
    made.mkdir()
    for path in cache_dir().iterdir() if cache_dir().is_dir() else ():
        if path.is_dir() and path.name != "chroma":
            (made / path.name).symlink_to(path)
    monkeypatch.setenv("LANGCHAIN_RERANK_CACHE", str(made))


def write_qrels(path, qrels):
    lines = [
        f"{q}\t{one}\t{grade}\n" for q, grades in qrels.items() for one, grade in grades.items()
    ]
    path.write_text("query-id\tcorpus-id\tscore\n" + "".join(lines), encoding="utf-8")


@pytest.fixture
def run_eval(monkeypatch):
    """Runs the command in this process, which stays as it was."""
    for variable in ("HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(variable, os.environ.get(variable, "1"))
    monkeypatch.setattr(console, "_width", 250)

    def invoke(*arguments):
        given = ["eval", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", ["langchain-rerank", *given])
        return CliRunner().invoke(app, given)

    yield invoke
    logging.getLogger("langchain_rerank.evaluation").setLevel(logging.NOTSET)


def measured(path, qrels, measure="nDCG@10"):
    """Measure a TREC file by ir_measures alone."""
    import ir_measures

    run = ir_measures.read_trec_run(str(path))
    parsed = ir_measures.nDCG @ 10 if measure == "nDCG@10" else ir_measures.RR(rel=2) @ 10
    return ir_measures.calc_aggregate([parsed], qrels, run)[parsed]


def printed(output, system):
    """Return the first mean in the row of a system of the table of quality."""
    quality = output.split("Quality")[1]
    return re.search(rf"│ {system}\s*│\s*(\d\.\d+)", quality)[1]


def test_run_is_reranked_and_the_files_hold_what_was_printed(folder, tmp_path, run_eval):
    output = tmp_path / "new" / "report"

    done = run_eval(
        folder, "--run", folder / "bm25.trec", "--output", output, "--sweep", "--model", "offline"
    )

    assert done.exit_code == 0, done.output
    assert printed(done.stdout, "bm25") == f"{measured(folder / 'bm25.trec', QRELS):.4f}"
    assert printed(done.stdout, "bm25") == f"{measured(output / 'before.trec', QRELS):.4f}"
    assert printed(done.stdout, "reranked") == f"{measured(output / 'after.trec', QRELS):.4f}"
    assert measured(output / "after.trec", QRELS) == 1
    after = read_run(output / "after.trec")
    assert [next(iter(after[query])) for query in QUERIES] == ["people", "tower", "wine"]
    assert sorted(after["1"]) == sorted(RUN["1"])
    report = Report.from_json((output / "report.json").read_text(encoding="utf-8"))
    assert list(report.systems) == ["bm25", "reranked"]
    assert f"{report.systems['reranked'].summaries['nDCG@10'].mean:.4f}" == "1.0000"
    markdown = (output / "report.md").read_text(encoding="utf-8")
    assert report.to_markdown() in markdown
    assert "eval " in markdown.splitlines()[0]
    assert "Difference to bm25" in done.stdout
    assert re.search(r"p = 0\.\d{3}", done.stdout)
    assert "reranking p50 ms" in done.stdout
    assert "No query lost in nDCG@10." in done.stdout
    sentence = r"Rerank 10 candidates with the offline reranker \(torch\).*?1\.0000"
    recommended = re.search(sentence, done.stdout)
    assert recommended, done.stdout
    assert recommended[0] in (output / "sweep.md").read_text(encoding="utf-8")
    for name in ("measures", "differences", "scores", "tradeoff"):
        assert (output / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert not [path for path in output.iterdir() if path.name.startswith(".")]


def test_dense_first_stage_by_default_and_titles_are_read(folder, run_eval):
    done = run_eval(folder, "--fetch-k", "2", "--backend", "onnx", "--measures", "RR@10 Success@1")

    assert done.exit_code == 0, done.output
    assert re.search(r"│ dense\s*│", done.stdout)
    # Only its title says which tower it is.
    assert printed(done.stdout, "reranked") == "1.0000"
    assert "Success@1" in done.stdout
    assert "retrieval p50 ms" in done.stdout


def test_query_that_lost_is_shown_with_what_moved(folder, run_eval):
    worse = {**QRELS, "2": {"wine": 1}}
    write_qrels(folder / "qrels" / "odd.tsv", worse)

    done = run_eval(folder, "--qrels", "odd", "--run", folder / "bm25.trec", "--backend", "onnx")

    assert done.exit_code == 0, done.output
    worst = done.stdout.split("Queries that lost most in nDCG@10")[1]
    assert "How tall is the Eiffel Tower?" in worst
    assert re.search(r"│\s+3 │\s+1 │\s+– │ Eiffel Tower It is 330 metres high", worst)
    assert re.search(r"│\s+1 │\s+[23] │\s+1 │ Wine is made of grapes.", worst)
    assert "What is wine made of?" not in worst


def test_run_of_odd_name_and_texts_that_no_file_can_hold(folder, tmp_path, run_eval):
    queries = [{"_id": key, "text": f"{text} \ud800"} for key, text in QUERIES.items()]
    lines = "".join(f"{json.dumps(query)}\n" for query in queries)
    (folder / "queries.jsonl").write_text(lines, encoding="utf-8")
    write_qrels(folder / "qrels" / "test.tsv", {**QRELS, "2": {"wine": 1}})
    output = tmp_path / "report"
    output.mkdir()
    (output / "notes.txt").write_text("mine", encoding="utf-8")
    run = (folder / "bm25.trec").rename(folder / "bm25[k1=0.9].trec")

    done = run_eval(folder, "--run", run, "--backend", "onnx", "--output", output)

    assert done.exit_code == 0, done.output
    assert "Difference to bm25[k1=0.9]" in done.stdout
    assert "How tall is the Eiffel Tower? \ufffd" in done.stdout
    report = Report.from_json((output / "report.json").read_text(encoding="utf-8"))
    assert report.queries["2"] == "How tall is the Eiffel Tower? \ufffd"
    [written] = [line for line in done.stdout.splitlines() if line.startswith("In ")]
    named = {name.strip() for name in written.split(":")[1].split(",")}
    assert named == {path.name for path in output.iterdir()} - {"notes.txt"}


def test_run_named_like_its_reranking_without_any_of_the_queries(folder, tmp_path, run_eval):
    run = folder / "reranked.trec"
    run.write_text("elsewhere Q0 soup 1 1.0 tag\n", encoding="utf-8")

    done = run_eval(folder, "--run", run, "--backend", "onnx", "--output", tmp_path / "report")

    assert done.exit_code == 0, done.output
    assert printed(done.stdout, r"reranked \(run\)") == printed(done.stdout, "reranked") == "0.0000"
    assert not (tmp_path / "report" / "scores.png").exists()
    assert (tmp_path / "report" / "tradeoff.png").exists()


def test_grade_that_counts_and_judgments_outside_the_corpus(folder, run_eval):
    write_qrels(folder / "qrels" / "full.tsv", {**QRELS, "3": {"wine": 2, "elsewhere": 2}})
    arguments = (folder, "--qrels", "full", "--backend", "onnx", "--measures", "RR@10")

    done = run_eval(*arguments, "--run", folder / "bm25.trec", "--min-relevance", "2")

    assert done.exit_code == 0, done.output
    qrels = load_beir(folder, "full", partial_corpus=True).qrels
    expected = measured(folder / "bm25.trec", dict(qrels), "RR")
    assert printed(done.stdout, "bm25") == f"{expected:.4f}"
    assert "1 of the 5 documents judged above 0 are not in the corpus" in done.stdout

    done = run_eval(*arguments)

    assert done.exit_code == 2
    assert "full.tsv, line 6: names the document 'elsewhere'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/nowhere/at/all"], "there is no folder /nowhere/at/all"),
        (["/nowhere/at/all", "--qrels", "full"], "there is no folder /nowhere/at/all"),
        (["{folder}", "--qrels", "dev"], "there are: test"),
        (["{folder}", "--run", "{folder}/none.trec"], "none.trec"),
        (["{folder}", "--run", "{folder}/queries.jsonl"], "queries.jsonl, line 1: expected the 6"),
        (["{folder}", "--measures", "nDGC@10"], "unknown measure 'nDGC@10'"),
        (["{folder}", "--measures", " "], "at least one measure"),
        (["{folder}", "--model", "/nowhere/at/all"], "could not load '/nowhere/at/all'"),
        (["{folder}", "--output", "{folder}/corpus.jsonl"], "folder to write to"),
    ],
)
def test_user_errors_end_in_one_line_and_status_2(folder, run_eval, arguments, said):
    done = run_eval(*(argument.format(folder=folder) for argument in arguments))

    assert done.exit_code == 2
    assert "Traceback" not in done.stderr + done.stdout
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert said in errors[0]
    assert done.stderr.strip().endswith(errors[0])
