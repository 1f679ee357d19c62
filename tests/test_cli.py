"""The commands as a user types them, in this process."""

from __future__ import annotations

import logging
import os
import re
import sys
from dataclasses import replace
from pydoc_data.topics import topics

import ir_measures
import pytest
from langchain_core.documents import Document
from typer.testing import CliRunner

from langchain_rerank import OnnxCrossEncoder, TorchCrossEncoder
from langchain_rerank.cli import app
from langchain_rerank.cli.common import build_cross_encoder, console
from langchain_rerank.evaluation import Dataset, Report, read_run, write_beir, write_run
from langchain_rerank.evaluation.measures import run_of
from langchain_rerank.files import cache_dir
from langchain_rerank.offline import offline_reranker
from langchain_rerank.server.app import API_KEYS_VARIABLE, read_api_keys

pytestmark = pytest.mark.integration

QUESTION = "What happens if no except clause matches?"
QUERIES = (
    "How many people live in Berlin?",
    "How tall is the Eiffel Tower?",
    "What is wine made of?",
)
QRELS = ({"people": 2, "museums": 1}, {"tower": 1}, {"wine": 1, "soup": 0})
TITLES = {"people": "Berlin", "museums": "Berlin", "tower": "Eiffel Tower"}
TEXTS = {
    "museums": "Berlin is well known for its museums.",
    "people": "Berlin had a population of 3,520,031 registered inhabitants.",
    "soup": "Soup is eaten warm or cold.",
    "tower": "It is 330 metres high and stands in Paris.",
    "wine": "Wine is made of grapes.",
}
DOCUMENTS = [
    Document(text, id=key, metadata={"title": TITLES.get(key)}) for key, text in TEXTS.items()
]
DATASET = Dataset.from_questions(list(zip(QUERIES, QRELS, strict=True)), DOCUMENTS)
# The first stage has each relevant passage low, but for the third query.
RANKINGS = ("museums soup people", "wine soup tower", "wine soup museums")
RUN = run_of({str(n): one.split() for n, one in enumerate(RANKINGS, start=1)})


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a command with the user's models and no index; this process stays as it was."""
    cache = tmp_path / "cache"
    cache.mkdir()
    for path in cache_dir().iterdir() if cache_dir().is_dir() else ():
        if path.is_dir() and path.name != "chroma":
            (cache / path.name).symlink_to(path)
    monkeypatch.setenv("LANGCHAIN_RERANK_CACHE", str(cache))
    for variable in ("HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(variable, os.environ.get(variable, "1"))
    monkeypatch.setattr(console, "_width", 250)

    def invoke(*arguments, **environment):
        given = list(map(str, arguments))
        monkeypatch.setattr(sys, "argv", ["langchain-rerank", *given])
        return CliRunner().invoke(app, given, env=environment)

    yield invoke
    logging.getLogger("langchain_rerank.evaluation").setLevel(logging.NOTSET)


def assert_one_line_error(done, said):
    assert done.exit_code == 2
    assert "Traceback" not in done.output
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert said in errors[0]
    assert done.stderr.strip().endswith(errors[0])


def test_demo_shows_what_moved_the_answer_and_the_time_of_each_stage(run, tmp_path):
    (tmp_path / "docs").mkdir()
    for name in ("try", "raise", "break"):
        (tmp_path / "docs" / f"{name}.txt").write_text(topics[name], encoding="utf-8")
    arguments = ("demo", QUESTION, "--docs", tmp_path / "docs", "--backend", "onnx")
    done = run(*arguments, "--llm", "offline", "--k", 3)
    assert done.exit_code == 0, done.output
    answer = done.stdout.split("Answer, by offline:")[1].split("\n\n")[0]
    assert len(answer.split()) > 5

    done = run(*arguments)
    assert done.exit_code == 0, done.output
    rows = re.findall(r"│ (\d+) +│ (\d+) +│ ([01]\.\d+) │ (\S+) +│ (.*?) *│\n", done.stdout)
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "5"]
    assert (rows[0][3], rows[0][4][:30]) == ("try.txt", 'If no "except" clause matches ')
    assert any(row[0] != row[1] for row in rows), "reranking was to move some"
    assert len({row[4] for row in rows}) == 5
    squeezed = " ".join(done.stdout.split())
    assert "quoted by the extractive reader (no --llm given)" in squeezed
    assert '[1] try.txt: If no "except" clause' in squeezed
    assert re.search(r"retrieval [\d,]+ ms · reranking [\d,]+ ms · answer [\d,]+ ms", squeezed)


def test_demo_indexes_a_folder_anew_once_it_changes(run, tmp_path):
    file = tmp_path / "docs" / "cities.md"
    file.parent.mkdir()
    for people in ("3,520,031", "4 million"):
        file.write_text(f"Berlin has {people} people.\n", encoding="utf-8")
        done = run("demo", QUERIES[0], "--docs", file.parent, "--backend", "onnx")
        assert f"Berlin has {people} people. [1]" in done.stdout
        assert done.stdout.count("Berlin has") == done.stdout.count(people)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demo", " "], "query must hold text"),
        (["demo", "--k", "0"], "k must be > 0, got 0"),
        (["demo", "--k", "9", "--fetch-k", "3"], "fetch_k must be at least k"),
        (["demo", "--docs", "/nowhere/at/all"], "expected a folder of documents"),
        (["demo", "--model", "/nowhere/at/all"], "could not load '/nowhere/at/all'"),
        (["demo", "--llm", "nobody:nothing"], "nobody"),
        (["demo", "--llm", "openai:gpt-4.1"], "api_key"),
        (["bulk", "/nowhere.jsonl", "out"], "expected an input file or a folder of"),
        (["serve", "--api-key-file", "{folder}/none"], "{folder}/none"),
        (["serve", "--model", "/nowhere/at/all", "--port", "0"], "/nowhere/at/all"),
        (["serve", "--model", "any", "--host", "203.0.113.1"], "assign requested address"),
        (["eval", "/nowhere/at/all"], "there is no folder /nowhere/at/all"),
        (["eval", "/nowhere/at/all", "--qrels", "full"], "expected judgments in /nowhere/at/all"),
        (["eval", "{folder}", "--qrels", "dev"], "there are: test"),
        (["eval", "{folder}", "--run", "{folder}/none.trec"], "none.trec"),
        (["eval", "{folder}", "--run", "{folder}/queries.jsonl"], "queries.jsonl, line 1"),
        (["eval", "{folder}", "--measures", "nDGC@10"], "unknown measure 'nDGC@10'"),
        (["eval", "{folder}", "--measures", " "], "at least one measure"),
        (["eval", "{folder}", "--model", "/nowhere/at/all"], "could not load '/nowhere/at/all'"),
        (["eval", "{folder}", "--output", "{folder}/corpus.jsonl"], "{folder}/corpus.jsonl"),
    ],
)
def test_user_errors_end_in_one_line_and_status_2(folder, run, monkeypatch, arguments, said):
    monkeypatch.chdir(folder)
    done = run(*(one.format(folder=folder) for one in arguments), OPENAI_API_KEY="")
    assert_one_line_error(done, said.format(folder=folder))


def test_unwritable_cache_ends_in_one_line(folder, run):
    done = run("demo", LANGCHAIN_RERANK_CACHE=str(folder / "corpus.jsonl"))
    assert_one_line_error(done, "LANGCHAIN_RERANK_CACHE")


@pytest.mark.parametrize(
    ("backend", "kind"), [("torch", TorchCrossEncoder), ("onnx", OnnxCrossEncoder)]
)
def test_a_models_name_means_one_thing(monkeypatch, backend, kind):
    # Set first, so that whatever it is in the end is undone.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert build_cross_encoder("some/name", backend) == kind(model="some/name")
    assert "HF_HUB_OFFLINE" not in os.environ, "a named model may come from the hub"
    assert build_cross_encoder("offline", backend) == kind(model=offline_reranker())
    assert os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize("command", ["demo", "eval", "serve", "bulk", "ui"])
def test_every_command_takes_the_same_models(command):
    said = " ".join(CliRunner().invoke(app, [command, "--help"]).stdout.replace("│", "").split())
    assert "Reranker: a hub name, a folder, or 'offline'" in said
    assert "'onnx': in int8, faster on a CPU" in said


def test_api_keys_come_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv(API_KEYS_VARIABLE, " one, two,,")
    assert read_api_keys(None) == ["one", "two"]
    file = tmp_path / "keys"
    file.write_text("three\n\n four \n", encoding="utf-8")
    assert read_api_keys(file) == ["three", "four"]
    file.write_text("\n", encoding="utf-8")
    with pytest.raises(ValueError, match="expected an API key a line"):
        read_api_keys(file)


@pytest.fixture
def folder(tmp_path):
    """A data set in BEIR's layout, with a run of a first stage."""
    made = tmp_path / "tiny"
    write_beir(DATASET, made)
    write_run(made / "bm25.trec", RUN)
    return made


def measured(path, qrels, measure="nDCG@10"):
    """Measure a TREC file by ir_measures alone."""
    parsed = ir_measures.parse_measure(measure)
    run = ir_measures.read_trec_run(str(path))
    return f"{ir_measures.calc_aggregate([parsed], qrels, run)[parsed]:.4f}"


def printed(output, system):
    """Return the first mean in the row of a system of the table of quality."""
    quality = output.split("Quality")[1]
    return re.search(rf"^ *{system} +(\d\.\d+)", quality, re.MULTILINE)[1]


def test_eval_reranks_a_run_and_the_files_hold_what_was_printed(folder, tmp_path, run):
    output = tmp_path / "new" / "report"
    bm25 = folder / "bm25.trec"
    done = run("eval", folder, "--run", bm25, "--output", output, "--sweep", "--model", "offline")
    assert done.exit_code == 0, done.output
    before, after = output / "before.trec", output / "after.trec"
    qrels = DATASET.qrels
    assert printed(done.stdout, "bm25") == measured(bm25, qrels) == measured(before, qrels)
    assert printed(done.stdout, "reranked") == measured(after, qrels) == "1.0000"
    reranked = read_run(after)
    assert [next(iter(found)) for found in reranked.values()] == ["people", "tower", "wine"]
    assert sorted(reranked["1"]) == sorted(RUN["1"])
    report = Report.from_json((output / "report.json").read_text(encoding="utf-8"))
    assert list(report.systems) == ["bm25", "reranked"]
    markdown = (output / "report.md").read_text(encoding="utf-8")
    assert report.to_markdown() in markdown
    assert markdown.startswith("`langchain-rerank eval ")
    for said in ("Difference to bm25", "p = 0.", "reranking p50 ms", "No query lost in nDCG@10."):
        assert said in done.stdout
    sentence = "Take 10 candidates reranked by the offline reranker (torch)"
    assert sentence in done.stdout
    assert sentence in markdown
    for name in ("measures", "differences", "scores", "tradeoff"):
        assert (output / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert not [path for path in output.iterdir() if path.name.startswith(".")]


def test_eval_takes_a_dense_first_stage_by_default_and_reads_titles(folder, run):
    measures = ("--measures", "RR@10 Success@1")
    done = run("eval", folder, "--fetch-k", 2, "--backend", "onnx", *measures)
    assert done.exit_code == 0, done.output
    # Only its title says which tower it is.
    assert printed(done.stdout, "reranked") == "1.0000"
    for said in (r"^ *dense ", "Success@1", "retrieval p50 ms"):
        assert re.search(said, done.stdout, re.MULTILINE)


def test_eval_of_a_worse_query_an_odd_name_and_texts_that_no_file_can_hold(folder, tmp_path, run):
    odd = {key: text + " \ud800" for key, text in DATASET.queries.items()}
    qrels = {**DATASET.qrels, "2": {"wine": 1}}
    write_beir(replace(DATASET, queries=odd, qrels=qrels), folder, "odd")
    output = tmp_path / "report"
    given = (folder / "bm25.trec").rename(folder / "bm25[k1=0.9].trec")
    options = ("--qrels", "odd", "--backend", "onnx", "--output", output)
    done = run("eval", folder, "--run", given, *options)
    assert done.exit_code == 0, done.output
    assert "Difference to bm25[k1=0.9]" in done.stdout
    worst = done.stdout.split("Queries that lost most in nDCG@10")[1]
    assert re.search(r"How tall is the Eiffel Tower\? \ufffd: \d\.\d+ → \d\.\d+", worst)
    assert re.search(r" 3 → 1, not judged: Eiffel Tower", worst)
    assert re.search(r" 1 → [23], grade 1: Wine is made of grapes", worst)
    assert QUERIES[2] not in worst
    report = Report.from_json((output / "report.json").read_text(encoding="utf-8"))
    assert report.queries["2"] == "How tall is the Eiffel Tower? \ufffd"
    [written] = [line for line in done.stdout.splitlines() if line.startswith("In ")]
    named = {name.strip() for name in written.split(":")[1].split(",")}
    assert named == {path.name for path in output.iterdir()}
    assert "worst_query.png" in named


def test_eval_of_a_run_named_like_its_reranking_without_any_of_the_queries(folder, tmp_path, run):
    given = folder / "reranked.trec"
    write_run(given, {"elsewhere": {"soup": 1.0}})
    done = run("eval", folder, "--run", given, "--backend", "onnx", "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert printed(done.stdout, "run") == printed(done.stdout, "reranked") == "0.0000"
    assert not (tmp_path / "out" / "scores.png").exists()


def test_eval_with_a_grade_that_counts_and_judgments_outside_the_corpus(folder, run):
    qrels = {**DATASET.qrels, "3": {"wine": 2, "elsewhere": 2}}
    write_beir(replace(DATASET, qrels=qrels, partial_corpus=True), folder, "full")
    arguments = ("eval", folder, "--qrels", "full", "--backend", "onnx", "--measures", "RR@10")
    done = run(*arguments, "--run", folder / "bm25.trec", "--min-relevance", 2)
    assert done.exit_code == 0, done.output
    assert printed(done.stdout, "bm25") == measured(folder / "bm25.trec", qrels, "RR(rel=2)@10")
    assert "1 of 5 relevant documents are not in the corpus" in done.stdout
    assert_one_line_error(run(*arguments), "full.tsv, line 6: query '3'")
