"""Whole jobs on a real Ray."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from langchain_rerank import ModelLoadError, Reranker, ScoringError
from langchain_rerank.bulk import rerank_files
from langchain_rerank.cli import app
from tests.bulk.conftest import (
    assert_ranked_as_by,
    make_rows,
    read_output,
    write_lines,
    write_parquet,
)
from tests.fakes import WordOverlapCrossEncoder
from tests.server.serving import on_ray
from tests.support import wait_until

pytestmark = on_ray
DEADLINE_S = 120
FAKE = WordOverlapCrossEncoder()


@pytest.fixture(autouse=True)
def _on_the_users_ray(local_ray):
    yield
    assert local_ray.is_initialized(), "a Ray that was there before is left alone"


def test_two_actors_give_the_scores_of_one_process(tmp_path, tiny):
    seen, file = [], write_lines(tmp_path / "in.jsonl", make_rows(23))
    settings = {"top_n": 3, "workers": 2, "block_rows": 4, "progress": seen.append}
    result = rerank_files(file, tmp_path / "out", model=tiny, **settings)
    found = read_output(tmp_path / "out")
    assert [row["id"] for row in found] == list(range(23))
    assert_ranked_as_by(Reranker(model=tiny, top_n=3, deduplicate=False), found)
    assert (result.skipped, result.rows, result.pairs) == (0, 23, sum(n % 6 for n in range(23)))
    assert result.pairs_per_s > 0
    assert [now.finished for now in seen] == list(range(1, result.blocks + 1))
    assert seen[-1] == result


def test_a_worker_for_whom_ray_has_no_room_holds_no_block(tmp_path, local_ray):
    class Other:
        def ready(self):
            return True

    other = local_ray.remote(num_cpus=1)(Other).remote()
    assert local_ray.get(other.ready.remote())
    try:
        given = write_lines(tmp_path / "IN.JSONL", make_rows(8))
        result = rerank_files(given, tmp_path / "out", model=FAKE, workers=2, block_rows=2)
    finally:
        local_ray.kill(other)
    assert (result.finished, result.rows) == (4, 8)


class NotThere(WordOverlapCrossEncoder):
    def __setstate__(self, state):
        msg = "no such model here"
        raise ImportError(msg)


def test_a_worker_that_cannot_start_says_why(tmp_path):
    given = write_lines(tmp_path / "in.jsonl", make_rows(2))
    with pytest.raises(ScoringError, match=r"could not start: (.|\n)*no such model here"):
        rerank_files(given, tmp_path / "out", model=NotThere())


class EndsItsProcess(WordOverlapCrossEncoder):
    """Scores by the number of its process, but ends that of a query while there is no marker."""

    def __init__(self, query, marker):
        super().__init__()
        self._query, self._marker = query, marker

    def score(self, text_pairs):
        if not self._marker.exists() and any(query == self._query for query, _ in text_pairs):
            if self._marker.parent.exists():
                self._marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return [float(os.getpid())] * len(text_pairs)


def test_workers_are_processes_and_a_block_of_a_killed_one_is_scored_by_another(tmp_path):
    file = write_lines(tmp_path / "in.jsonl", make_rows(24))
    model = EndsItsProcess("people in Berlin 11", tmp_path / "marker")
    result = rerank_files(file, tmp_path / "out", model=model, workers=2, block_rows=1)
    assert (tmp_path / "marker").exists()
    rows = read_output(tmp_path / "out")
    assert [row["id"] for row in rows] == list(range(24))
    processes = {one["relevance_score"] for row in rows for one in row["results"]}
    assert 2 <= len(processes) <= 3
    assert os.getpid() not in processes
    assert result.rows == 24


def test_a_block_that_always_ends_its_actor_ends_the_job(tmp_path):
    file = write_lines(tmp_path / "in.jsonl", make_rows(8))
    model = EndsItsProcess("people in Berlin 5", tmp_path / "nowhere" / "marker")
    with pytest.raises(ScoringError, match=r"in\.jsonl, row 5: 3 times the process"):
        rerank_files(file, tmp_path / "out", model=model, block_rows=2)
    assert not (tmp_path / "out" / "part-00000002.jsonl").exists()


def test_after_a_bad_row_or_a_model_that_does_not_load_finished_blocks_stay(tmp_path):
    rows = [*make_rows(5), {"query": " ", "documents": []}]
    file = write_lines(tmp_path / "in.jsonl", rows)
    with pytest.raises(ValueError, match=r"in\.jsonl, line 6: expected a text in column 'query'"):
        rerank_files(file, tmp_path / "out", model=FAKE, block_rows=5)
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left <= {".lock", "_job.json", "part-00000000.jsonl"}
    with pytest.raises(ModelLoadError, match="/nowhere/at/all"):
        rerank_files(file, tmp_path / "other", model="/nowhere/at/all", block_rows=5)
    assert list((tmp_path / "other").glob("part-*")) == []


@pytest.mark.parametrize("name", ["workers", "top_n", "block_rows"])
def test_settings_that_can_not_be(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        rerank_files(tmp_path, tmp_path / "out", model=FAKE, **{name: 0})


def test_the_command(tmp_path, tiny_checkpoint):
    from pyarrow import parquet

    file = write_parquet(tmp_path / "in.parquet", make_rows(10))
    command = ["bulk", str(file), str(tmp_path / "out"), "--model", tiny_checkpoint]
    for now in ("0 of them from earlier runs; now 10 rows, 21 pairs in ", "2 of them from earlier"):
        done = CliRunner().invoke(app, [*command, "--top-n", "2"])
        assert done.exit_code == 0, done.output
        assert "2 blocks in " in done.stdout
        assert now in done.stdout
    assert [len(row["results"]) for row in read_output(tmp_path / "out")] == [
        min(n % 6, 2) for n in range(10)
    ]
    assert parquet.read_table(tmp_path / "out").num_rows == 10, "one data set, manifest left out"


class SlowCrossEncoder(WordOverlapCrossEncoder):
    """Slow enough for a kill between two blocks; notes the queries that it was asked."""

    def __init__(self, journal):
        super().__init__()
        self._journal = journal

    def score(self, text_pairs):
        with self._journal.open("a", encoding="utf-8") as file:
            file.writelines(f"{query}\n" for query, _ in text_pairs)
        time.sleep(0.2)
        return super().score(text_pairs)


def main(folder):
    """Run a job; also in a process of its own, which starts a Ray of its own."""
    # Not this module run as a script, which an actor could not import by its name.
    from tests.bulk.test_rerank_files import SlowCrossEncoder as Slow

    files, model = folder / "in.jsonl", Slow(folder / "journal")
    return rerank_files(files, folder / "out", model=model, workers=2, block_rows=2)


def parts(folder):
    found = (folder / "out").glob("part-*")
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def alive(process):
    """Whether a process runs; Ray's own two agents take a minute to see that they are alone."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE and "Agent" not in process.name()
    except psutil.NoSuchProcess:
        return False


def test_killed_and_started_again_repeats_no_finished_block_and_loses_none(tmp_path):
    write_lines(tmp_path / "in.jsonl", make_rows(30))
    (tmp_path / "journal").touch()
    process = psutil.Popen([sys.executable, "-m", __name__, str(tmp_path)])
    try:
        wait_until(lambda: parts(tmp_path) or process.poll() is not None, "a block", DEADLINE_S)
    finally:
        family = process.children(recursive=True)
        process.kill()
        process.wait()
    wait_until(lambda: not any(map(alive, family)), "all that it started to end", DEADLINE_S)
    finished = parts(tmp_path)
    assert 0 < len(finished) < 15, "it was killed too late to tell"
    (tmp_path / "journal").write_text("")
    result = main(tmp_path)
    assert (result.blocks, result.skipped, result.finished) == (15, len(finished), 15)
    assert finished.items() < parts(tmp_path).items(), "a finished part was written again"
    asked = {int(line.split()[-1]) for line in (tmp_path / "journal").read_text().splitlines()}
    assert asked
    assert asked.isdisjoint(2 * int(name[5:13]) + at for name in finished for at in (0, 1))
    assert len(list((tmp_path / "out").iterdir())) == 15 + len({".lock", "_job.json"})
    assert [row["id"] for row in read_output(tmp_path / "out")] == list(range(30))
    before = parts(tmp_path)
    again = main(tmp_path)
    assert (again.skipped, again.rows, again.pairs_per_s) == (15, 0, 0)
    assert parts(tmp_path) == before


if __name__ == "__main__":
    main(Path(sys.argv[1]))
