"""The demo as a user types it: the main jobs in processes of their own, the rest in this one."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner, Result

from langchain_rerank.cli import app
from langchain_rerank.cli.console import console
from langchain_rerank.cli.models import build_cross_encoder
from langchain_rerank.cross_encoders.base import DEFAULT_MODEL
from langchain_rerank.offline import offline_reranker

pytestmark = pytest.mark.integration


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "langchain_rerank.cli", "demo", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
        timeout=300,
    )


@pytest.fixture
def run(monkeypatch):
    """Runs a command in this process, whose environment stays as it was."""
    for variable in ("HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(variable, os.environ.get(variable, "1"))
    monkeypatch.setattr(console, "_width", 200)

    def invoke(*arguments: str, **environment: str) -> Result:
        return CliRunner().invoke(app, arguments, env=environment)

    return invoke


def test_main_job():
    done = demo("What happens if no except clause matches?")
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"│\s+(\d+) │\s+(\d+) │ ([01]\.\d+) │ (\S+)\s+│ (.*?)\s*│\n", done.stdout)
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "5"]
    assert rows[0][3] == "try"
    assert rows[0][4].startswith('If no "except" clause matches the exception')
    assert rows[0][1] != "1", "reranking was to move it up"
    assert len({row[4] for row in rows}) == 5
    squeezed = " ".join(done.stdout.split())
    assert (
        'If no "except" clause matches the exception, the search for an exception handler '
        "continues in the surrounding code and on the invocation stack. [1]" in squeezed
    )
    assert "extractive reader (no --llm given)" in squeezed
    assert '[1] try: If no "except" clause' in squeezed
    assert re.search(r"retrieval [\d,]+ ms · reranking [\d,]+ ms · answer [\d,]+ ms", squeezed)


def test_folder_of_documents_and_prompt(tmp_path, run):
    (tmp_path / "cities.md").write_text("Berlin has 3,520,031 people.\n", encoding="utf-8")
    (tmp_path / "food.txt").write_text("Soup is warm.\n", encoding="utf-8")
    question = "How many people live in Berlin?"
    done = run("demo", question, "--docs", str(tmp_path), "--k", "1", "--show-prompt")
    assert done.exit_code == 0, done.output
    assert "Berlin has 3,520,031 people. [1]" in done.stdout
    assert '<document index="1" source="cities.md">' in done.stdout

    (tmp_path / "cities.md").write_text("Berlin has 4 million people.\n", encoding="utf-8")
    done = run("demo", question, "--docs", str(tmp_path), "--k", "2")
    assert "4 million" in done.stdout
    assert "3,520,031" not in done.stdout


def test_offline_chat_model_answers():
    done = demo("What happens if no except clause matches?", "--llm", "offline", "--k", "2")
    assert done.returncode == 0, done.stderr
    answer = done.stdout.split("Answer by offline:")[1].split("\n\n")[0]
    assert len(answer.split()) > 5


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
        (["bulk", "/nowhere.jsonl", "out"], "expected an input file or a folder of them, got /now"),
    ],
)
def test_user_errors_end_in_one_line_and_status_2(run, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments, OPENAI_API_KEY="")
    assert done.exit_code == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert said in errors[0]
    assert done.stderr.strip().endswith(errors[0])


def test_unwritable_cache_ends_in_one_line(tmp_path, run):
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    done = run("demo", LANGCHAIN_RERANK_CACHE=str(blocked))
    assert done.exit_code == 2
    assert "LANGCHAIN_RERANK_CACHE" in done.stderr


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_a_models_name_means_one_thing(monkeypatch, backend):
    # Set first, so that whatever it is in the end is undone.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    kind = f"{'Torch' if backend == 'torch' else 'Onnx'}CrossEncoder"
    for model, default, expected in (
        (None, None, DEFAULT_MODEL),
        ("some/name", "offline", "some/name"),
    ):
        built = build_cross_encoder(model, backend, default=default)
        assert (type(built).__name__, built.model) == (kind, expected)
    assert "HF_HUB_OFFLINE" not in os.environ, "a named model may come from the hub"
    for model, default in (("offline", None), (None, "offline")):
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        built = build_cross_encoder(model, backend, default=default)
        assert built.model == offline_reranker()
        assert os.environ["HF_HUB_OFFLINE"] == "1"
