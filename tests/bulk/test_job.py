"""Whose an output folder is."""

from __future__ import annotations

import copy
import os

import pytest
from langchain_core.stores import InMemoryByteStore

from langchain_rerank import CachedCrossEncoder, OnnxCrossEncoder, TorchCrossEncoder
from langchain_rerank.bulk.blocks import Columns
from langchain_rerank.bulk.job import claimed as claimed_by
from langchain_rerank.bulk.job import manifest
from tests.bulk.conftest import make_rows, write_lines
from tests.fakes import WordOverlapCrossEncoder

OTHER_JOB = "holds another job: (?s:.*)"


@pytest.fixture
def claimed(tmp_path):
    """Claims the folder out/ for a job with some changes."""
    job = {
        "files": [write_lines(tmp_path / "in.jsonl", make_rows(3))],
        "block_rows": 2,
        "columns": Columns(),
        "top_n": 5,
        "cross_encoder": TorchCrossEncoder(model="m"),
    }

    def claimed(**changes):
        return claimed_by(tmp_path / "a" / "out", manifest(**job | changes))

    return claimed


def refused(claim, message):
    with pytest.raises(ValueError, match=message), claim:
        pass


def test_the_same_job_goes_on_one_run_at_a_time(claimed, tmp_path):
    out = tmp_path / "a" / "out"
    with claimed():
        refused(claimed(), "another run is at work in")
    before = (out / "_job.json").stat().st_mtime_ns
    (out / ".unfinished-part-00000000.jsonl-0").write_text("{")  # as a killed run leaves it
    with claimed(cross_encoder=TorchCrossEncoder(model="m", show_progress=True)):
        assert sorted(file.name for file in out.iterdir()) == [".lock", "_job.json"]
        assert (out / "_job.json").stat().st_mtime_ns == before


def cached(cross_encoder):
    return CachedCrossEncoder(cross_encoder, InMemoryByteStore(), namespace="one for all")


class Weighted(WordOverlapCrossEncoder):
    """A user's own, with a setting, a secret, and another cross encoder inside."""

    def __init__(self, weight, api_token="hush", inner=None):  # noqa: S107  # no real one
        super().__init__()
        self.weight, self.api_token, self.inner = weight, api_token, inner


TORCH, ONNX = TorchCrossEncoder(model="m"), OnnxCrossEncoder(model="m")


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (TORCH, TorchCrossEncoder(model="m", max_length=99), "max_length was None, is now 99"),
        (ONNX, OnnxCrossEncoder(model="m", num_threads=2), None),
        (ONNX, OnnxCrossEncoder(model="m", batch_tokens=9), "batch_tokens was None, is now 9"),
        (TORCH, ONNX, "class was 'TorchCrossEncoder', is now 'OnnxCrossEncoder'"),
        (TORCH, Weighted(1), "class was 'TorchCrossEncoder', is now 'Weighted'"),
        (cached(TORCH), cached(ONNX), "_cross_encoder class was 'TorchCrossEncoder', is now"),
        (
            cached(cached(ONNX)),
            cached(cached(OnnxCrossEncoder(model="m", batch_tokens=9))),
            "_cross_encoder _cross_encoder batch_tokens was None, is now 9",
        ),
        (Weighted(1), Weighted(2), "weight was 1, is now 2"),
        (Weighted(1, "hush"), Weighted(1, "hush-hush"), "api_token was"),
        (
            Weighted(1, inner=TORCH),
            Weighted(1, inner=TorchCrossEncoder(model="n")),
            "inner model was 'm', is now 'n'",
        ),
    ],
)
def test_what_decides_scores_tells_jobs_apart(tmp_path, claimed, one, other, message):
    with claimed(cross_encoder=one):
        pass
    with claimed(cross_encoder=copy.deepcopy(one)):
        pass
    if message is None:
        with claimed(cross_encoder=other):
            pass
    else:
        refused(claimed(cross_encoder=other), f"{OTHER_JOB}model {message}")
    assert "hush" not in (tmp_path / "a" / "out" / "_job.json").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_rows": 3}, "block_rows was 2, is now 3"),
        ({"top_n": None}, "top_n was 5, is now None"),
        ({"columns": Columns(query="q")}, "columns query was 'query', is now 'q'"),
    ],
)
def test_another_job_is_refused_by_what_differs(tmp_path, claimed, change, message):
    with claimed():
        pass
    before = sorted((tmp_path / "a" / "out").iterdir())
    refused(claimed(**change), f"{OTHER_JOB}{message}.*choose another output folder, or delete")
    assert sorted((tmp_path / "a" / "out").iterdir()) == before


def test_inputs_or_weights_that_have_changed_are_refused(tmp_path, claimed):
    weights = tmp_path / "model" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"one")
    model = TorchCrossEncoder(model=weights.parent)
    with claimed(cross_encoder=model):
        pass
    more = write_lines(tmp_path / "more.jsonl", make_rows(1))
    refused(claimed(cross_encoder=model, files=[more]), r"more\.jsonl was None")
    weights.write_bytes(b"other")
    refused(claimed(cross_encoder=model), r"model file model\.safetensors was")
    weights.write_bytes(b"one")
    file = tmp_path / "in.jsonl"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    refused(claimed(cross_encoder=model), r"inputs .*in\.jsonl was")


def test_a_folder_of_something_else_or_with_a_damaged_manifest_is_refused(tmp_path, claimed):
    out = tmp_path / "a" / "out"
    with claimed():
        (out / "_job.json").write_text("{")
    refused(claimed(), r"_job\.json is no manifest of a bulk job")
    (out / "_job.json").rename(out / "thesis.txt")
    refused(claimed(), r"holds other files, such as thesis\.txt")
    assert not (out / "_job.json").exists()
