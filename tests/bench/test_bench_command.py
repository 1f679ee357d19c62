"""`langchain-rerank bench` as a user types it, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

pytestmark = pytest.mark.integration

KEYS = ("onnx", "onnx-given", "torch", "flashrank", "huggingface", "flag")


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "langchain_rerank.cli", "bench", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
        timeout=300,
    )


def test_offline_run_prints_tables_and_writes_every_figure(tmp_path):
    file = tmp_path / "bench.json"
    done = bench(
        *("--queries", "1", "--candidates", "12", "--rounds", "2", "--json", str(file)),
        *(f"--only={key}" for key in KEYS),
    )
    assert done.returncode == 0, done.stderr
    for shown in ("langchain-rerank, ONNX int8", "times as fast as FlagReranker", "GFLOP/s"):
        assert shown in done.stdout
    assert "int8 ONNX against FlagReranker's default" in done.stdout
    (report,) = json.loads(file.read_text(encoding="utf-8"))
    assert report["settings"]["candidates"] == 12
    assert report["left_out"] == {}
    by_key = {row["key"]: row for row in report["systems"]}
    assert set(by_key) == set(KEYS)
    for row in by_key.values():
        assert len(row["seconds"]) == 2
        assert 0 < row["share_of_peak"] < 1.5
        assert row["top_10_overlap"] >= 0.9
    assert by_key["flag"]["top_10_overlap"] == 1
    assert by_key["flag"]["times_as_fast_as"]["flag"] == 1
    assert by_key["flashrank"]["times_as_fast_as"]["flashrank"] == 1
    assert report["command"].endswith(f"--only={KEYS[-1]}")


def test_data_set_with_judgments_gives_ndcg(tmp_path):
    texts = {
        "population": "Berlin had a population of 3,520,031 registered inhabitants.",
        "museums": "Berlin is well known for its museums.",
        "soup": "Soup is warm.",
    }
    lines = [json.dumps({"_id": key, "text": text}) for key, text in texts.items()]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    query = {"_id": "1", "text": "How many people live in Berlin?"}
    (tmp_path / "queries.jsonl").write_text(json.dumps(query))
    (tmp_path / "qrels").mkdir()
    grade = "query-id\tcorpus-id\tscore\n1\tpopulation\t1\n"
    (tmp_path / "qrels" / "mine.tsv").write_text(grade)
    run = tmp_path / "first.trec"
    run.write_text("1 Q0 soup 1 3 x\n1 Q0 museums 2 2 x\n1 Q0 population 3 1 x\n")
    file = tmp_path / "bench.json"
    done = bench(
        *("--data", str(tmp_path), "--run", str(run), "--qrels", "mine", "--rounds", "1"),
        *("--only", "onnx", "--only", "torch", "--json", str(file)),
    )
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(file.read_text(encoding="utf-8"))
    assert report["ndcg_at_10"] == {"first stage": 0.5, "torch": 1.0, "onnx": 1.0}
    assert "nDCG@10 lost by int8 against float32" in done.stdout


def test_gpu_set_on_a_cpu_with_a_tiny_shape(tmp_path):
    file = tmp_path / "bench.json"
    done = bench(
        *("--synthetic", "tiny", "--queries", "1", "--candidates", "4", "--rounds", "1"),
        *("--only", "torch-bf16", "--only", "flag", "--json", str(file)),
    )
    assert done.returncode == 0, done.stderr
    reports = json.loads(file.read_text(encoding="utf-8"))
    assert [report["settings"]["tokens_a_query"] for report in reports] == [4 * 128, 4 * 512]
    for report in reports:
        assert {row["key"] for row in report["systems"]} == {"torch-bf16", "flag"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "nobody"], "expected systems out of onnx, "),
        (["--data", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--json", "/nowhere/at/all.json"], "expected a folder to write all.json to"),
        (["--synthetic", "huge"], "expected one of the shapes"),
        (["--model", "/nowhere/at/all", "--only", "torch"], "/nowhere/at/all"),
        pytest.param(
            ["--device", "cuda"],
            "finds no CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)
def test_user_errors_end_in_one_line_and_status_2(arguments, said):
    done = bench(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert said in done.stderr
