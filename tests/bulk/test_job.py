"""Whose an output folder is."""

from __future__ import annotations

import copy
import os

import pytest
from langchain_core.stores import InMemoryByteStore

from langchain_rerank import CachedCrossEncoder, OnnxCrossEncoder, TorchCrossEncoder
from langchain_rerank.bulk.job import claimed, manifest
from tests.bulk.conftest import make_rows, write_lines
from tests.fakes import WordOverlapCrossEncoder


class Weighted(WordOverlapCrossEncoder):
    """A user's own, with a setting, a secret, and another cross encoder inside."""

    def __init__(self, weight, api_token="hush", inner=None):  # noqa: S107  # no real one
        super().__init__()
        self.weight, self.api_token, self.inner = weight, api_token, inner


def cached(cross_encoder):
    return CachedCrossEncoder(cross_encoder, InMemoryByteStore(), namespace="one for all")


TORCH, ONNX = TorchCrossEncoder(model="m"), OnnxCrossEncoder(model="m")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "a" / "out"


@pytest.fixture
def claim(tmp_path, out):
    """Claims the folder for a job of a model and settings."""
    file = write_lines(tmp_path / "in.jsonl", make_rows(3))

    def claim(model=TORCH, files=(file,), **changes):
        settings = {"block_rows": 2, "columns": {"query": "query"}, "top_n": 5, **changes}
        return claimed(out, manifest(files, model, settings))

    return claim


def refused(claim, message):
    with pytest.raises(ValueError, match=message), claim:
        pass


def test_the_same_job_goes_on_one_run_at_a_time(claim, out):
    with claim():
        refused(claim(), "another run is at work in")
    before = (out / "_job.json").stat().st_mtime_ns
    (out / ".unfinished-part-00000000.jsonl-0").write_text("{")  # as a killed run leaves it
    for same in (TorchCrossEncoder(model="m", show_progress=True), copy.deepcopy(TORCH)):
        with claim(same):
            assert sorted(file.name for file in out.iterdir()) == [".lock", "_job.json"]
    assert (out / "_job.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ({}, {"block_rows": 3}, "block_rows was 2, is now 3"),
        ({}, {"top_n": None}, "top_n was 5, is now None"),
        ({}, {"columns": {"query": "q"}}, "columns query was 'query', is now 'q'"),
        (TORCH, TorchCrossEncoder(model="m", max_length=99), "max_length was None, is now 99"),
        (ONNX, OnnxCrossEncoder(model="m", num_threads=2), None),
        (ONNX, OnnxCrossEncoder(model="m", batch_tokens=9), "batch_tokens was None, is now 9"),
        (TORCH, ONNX, "class was 'TorchCrossEncoder', is now 'OnnxCrossEncoder'"),
        (cached(TORCH), cached(ONNX), "_cross_encoder class was 'TorchCrossEncoder', is now"),
        (Weighted(1), copy.deepcopy(Weighted(1)), None),
        (Weighted(1), Weighted(2), "weight was 1, is now 2"),
        (Weighted(1, "hush"), Weighted(1, "hush-hush"), "api_token was"),
        (
            Weighted(1, inner=cached(TORCH)),
            Weighted(1, inner=cached(TorchCrossEncoder(model="n"))),
            "inner _cross_encoder model was 'm', is now 'n'",
        ),
    ],
)
def test_what_decides_scores_tells_jobs_apart(claim, out, one, other, message):
    one, other = (it if isinstance(it, dict) else {"model": it} for it in (one, other))
    with claim(**one):
        pass
    before = sorted(out.iterdir())
    if message is None:
        with claim(**other):
            pass
    else:
        refused(claim(**other), f"holds another job: (?s:.*){message}.*or delete this one")
    assert sorted(out.iterdir()) == before
    assert "hush" not in (out / "_job.json").read_text()


def test_inputs_or_weights_that_have_changed_are_refused(tmp_path, claim):
    weights = tmp_path / "model" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"one")
    model = TorchCrossEncoder(model=weights.parent)
    with claim(model):
        pass
    more = write_lines(tmp_path / "more.jsonl", make_rows(1))
    refused(claim(model, files=[more]), r"more\.jsonl was None")
    weights.write_bytes(b"other")
    refused(claim(model), r"model file model\.safetensors was")
    file = tmp_path / "in.jsonl"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    refused(claim(model), r"inputs .*in\.jsonl was")


def test_a_folder_of_something_else_or_with_a_damaged_manifest_is_refused(claim, out):
    with claim():
        (out / "_job.json").write_text("{")
    refused(claim(), r"_job\.json is no manifest of a bulk job")
    (out / "_job.json").rename(out / "thesis.txt")
    refused(claim(), r"holds other files, such as thesis\.txt")
    assert not (out / "_job.json").exists()
