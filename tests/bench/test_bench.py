"""The bench: its inputs, its arithmetic, and whole runs in processes of their own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import typer
from typer.testing import CliRunner

from langchain_rerank import TorchCrossEncoder
from langchain_rerank.cli.common import console
from langchain_rerank.evaluation import load_beir
from tests.bench.__main__ import bench
from tests.bench.inputs import dataset_queries, python_queries
from tests.bench.measure import (
    SystemFailedError,
    Timing,
    ask,
    paired_ratio,
    score,
    start_process,
    top_overlap,
)
from tests.bench.systems import SYSTEMS, Weights

if TYPE_CHECKING:
    from pathlib import Path

app = typer.Typer()
app.command()(bench)
ANSWER = "Berlin had a population of 3,520,031 registered inhabitants."
PAIRS = [
    ("How many people live in Berlin?", text) for text in (ANSWER, "The dog sleeps.", "Berlin")
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One question with twelve passages, of which BM25 is to have put the answer last."""
    others = [f"Berlin is well known for its museum number {number}." for number in range(11)]
    lines = [json.dumps({"_id": f"d{n}", "text": text}) for n, text in enumerate([ANSWER, *others])]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    (tmp_path / "queries.jsonl").write_text(json.dumps({"_id": "1", "text": PAIRS[0][0]}))
    for folder in ("qrels", "runs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\td0\t1\n")
    run = [f"1 Q0 d{(n + 1) % 12} {n} {20 - n} x" for n in range(12)]
    (tmp_path / "runs" / "bm25.trec").write_text("\n".join(run))
    return tmp_path


def test_python_queries_are_the_same_every_time_and_differ_in_passages():
    first, second = python_queries(2, 50)
    assert len(set(first)) == len(set(second)) == 50
    assert len({query for query, _ in first + second}) == 2
    assert {passage for _, passage in first} != {passage for _, passage in second}
    assert python_queries(2, 50) == [first, second]


def test_a_data_set_gives_the_best_of_its_run_that_the_corpus_has(folder):
    dataset = load_beir(folder, partial_corpus=True)
    run = {"1": {"unknown": 3.0, "d3": 2.0, "d0": 1.0}}
    (pairs,) = dataset_queries(dataset, run, 5, 2)
    assert pairs == [(PAIRS[0][0], dataset.corpus[key].page_content) for key in ("d3", "d0")]
    for wrong, said in (("1", "no document of the corpus for"), ("2", "none of the 1 judged")):
        with pytest.raises(ValueError, match=said):
            dataset_queries(dataset, {wrong: {"unknown": 1.0}}, 5, 2)


def test_ratios_are_taken_pair_by_pair_and_overlap_counts_the_references_best():
    # The machine was ten times slower in the second round: the ratio of each round is 2.
    assert paired_ratio(Timing(0.0, [2, 20, 2]), Timing(0.0, [1, 10, 1])) == 2
    reference = [[5.0, 4.0, 3.0, 2.0], [1.0, 2.0, 3.0, 4.0]]
    scores = [[9.0, 1.0, 8.0, 0.0], [0.0, 0.0, 7.0, 8.0]]
    assert top_overlap(scores, reference, depth=2) == 0.75
    assert top_overlap(reference, reference) == 1


@pytest.mark.integration
def test_a_system_scores_as_the_cross_encoder_does_until_it_dies(tiny_checkpoint):
    expected = TorchCrossEncoder(model=tiny_checkpoint, device="cpu").score(PAIRS)
    process, cold_start_s = start_process("torch", Weights(tiny_checkpoint), PAIRS[:1])
    with process:
        seconds, scores, _ = ask(process, score, PAIRS)
        assert scores == pytest.approx(expected, abs=1e-5)
        assert 0 < seconds < cold_start_s
        next(iter(process._processes.values())).kill()
        with pytest.raises(SystemFailedError, match="sudden end"):
            ask(process, score, PAIRS)


@pytest.mark.integration
def test_a_run_gives_a_row_a_system_and_every_figure(folder, tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(console, "_width", 200)
    file = folder / "bench.json"
    options = ["--data", folder, "--model", tiny_checkpoint, "--rounds", 2, "--graph", folder]
    (folder / "empty.onnx").touch()
    only = [f"--only={key}" for key in ("torch", "huggingface", "onnx-given")]
    done = CliRunner().invoke(app, [*map(str, options), *only, "--json", str(file), "--markdown"])
    assert done.exit_code == 0, done.output
    assert "| system | s/query | pairs/s |" in done.output
    report = json.loads(file.read_text(encoding="utf-8"))
    assert set(report["systems"]) == {"torch", "huggingface"}
    for key, row in report["systems"].items():
        assert f"| {SYSTEMS[key].name} | {row['median_s']:.3f} |" in done.output
        assert len(row["seconds"]) == 2
        assert row["top_10_overlap"] == 1
    assert "ModelLoadError" in report["left_out"]["onnx-given"]
    assert f"| {SYSTEMS['onnx-given'].name} | left out, see below |" in done.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--only", "nobody"], "expected systems out of onnx, "),
        (["--only", "flashrank"], "got flashrank"),
        (["--data", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--json", "/nowhere/at/all.json"], "expected a folder to write all.json to"),
        (["--model", "random:huge"], "expected a shape out of ettin-reranker-17m, "),
        (["--model", "/nowhere/at/all", "--only=torch"], "no system could score: "),
    ],
)
def test_user_errors_end_in_one_line_and_status_2(options, said):
    done = CliRunner().invoke(app, ["--model", "any", *options])
    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.output
