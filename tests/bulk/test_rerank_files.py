"""Whole jobs on a real Ray."""

from __future__ import annotations

import json
import os
import signal

import pytest
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document

from langchain_rerank import ModelLoadError, Reranker, ScoringError
from langchain_rerank.bulk import rerank_files
from tests.bulk.conftest import make_rows, read_output, write_lines
from tests.fakes import WordOverlapCrossEncoder

pytestmark = [
    pytest.mark.integration,
    pytest.mark.xdist_group("ray"),
    pytest.mark.usefixtures("ray_of_the_user"),
    # Ray sets options of its own that it has deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]


class EndsItsProcess(WordOverlapCrossEncoder):
    """Ends the process that scores `query`: the first time, or every time."""

    def __init__(self, query, marker=None):
        super().__init__()
        self._query = query
        self._marker = marker

    def score(self, text_pairs):
        first = self._marker is None or not self._marker.exists()
        if first and any(query == self._query for query, _ in text_pairs):
            if self._marker is not None:
                self._marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().score(text_pairs)


class NamesItsProcess(BaseCrossEncoder):
    """Scores every pair by the number of its process."""

    def score(self, text_pairs):
        return [float(os.getpid())] * len(text_pairs)


def test_two_actors_give_the_scores_of_one_process(tmp_path, write, tiny):
    rows = make_rows(23)
    seen = []
    result = rerank_files(
        write(tmp_path, rows),
        tmp_path / "out",
        model=tiny,
        top_n=3,
        workers=2,
        block_rows=4,
        progress=seen.append,
    )
    reranker = Reranker(model=tiny, top_n=3, deduplicate=False)
    found = read_output(tmp_path / "out")
    assert [row["id"] for row in found] == list(range(23))
    for row in found:
        kept = reranker.compress_documents([Document(t) for t in row["documents"]], row["query"])
        assert [one["index"] for one in row["results"]] == [
            one.metadata["retrieval_rank"] - 1 for one in kept
        ]
        assert [one["relevance_score"] for one in row["results"]] == pytest.approx(
            [one.metadata["relevance_score"] for one in kept], abs=1e-6
        )
    assert (result.skipped, result.rows, result.pairs) == (0, 23, sum(n % 6 for n in range(23)))
    assert result.pairs_per_s > 0
    assert [now.finished for now in seen] == list(range(1, result.blocks + 1))
    summary = json.loads((tmp_path / "out" / "_summary.json").read_text())
    assert summary["blocks"] == result.blocks == len(list((tmp_path / "out").glob("part-*")))


def test_each_worker_is_a_process_of_its_own(tmp_path):
    file = write_lines(tmp_path / "in.jsonl", make_rows(24))
    rerank_files(file, tmp_path / "out", model=NamesItsProcess(), workers=2, block_rows=1)
    rows = read_output(tmp_path / "out")
    processes = {one["relevance_score"] for row in rows for one in row["results"]}
    assert len(processes) == 2
    assert os.getpid() not in processes


def test_a_finished_job_is_not_run_again(tmp_path):
    file = write_lines(tmp_path / "in.jsonl", make_rows(6))
    job = {"model": WordOverlapCrossEncoder(), "block_rows": 2}
    rerank_files(file, tmp_path / "out", **job)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    result = rerank_files(file, tmp_path / "out", **job)
    assert (result.blocks, result.skipped, result.rows, result.pairs_per_s) == (3, 3, 0, 0)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert after == before


def test_the_summary_says_that_a_job_is_finished(tmp_path):
    file = write_lines(tmp_path / "in.jsonl", make_rows(6))
    job = {"model": WordOverlapCrossEncoder(), "block_rows": 2}
    rerank_files(file, tmp_path / "out", **job)
    summary = tmp_path / "out" / "_summary.json"
    summary.unlink()  # as a kill after the last block would have it
    rerank_files(file, tmp_path / "out", **job)
    assert json.loads(summary.read_text())["blocks"] == 3


def test_after_a_bad_row_the_job_goes_on_where_it_stopped(tmp_path):
    rows = make_rows(6)
    file = write_lines(tmp_path / "in.jsonl", [*rows[:5], {**rows[5], "query": " "}])
    job = {"model": WordOverlapCrossEncoder(), "block_rows": 5}
    with pytest.raises(ValueError, match=r"in\.jsonl, line 6, column 'query': query must hold"):
        rerank_files(file, tmp_path / "out", **job)
    left = sorted(path.name for path in (tmp_path / "out").glob("*"))
    assert set(left) <= {".lock", "_job.json", "part-00000000.jsonl"}
    with pytest.raises(ValueError, match=r"in\.jsonl was \["):
        rerank_files(write_lines(file, make_rows(6)), tmp_path / "out", **job)


def test_a_model_that_can_not_load_ends_the_job(tmp_path):
    file = write_lines(tmp_path / "in.jsonl", make_rows(6))
    with pytest.raises(ModelLoadError, match="/nowhere/at/all"):
        rerank_files(file, tmp_path / "out", model="/nowhere/at/all")
    assert list((tmp_path / "out").glob("part-*")) == []


def test_a_block_of_a_killed_actor_is_scored_by_another(tmp_path):
    file = write_lines(tmp_path / "in.jsonl", make_rows(8))
    model = EndsItsProcess("people in Berlin 5", tmp_path / "marker")
    result = rerank_files(file, tmp_path / "out", model=model, block_rows=2)
    assert (tmp_path / "marker").exists()
    assert result.rows == 8
    assert [row["id"] for row in read_output(tmp_path / "out")] == list(range(8))


def test_a_block_that_always_ends_its_actor_ends_the_job(tmp_path):
    file = write_lines(tmp_path / "in.jsonl", make_rows(8))
    model = EndsItsProcess("people in Berlin 5")
    with pytest.raises(ScoringError, match="from row 5: 3 times the process"):
        rerank_files(file, tmp_path / "out", model=model, block_rows=2)
    assert not (tmp_path / "out" / "part-00000002.jsonl").exists()


def test_the_users_ray_stays_connected(tmp_path, ray_of_the_user):
    file = write_lines(tmp_path / "in.jsonl", make_rows(2))
    rerank_files(file, tmp_path / "out", model=WordOverlapCrossEncoder())
    assert ray_of_the_user.is_initialized()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"top_n": 0}, "top_n must be at least 1, got 0"),
        ({"block_rows": 0}, "block_rows must be at least 1, got 0"),
        (
            {"gpus_per_worker": 1.0, "workers": 2},
            "2 workers of 1 GPUs need 2, .* has 0: take fewer",
        ),
        ({"cpus_per_worker": 3.0}, "1 workers of 3 CPUs need 3, .* has 2: take fewer"),
    ],
)
def test_settings_that_can_not_be(tmp_path, settings, message):
    file = write_lines(tmp_path / "in.jsonl", make_rows(4))
    with pytest.raises(ValueError, match=message):
        rerank_files(
            file,
            tmp_path / "out",
            **{"model": WordOverlapCrossEncoder(), "block_rows": 2, **settings},
        )
