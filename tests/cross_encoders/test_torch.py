"""TorchCrossEncoder as a citizen of a process: weights shared, threads, forks, memory, refusals."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from langchain_rerank import ScoringError, TorchCrossEncoder
from langchain_rerank.cross_encoders import heads, torch_model
from langchain_rerank.cross_encoders.processes import CancelledCallError, cancelled

PAIRS = [("people in Berlin", "Berlin " + "has many people " * count) for count in range(40)]


def score(model: TorchCrossEncoder) -> list[float]:
    return model.score(PAIRS)


def in_child(context: str, model: TorchCrossEncoder) -> list[float]:
    """Score in a child process; one that hangs is an error after a minute."""
    with multiprocessing.get_context(context).Pool(1) as pool:
        return pool.apply_async(score, (model,)).get(60)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_child_scores_as_its_parent_does(tiny, context):
    expected = tiny.score(PAIRS)
    assert in_child(context, tiny) == pytest.approx(expected, abs=1e-6)


def test_a_child_forked_while_a_thread_scores_does_not_wait_for_it(tiny):
    expected = tiny.score(PAIRS)
    forked, inside = threading.Event(), threading.Event()
    model = tiny._loaded

    def hold() -> None:
        with tiny._lock.get(), model.lock.get(), torch_model.loading.get():
            inside.set()
            forked.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait()
    try:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(write, pickle.dumps(model.checkpoint.activation and tiny.score(PAIRS)))
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as file:
            assert pickle.load(file) == pytest.approx(expected, abs=1e-6)  # noqa: S301  # our own child's
        os.waitpid(child, 0)
    finally:
        forked.set()
        holder.join()


def test_the_callers_thread_settings_stay(tiny):
    def in_new_thread() -> int:
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        return found[0]

    before = torch.get_num_threads(), in_new_thread()
    tiny.score(PAIRS)
    assert (torch.get_num_threads(), in_new_thread()) == before


def test_equal_settings_share_one_copy_of_the_weights(tiny_checkpoint, tmp_path, monkeypatch):
    # A copy, as the weights of the original may be held by another test's model.
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    loads: list[object] = []
    build = heads.build
    monkeypatch.setattr(heads, "build", lambda *a, **k: loads.append(a) or build(*a, **k))
    one = TorchCrossEncoder(model=str(folder), device="cpu", normalize=False)
    other = TorchCrossEncoder(model=Path(folder), device="cpu", max_length=64)
    one.load()
    other.load()
    assert one._loaded is other._loaded
    one.close()
    other.score(PAIRS)
    half = TorchCrossEncoder(model=folder, device="cpu", dtype="bfloat16")
    half.load()
    assert half._loaded is not other._loaded
    assert len(loads) == 2
    other.close()
    other.load()
    assert len(loads) == 3


def test_weights_changed_on_disk_are_loaded_anew(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    one = TorchCrossEncoder(model=folder, device="cpu", normalize=False)
    before = one.score(PAIRS[:2])
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"] = weights["classifier.weight"] * 2
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    other = TorchCrossEncoder(model=folder, device="cpu", normalize=False)
    assert other.score(PAIRS[:2]) != pytest.approx(before, abs=1e-4)


def test_paths_and_the_home_folder_are_models(tiny_checkpoint, monkeypatch):
    folder = Path(tiny_checkpoint)
    monkeypatch.setenv("HOME", str(folder.parent))
    expected = TorchCrossEncoder(model=tiny_checkpoint).score(PAIRS[:2])
    for model in (folder, f"~/{folder.name}", Path("~") / folder.name):
        assert TorchCrossEncoder(model=model).score(PAIRS[:2]) == expected


def test_a_cancelled_call_ends_between_batches(tiny, monkeypatch):
    event = threading.Event()
    token = cancelled.set(event)
    batches: list[object] = []
    forward = torch_model.TorchModel._forward

    def counting(self, padded, prefix=None):
        batches.append(padded)
        event.set()
        return forward(self, padded, prefix)

    monkeypatch.setattr(torch_model.TorchModel, "_forward", counting)
    try:
        model = tiny.model_copy(update={"batch_tokens": 1})
        with pytest.raises(CancelledCallError):
            model.score(PAIRS * 20)
    finally:
        cancelled.reset(token)
    assert 0 < len(batches) < len(PAIRS) * 20


def test_a_forked_process_is_told_that_the_gpu_is_its_parents(tiny_checkpoint, monkeypatch):
    model = TorchCrossEncoder(model=tiny_checkpoint, device="cpu", dtype="float16")
    model.load()
    monkeypatch.setattr(model._loaded, "_device", "cuda:1")
    monkeypatch.setattr(model._loaded, "_process", -1)
    with pytest.raises(ScoringError, match="'spawn', or score"):
        model.score(PAIRS)


def test_scoring_by_name_imports_neither_flagembedding_nor_sentence_transformers(tiny_checkpoint):
    code = (
        "import sys\nfrom langchain_rerank import Reranker\n"
        f"Reranker(model={tiny_checkpoint!r}).model.score([('a', 'b')])\n"
        "print([m for m in ('FlagEmbedding', 'sentence_transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_long_texts_are_cut_before_they_are_tokenized(cross_encoder):
    question = "How many people live in Berlin?"
    start = "Berlin has 3,520,031 people, and many museums on an island in the river. " * 60
    (short,) = cross_encoder.score([(question, start)])
    (long,) = cross_encoder.score([(question, start * 300)])
    assert long == pytest.approx(short, abs=1e-6)


def test_memory_does_not_grow_with_every_length_that_is_met(tiny):
    """oneDNN keeps code for every size of input, so a processor must meet few of them."""
    sizes = set()
    forward = torch_model.TorchModel._forward

    def recording(self, padded, prefix=None):
        sizes.add(padded["input_ids"].size)
        return forward(self, padded, prefix)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_model.TorchModel, "_forward", recording)
        for count in range(1, 200):
            tiny.score([("q", "word " * count), ("q", "word " * (count // 2))])
    assert len(sizes) <= 128
    assert all(size % 8 == 0 for size in sizes)


def test_an_instruction_for_a_model_that_takes_none_is_an_error(tiny, tiny_checkpoint):
    with pytest.raises(ValueError, match="takes none; query_instruction"):
        tiny.with_instruction("find cities")
    with pytest.raises(ValueError, match="takes none"):
        TorchCrossEncoder(model=tiny_checkpoint, instruction="find cities").score(PAIRS[:1])


def test_the_scale_of_scores_is_told(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "identity")
    config = json.loads((folder / "config.json").read_text())
    config["sentence_transformers"] = {"activation_fn": "torch.nn.modules.linear.Identity"}
    (folder / "config.json").write_text(json.dumps(config))
    for model, activation, scale in (
        (tiny_checkpoint, "sigmoid", "sigmoid"),
        (folder, "identity", "sigmoid (uncalibrated)"),
    ):
        cross_encoder = TorchCrossEncoder(model=model)
        assert (cross_encoder.activation, cross_encoder.score_scale) == (activation, scale)
    assert TorchCrossEncoder(model=folder, normalize=False).score_scale == "logit"
