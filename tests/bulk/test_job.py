"""Whose an output folder is."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import dataclass, replace

import pytest
from langchain_core.stores import InMemoryByteStore

from langchain_rerank import CachedCrossEncoder, OnnxCrossEncoder, TorchCrossEncoder
from langchain_rerank.bulk.blocks import Columns
from langchain_rerank.bulk.job import claimed as claimed_by
from langchain_rerank.bulk.job import manifest, write_json
from tests.bulk.conftest import make_rows, write_lines
from tests.fakes import WordOverlapCrossEncoder


def cached(cross_encoder):
    return CachedCrossEncoder(cross_encoder, InMemoryByteStore(), namespace="one for all")


@dataclass(frozen=True)
class Job:
    """The arguments of a manifest."""

    files: list
    block_rows: int
    columns: Columns
    top_n: int | None
    cross_encoder: object


def claimed(output, job):
    return claimed_by(output, manifest(**vars(job)))


@pytest.fixture
def job(tmp_path):
    file = write_lines(tmp_path / "in.jsonl", make_rows(3))
    return Job([file], 2, Columns(), 5, TorchCrossEncoder(model="m"))


@pytest.fixture
def output(tmp_path, job):
    """A folder that the job has begun."""
    with claimed(tmp_path / "a" / "b", job):
        pass
    return tmp_path / "a" / "b"


def test_the_same_job_goes_on(job, output):
    before = (output / "_job.json").stat().st_mtime_ns
    watched = TorchCrossEncoder(model="m", show_progress=True)
    with claimed(output, replace(job, cross_encoder=watched)):
        assert (output / "_job.json").stat().st_mtime_ns == before


def test_threads_may_change_but_what_is_scored_together_may_not(tmp_path, job):
    one, other, batches = (
        replace(job, cross_encoder=OnnxCrossEncoder(model="m", **settings))
        for settings in ({"num_threads": 1}, {"num_threads": 2}, {"batch_tokens": 512})
    )
    with claimed(tmp_path / "out", one):
        pass
    with claimed(tmp_path / "out", other):
        pass
    with pytest.raises(ValueError, match="model batch_tokens was None, is now 512"):
        claimed(tmp_path / "out", batches).__enter__()


class Weighted(WordOverlapCrossEncoder):
    """A user's own, with a setting, a secret, and another cross encoder inside."""

    def __init__(self, weight, api_token="hush", inner=None):  # noqa: S107  # no real one
        super().__init__()
        self.weight, self.api_token, self.inner = weight, api_token, inner


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (
            cached(TorchCrossEncoder(model="m")),
            cached(TorchCrossEncoder(model="n")),
            "model _cross_encoder model was 'm', is now 'n'",
        ),
        (
            cached(cached(OnnxCrossEncoder(model="m"))),
            cached(cached(OnnxCrossEncoder(model="m", batch_tokens=9))),
            "_cross_encoder _cross_encoder batch_tokens was None, is now 9",
        ),
        (Weighted(1), Weighted(2), "model weight was 1, is now 2"),
        (Weighted(1, "hush"), Weighted(1, "hush-hush"), "model api_token was"),
        (
            Weighted(1, inner=TorchCrossEncoder(model="m")),
            Weighted(1, inner=TorchCrossEncoder(model="n")),
            "model inner model was 'm', is now 'n'",
        ),
    ],
)
def test_what_is_inside_a_cross_encoder_tells_jobs_apart(tmp_path, job, one, other, message):
    with claimed(tmp_path / "out", replace(job, cross_encoder=one)):
        pass
    with claimed(tmp_path / "out", replace(job, cross_encoder=copy.deepcopy(one))):
        pass
    with pytest.raises(ValueError, match=message):
        claimed(tmp_path / "out", replace(job, cross_encoder=other)).__enter__()
    assert "hush" not in (tmp_path / "out" / "_job.json").read_text()


def test_other_weights_under_the_same_path_are_another_job(tmp_path, job):
    weights = tmp_path / "model" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"one")
    local = replace(job, cross_encoder=TorchCrossEncoder(model=weights.parent))
    with claimed(tmp_path / "out", local):
        pass
    with claimed(tmp_path / "out", local):
        weights.write_bytes(b"other")
    with pytest.raises(ValueError, match=r"model files model\.safetensors was"):
        claimed(tmp_path / "out", local).__enter__()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_rows": 3}, "block_rows was 2, is now 3"),
        ({"top_n": None}, "top_n was 5, is now None"),
        ({"columns": Columns(query="q")}, "columns query was 'query', is now 'q'"),
        (
            {"cross_encoder": TorchCrossEncoder(model="n", max_length=99)},
            "model max_length was None, is now 99",
        ),
        (
            {"cross_encoder": OnnxCrossEncoder(model="m")},
            "model class was 'TorchCrossEncoder', is now 'OnnxCrossEncoder'",
        ),
        (
            {"cross_encoder": WordOverlapCrossEncoder()},
            "model class was 'TorchCrossEncoder', is now 'WordOverlapCrossEncoder'",
        ),
    ],
)
def test_another_job_is_refused_by_what_differs(job, output, change, message):
    before = sorted(output.iterdir())
    with (
        pytest.raises(ValueError, match=f"holds another job: .*{message}") as caught,
        claimed(output, replace(job, **change)),
    ):
        pass
    assert "choose another output folder, or delete this one" in str(caught.value)
    assert sorted(output.iterdir()) == before


def test_inputs_that_have_changed_are_refused(tmp_path, job, output):
    (file,) = job.files
    stat = file.stat()
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    with pytest.raises(ValueError, match=r"inputs .*in\.jsonl was"):
        claimed(output, job).__enter__()
    more = write_lines(tmp_path / "more.jsonl", make_rows(1))
    with pytest.raises(ValueError, match=r"inputs .*more\.jsonl was None"):
        claimed(output, replace(job, files=[more])).__enter__()
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with claimed(output, job):
        pass


def test_one_run_at_a_time(job, output):
    with (
        claimed(output, job),
        pytest.raises(ValueError, match="another run is at work in"),
        claimed(output, job),
    ):
        pass
    with claimed(output, job):
        pass


def test_a_folder_with_other_files_is_refused(tmp_path, job):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ValueError, match=r"holds other files, such as in\.jsonl"):
        claimed(tmp_path, job).__enter__()
    assert not (tmp_path / "_job.json").exists()


def test_a_damaged_manifest_is_refused(job, output):
    (output / "_job.json").write_text("{")
    with pytest.raises(ValueError, match=r"_job\.json is no manifest of a bulk job"):
        claimed(output, job).__enter__()


def test_what_a_killed_run_left_half_written_is_removed(job, output):
    (output / ".unfinished-part-00000000.jsonl-0").write_text("{")
    with claimed(output, job):
        assert sorted(file.name for file in output.iterdir()) == [".lock", "_job.json"]


def test_a_file_that_can_not_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, object())
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
