"""Jobs in processes of their own, which start a Ray of their own: killed, and as a user types."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest
from langchain_core.documents import Document

from langchain_rerank import Reranker
from tests.bulk.conftest import make_rows, read_output, write_lines, write_parquet
from tests.fakes import WordOverlapCrossEncoder
from tests.support import wait_until

# One worker runs all that starts a Ray, one after another.
pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("ray")]

BLOCKS = 16
DEADLINE_S = 120


class SlowCrossEncoder(WordOverlapCrossEncoder):
    """Slow enough for a kill between two blocks; notes the queries that it was asked."""

    def __init__(self, journal):
        super().__init__()
        self._journal = journal

    def score(self, text_pairs):
        with self._journal.open("a", encoding="utf-8") as file:
            file.writelines(f"{query}\n" for query, _ in text_pairs)
        time.sleep(0.4)
        return super().score(text_pairs)


def start(folder):
    """Run the job of `main` in a process of its own."""
    return subprocess.Popen([sys.executable, "-m", __name__, str(folder)])


def main(folder):
    from langchain_rerank.bulk import rerank_files

    # Not this module run as a script, which an actor could not import by its name.
    from tests.bulk.test_killed import SlowCrossEncoder as Slow

    rerank_files(
        folder / "in.jsonl",
        folder / "out",
        model=Slow(folder / "journal"),
        workers=2,
        block_rows=2,
    )


def has_finished_one(folder, before, process):
    assert process.poll() is None, "it ended before it was to"
    return parts(folder).keys() > before


def parts(folder):
    found = (folder / "out").glob("part-*")
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


@contextmanager
def family(process):
    """Check that whatever a process started is gone in the end, and end it if not."""
    started = set()

    def look():
        started.update(psutil.Process(process.pid).children(recursive=True))

    try:
        yield look
    finally:
        process.kill()
        process.wait()
        deadline = time.monotonic() + 30
        while (alive := list(filter(is_running, started))) and time.monotonic() < deadline:
            time.sleep(0.1)
        for one in filter(psutil.Process.is_running, started):
            one.kill()
    assert alive == []


def is_running(process):
    """Whether a process runs; one that has ended but that nobody asked about does not.

    Ray's own two agents, which hold no model, take a minute to see that they are alone.
    """
    try:
        return process.status() != psutil.STATUS_ZOMBIE and "Agent" not in process.name()
    except psutil.NoSuchProcess:
        return False


def test_killed_three_times_repeats_no_finished_block_and_loses_none(tmp_path):
    rows = make_rows(2 * BLOCKS)
    write_lines(tmp_path / "in.jsonl", rows)
    journal = tmp_path / "journal"
    finished = {}
    for _ in range(3):
        journal.write_text("")
        before = set(finished)
        process = start(tmp_path)
        with family(process) as look:
            finished_one = partial(has_finished_one, tmp_path, before, process)
            wait_until(finished_one, "a block to be finished", DEADLINE_S)
            look()
            os.kill(process.pid, signal.SIGKILL)
        now = parts(tmp_path)
        assert finished.items() < now.items(), "a finished part was written again"
        assert len(now) < BLOCKS, "it was killed too late to tell"
        assert_not_asked_again(journal, before)
        finished = now
    journal.write_text("")
    process = start(tmp_path)
    with family(process):
        assert process.wait(DEADLINE_S) == 0
    assert_not_asked_again(journal, set(finished))
    assert finished.items() < parts(tmp_path).items()
    assert_complete(tmp_path, rows)


def assert_not_asked_again(journal, before):
    done = {2 * int(name[5:13]) + at for name in before for at in (0, 1)}
    asked = {int(line.split()[-1]) for line in journal.read_text(encoding="utf-8").splitlines()}
    assert asked
    assert not asked & done


def assert_complete(folder, rows):
    names = {path.name for path in (folder / "out").iterdir()}
    expected = {f"part-{n:08d}.jsonl" for n in range(BLOCKS)}
    assert names == expected | {".lock", "_job.json", "_summary.json"}
    reranker = Reranker(model=WordOverlapCrossEncoder(), top_n=None, deduplicate=False)
    found = read_output(folder / "out")
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    for row in found:
        kept = reranker.compress_documents([Document(t) for t in row["documents"]], row["query"])
        assert [(one["index"] + 1, one["relevance_score"]) for one in row["results"]] == [
            (one.metadata["retrieval_rank"], one.metadata["relevance_score"]) for one in kept
        ]


def test_the_command(tmp_path, tiny_checkpoint):
    file = write_parquet(tmp_path / "in.parquet", make_rows(10), row_group_size=5)
    command = ["bulk", str(file), str(tmp_path / "out"), "--model", tiny_checkpoint]
    process = subprocess.Popen(
        [sys.executable, "-m", "langchain_rerank.cli", *command, "--top-n", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    with family(process):
        out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    # The bar, and Ray saying that it logs less than it would.
    usual = ("pairs/s", "RAY_BACKEND_LOG_LEVEL", "Reranking", "%|")
    said = filter(str.strip, err.splitlines())
    assert [line for line in said if not any(part in line for part in usual)] == []
    assert "2 blocks in " in out
    assert "10 rows, 21 pairs in " in out
    assert [len(row["results"]) for row in read_output(tmp_path / "out")] == [
        min(n % 6, 2) for n in range(10)
    ]
    from pyarrow import parquet

    assert parquet.read_table(tmp_path / "out").num_rows == 10, "one data set, markers left out"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
