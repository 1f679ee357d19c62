"""The demo as a user types it, in processes of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration


def demo(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "langchain_rerank.cli", "demo", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200", **environment},
        timeout=300,
    )


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


def test_folder_of_documents_and_prompt(tmp_path):
    (tmp_path / "cities.md").write_text("Berlin has 3,520,031 people.\n", encoding="utf-8")
    (tmp_path / "food.txt").write_text("Soup is warm.\n", encoding="utf-8")
    question = "How many people live in Berlin?"
    done = demo(question, "--docs", str(tmp_path), "--k", "1", "--show-prompt")
    assert done.returncode == 0, done.stderr
    assert "Berlin has 3,520,031 people. [1]" in done.stdout
    assert '<document index="1" source="cities.md">' in done.stdout

    (tmp_path / "cities.md").write_text("Berlin has 4 million people.\n", encoding="utf-8")
    done = demo(question, "--docs", str(tmp_path), "--k", "2")
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
        ([" "], "query must hold text"),
        (["--k", "0"], "k must be > 0, got 0"),
        (["--k", "9", "--fetch-k", "3"], "fetch_k must be at least k"),
        (["--docs", "/nowhere/at/all"], "expected a folder of documents"),
        (["--model", "/nowhere/at/all"], "could not load '/nowhere/at/all'"),
        (["--llm", "nobody:nothing"], "nobody"),
        (["--llm", "openai:gpt-4.1"], "api_key"),
    ],
)
def test_user_errors_end_in_one_line_and_status_2(arguments, said):
    done = demo(*arguments, OPENAI_API_KEY="")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr + done.stdout
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert said in errors[0]
    assert done.stderr.strip().endswith(errors[0])


def test_unwritable_cache_ends_in_one_line(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    done = demo(LANGCHAIN_RERANK_CACHE=str(blocked))
    assert done.returncode == 2
    assert "LANGCHAIN_RERANK_CACHE" in done.stderr
    assert "Traceback" not in done.stderr
