"""The bench: its inputs, its arithmetic, and whole runs in processes of their own."""

from __future__ import annotations

import json

import pytest
import typer
from langchain_core.documents import Document
from typer.testing import CliRunner

from langchain_rerank import TorchCrossEncoder
from langchain_rerank.cli.common import console
from langchain_rerank.evaluation import Dataset, write_beir, write_run
from tests.bench import inputs
from tests.bench.__main__ import bench
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

app = typer.Typer()
app.command()(bench)
ANSWER = "Berlin had a population of 3,520,031 registered inhabitants."
QUESTION = "How many people live in Berlin?"
PAIRS = [(QUESTION, text) for text in (ANSWER, "The dog sleeps.", "Berlin")]
OTHERS = [f"Berlin is well known for its museum number {number}." for number in range(11)]
DATASET = Dataset.from_questions(
    [(QUESTION, ["d0"])], [Document(one, id=f"d{n}") for n, one in enumerate([ANSWER, *OTHERS])]
)


def test_queries_of_the_python_reference_and_of_a_run_over_a_corpus():
    first, second = inputs.python_queries(2, 50)
    assert len(set(first)) == len(set(second)) == 50
    assert len({query for query, _ in first + second}) == 2
    assert {passage for _, passage in first} != {passage for _, passage in second}
    assert inputs.python_queries(2, 50) == [first, second]
    sizes = {tuple(len(one.split()) for one in pair) for pair in inputs.random_queries(2, 3)[1]}
    assert sizes == {(inputs.QUERY_TOKENS, inputs.PASSAGE_TOKENS)}
    run = {"1": {"unknown": 3.0, "d3": 2.0, "d0": 1.0}}
    [pairs] = inputs.dataset_queries(DATASET, run, 5, 2)
    assert pairs == [(QUESTION, DATASET.corpus[key].page_content) for key in ("d3", "d0")]
    for wrong, said in (("1", "no document of the corpus for"), ("2", "none of the 1 judged")):
        with pytest.raises(ValueError, match=said):
            inputs.dataset_queries(DATASET, {wrong: {"unknown": 1.0}}, 5, 2)


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
def test_a_run_gives_a_row_a_system_and_every_figure(tmp_path, tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(console, "_width", 200)
    write_beir(DATASET, tmp_path)
    (tmp_path / "runs").mkdir()
    write_run(tmp_path / "runs" / "bm25.trec", {"1": dict.fromkeys(DATASET.corpus, 1.0)})
    (tmp_path / "empty.onnx").touch()
    file = tmp_path / "bench.json"
    options = ["--data", tmp_path, "--model", tiny_checkpoint, "--rounds", 2, "--graph", tmp_path]
    only = [f"--only={key}" for key in ("torch", "onnx-given")]
    done = CliRunner().invoke(app, [*map(str, options), *only, "--json", str(file), "--markdown"])
    assert done.exit_code == 0, done.output
    report = json.loads(file.read_text(encoding="utf-8"))
    [(key, row)] = report["systems"].items()
    assert f"| {SYSTEMS[key].name} | {row['median_s']:.3f} | 100% |" in done.output
    assert (key, len(row["seconds"]), row["top_10_overlap"]) == ("torch", 2, 1)
    assert "ModelLoadError" in report["left_out"]["onnx-given"]
    assert f"left out: {SYSTEMS['onnx-given'].name} (ModelLoadError" in done.output


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
