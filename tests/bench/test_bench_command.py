"""`langchain-rerank bench` as a user types it, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration

KEYS = ("onnx", "flashrank", "torch", "flag")


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "langchain_rerank.cli", "bench", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
        timeout=300,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One question with twelve passages, of which BM25 is to have put the answer last."""
    answer = "Berlin had a population of 3,520,031 registered inhabitants."
    others = [f"Berlin is well known for its museum number {number}." for number in range(11)]
    lines = [json.dumps({"_id": f"d{n}", "text": text}) for n, text in enumerate([answer, *others])]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    query = {"_id": "1", "text": "How many people live in Berlin?"}
    (tmp_path / "queries.jsonl").write_text(json.dumps(query))
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "mine.tsv").write_text("query-id\tcorpus-id\tscore\n1\td0\t1\n")
    run = [f"1 Q0 d{(n + 1) % 12} {n} {20 - n} x" for n in range(12)]
    (tmp_path / "first.trec").write_text("\n".join(run))
    return tmp_path


def test_data_set_with_judgments_gives_tables_and_every_figure(folder):
    file = folder / "bench.json"
    done = bench(
        *("--data", str(folder), "--run", str(folder / "first.trec"), "--qrels", "mine"),
        *("--rounds", "2", *(f"--only={key}" for key in KEYS)),
        *("--json", str(file), "--goals", "--markdown"),
    )
    assert done.returncode == 0, done.stderr
    for shown in (
        "| system | s/query | pairs/s | times as fast as FlagReranker, default |",
        "langchain-rerank, torch float32",
        "GFLOP/s (GOP/s in int8)",
        "nDCG@10 lost by int8 against float32",
        "int8 ONNX against FlagReranker's default",
        "float32 torch against FlagReranker's default",
    ):
        assert shown in done.stdout
    (report,) = json.loads(file.read_text(encoding="utf-8"))
    assert report["command"].startswith(f"langchain-rerank bench --data {folder}")
    assert report["settings"]["candidates"] == 12
    assert report["left_out"] == {}
    assert report["ndcg_at_10"] == {"first stage": 0, "torch": 1, "onnx": 1}
    by_key = {row["key"]: row for row in report["systems"]}
    assert set(by_key) == set(KEYS)
    for row in by_key.values():
        assert len(row["seconds"]) == 2
        assert row["share_of_peak"] > 0
        assert row["top_10_overlap"] >= 0.8
    assert by_key["torch"]["top_10_overlap"] == by_key["flag"]["top_10_overlap"] == 1
    assert by_key["flag"]["times_as_fast_as"]["flag"] == 1
    assert by_key["flashrank"]["times_as_fast_as"]["flashrank"] == 1


def test_gpu_set_on_a_cpu_with_a_tiny_shape(tmp_path):
    file = tmp_path / "bench.json"
    done = bench(
        *("--synthetic", "tiny", "--queries", "1", "--candidates", "4", "--rounds", "1"),
        *("--only", "torch-bf16", "--json", str(file)),
    )
    assert done.returncode == 0, done.stderr
    reports = json.loads(file.read_text(encoding="utf-8"))
    assert [report["settings"]["tokens_a_query"] for report in reports] == [4 * 128, 4 * 512]
    for report in reports:
        assert [row["key"] for row in report["systems"]] == ["torch-bf16"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "nobody"], "expected systems out of onnx, "),
        (["--data", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--json", "/nowhere/at/all.json"], "expected a folder to write all.json to"),
        (["--synthetic", "huge"], "expected one of the shapes"),
        (["--synthetic", "tiny", "--model", "any"], "--model can't be used with --synthetic"),
        (["--run", "any.trec"], "give --data"),
        (["--device", "mps"], "expected the device cpu, cuda or cuda:N, got 'mps'"),
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
