"""TorchCrossEncoder: its scores and batches, memory and failures, and what does not load."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from langchain_rerank import ModelLoadError, ScoringError, TorchCrossEncoder
from langchain_rerank.cross_encoders import heads
from langchain_rerank.cross_encoders.tokenization import encode
from langchain_rerank.cross_encoders.torch_model import TorchModel
from tests.checkpoints import TOKENIZER_FILES, save_bert, save_settings
from tests.texts import BERLIN, FILLER, MUSEUMS, POPULATION, real_pairs

if TYPE_CHECKING:
    from collections.abc import Callable

PAIRS = real_pairs(60)


# Scores and batches


def test_neither_the_token_budget_nor_what_is_cut_off_changes_scores(cross_encoder):
    start = "Berlin has 3,520,031 people, and many museums on an island in the river. " * 60
    pairs = [*PAIRS[:20], (BERLIN, start)]
    expected = cross_encoder.score([*PAIRS[:20], (BERLIN, start * 300)])
    for batch_tokens in (64, 8192):
        other = cross_encoder.model_copy(update={"batch_tokens": batch_tokens})
        assert other.score(pairs) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-3), ("bfloat16", 0.3)])
def test_golden_scores(cross_encoder, dtype, error):
    model = cross_encoder.model_copy(update={"dtype": dtype})
    scores = model.score([(BERLIN, POPULATION), (BERLIN, MUSEUMS)])
    assert scores == pytest.approx([9.08509, -3.93431], abs=error)


def test_first_max_and_mean_are_those_of_the_windows(tiny, tokenizer):
    pairs = [(BERLIN, FILLER), (BERLIN, MUSEUMS), ("mappings", FILLER[:500])]
    windows = encode(tokenizer, pairs, 64, whole=True)
    logits: dict[int, list[float]] = {}
    tiny.load()
    with torch.inference_mode():
        for owner, *row in zip(windows.owners, *windows.features.values(), strict=True):
            features = {
                name: torch.tensor([ids]) for name, ids in zip(windows.features, row, strict=True)
            }
            logits.setdefault(owner, []).append(tiny._loaded._scorer(**features).item())
    assert len(logits[0]) > 50
    for mode, reduce in {"first": lambda scores: scores[0], "max": max, "mean": np.mean}.items():
        model = tiny.model_copy(update={"long_documents": mode, "max_length": 64})
        expected = [reduce(logits[owner]) for owner in range(len(pairs))]
        assert model.score(pairs) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_batches_are_cut_by_tokens_longest_first(tiny, batches, device, one_torch_thread):
    model = tiny.model_copy(update={"batch_tokens": 256, "dtype": "float32", "device": device})
    model.score(PAIRS)
    shapes = [batch["input_ids"].shape for batch in batches]
    assert sum(rows for rows, _ in shapes) == len(PAIRS)
    rounding = 7 if device == "cpu" else 0
    assert all(rows == 1 or rows * (width - rounding) <= 256 for rows, width in shapes)
    widths = [width for _, width in shapes]
    assert widths == sorted(widths, reverse=True)


def test_a_processor_meets_few_sizes_of_input(tiny, batches):
    """For each oneDNN makes code, which it keeps."""
    for count in range(1, 200):
        tiny.score([("q", "word " * count), ("q", "word " * (count // 2))])
    sizes = {batch["input_ids"].size for batch in batches}
    assert len(sizes) <= 128
    assert all(size % 8 == 0 for size in sizes)


# Memory and failures


@pytest.fixture
def before_each_batch(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], None]], None]:
    """Call a check with the number of tokens before each forward pass."""
    forward = TorchModel._forward

    def patch(check: Callable[[int], None]) -> None:
        def checked(self: TorchModel, padded: dict[str, Any], prefix: Any) -> torch.Tensor:
            check(padded["input_ids"].size)
            return forward(self, padded, prefix)

        monkeypatch.setattr(TorchModel, "_forward", checked)

    return patch


def fail_over(most: int) -> Callable[[int], None]:
    def check(tokens: int) -> None:
        if tokens > most:
            raise torch.OutOfMemoryError

    return check


@pytest.fixture
def accelerated(tiny: TorchCrossEncoder) -> TorchCrossEncoder:
    """By a name that is not "cpu", the CPU goes the way of a GPU."""
    return tiny.model_copy(update={"device": "cpu:0", "dtype": "float32", "max_length": 128})


def test_running_out_of_memory_changes_no_score_and_is_logged(
    accelerated, batches, before_each_batch, caplog
):
    expected = accelerated.score(PAIRS)
    before_each_batch(fail_over(300))
    assert accelerated.score(PAIRS) == pytest.approx(expected, abs=1e-5)
    assert any("out of memory: batches now hold" in record.message for record in caplog.records)
    # What was learnt holds: the next call does not run into the wall again.
    del batches[:]
    accelerated.score(PAIRS)
    assert all(batch["input_ids"].size <= 300 for batch in batches)


def test_a_single_pair_that_does_not_fit_says_what_to_do(accelerated, before_each_batch):
    before_each_batch(fail_over(0))
    with pytest.raises(ScoringError, match="lower max_length, choose a smaller model") as raised:
        accelerated.score(PAIRS)
    assert isinstance(raised.value.__cause__, torch.OutOfMemoryError)


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_a_failure_is_chained_and_not_retried_and_leaves_the_model_usable(
    tiny, batches, before_each_batch, device
):
    model = tiny.model_copy(update={"device": device, "dtype": "float32", "batch_tokens": 10**5})
    expected = model.score(PAIRS[:1])
    error = RuntimeError("boom")
    failures = [error]

    def fail_once(_tokens: int) -> None:
        while failures:
            raise failures.pop()

    before_each_batch(fail_once)
    del batches[:]
    with pytest.raises(ScoringError, match="RuntimeError: boom") as raised:
        model.score(PAIRS[:1])
    assert raised.value.__cause__ is error
    assert len(batches) == 1
    assert model.score(PAIRS[:1]) == pytest.approx(expected, abs=1e-6)


def test_a_forked_process_is_told_that_the_gpu_is_its_parents(tiny_checkpoint, monkeypatch):
    model = TorchCrossEncoder(model=tiny_checkpoint, device="cpu", dtype="float16")
    model.load()
    monkeypatch.setattr(model._loaded, "_device", "cuda:1")
    monkeypatch.setattr(model._loaded, "_process", -1)
    with pytest.raises(ScoringError, match="'spawn', or score"):
        model.score(PAIRS)


# A citizen of its process


def test_the_callers_thread_settings_stay(tiny):
    def in_new_thread() -> int:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(torch.get_num_threads).result()

    before = torch.get_num_threads(), in_new_thread()
    tiny.score(PAIRS)
    assert (torch.get_num_threads(), in_new_thread()) == before


def test_weights_are_loaded_once_for_equal_settings_until_their_files_change(
    tiny_checkpoint, tmp_path, monkeypatch
):
    # A copy, as the weights of the original may be held by another test's model.
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    loads: list[object] = []
    build = heads.build
    monkeypatch.setattr(heads, "build", lambda *a: loads.append(a) or build(*a))
    one = TorchCrossEncoder(model=str(folder), device="cpu", normalize=False)
    other = TorchCrossEncoder(model=Path(folder), device="cpu", max_length=64)
    one.load()
    other.load()
    assert one._loaded is other._loaded
    one.close()
    other.score(PAIRS)
    TorchCrossEncoder(model=folder, device="cpu", dtype="bfloat16").load()
    assert len(loads) == 2
    other.close()
    before = one.score(PAIRS[:2])
    assert len(loads) == 3
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"] = weights["classifier.weight"] * 2
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert one.model_copy().score(PAIRS[:2]) != pytest.approx(before, abs=1e-4)


def test_a_process_of_its_own_imports_little_scores_and_exits_silently(tiny):
    code = (
        "import pickle, sys\n"
        "model = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "names = [n for n in ('FlagEmbedding', 'sentence_transformers') if n in sys.modules]\n"
        "print(*model.score([('q', 'p'), ('who', 'somebody')]), names)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, pickle.dumps(tiny).hex()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *scores, names = done.stdout.split()
    expected = tiny.score([("q", "p"), ("who", "somebody")])
    assert list(map(float, scores)) == pytest.approx(expected, abs=1e-6)
    assert (names, done.stderr) == ("[]", "")


# What does not load


def only(*names: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for file in folder.iterdir():
            if file.name not in names:
                file.unlink()

    return spoil


def truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (only(), "config.json"),
        (only("config.json", *TOKENIZER_FILES), "safetensors"),
        # transformers 5 makes up a tokenizer of five tokens, and every text would score alike.
        (
            only("config.json", "model.safetensors"),
            "knows 5 tokens, and a model that knows 30522|Can't load tokenizer",
        ),
        (truncate, "could not load"),
        (lambda folder: save_settings(folder, hidden_size=64), "could not load"),
    ],
    ids=["empty", "no weights", "no tokenizer", "damaged weights", "weights of another shape"],
)
def test_a_folder_that_is_not_whole_is_named_and_may_be_mended(
    tiny_checkpoint, tmp_path, spoil, named
):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    spoil(folder)
    model = TorchCrossEncoder(model=folder, device="cpu")
    for _ in range(2):
        with pytest.raises(ModelLoadError, match=named) as raised:
            model.score(PAIRS)
        assert str(folder) in str(raised.value)
        assert isinstance(raised.value.__cause__, Exception)
    shutil.copytree(tiny_checkpoint, folder, dirs_exist_ok=True)
    assert len(model.score(PAIRS)) == len(PAIRS)


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there(tiny_checkpoint, device):
    with pytest.raises(ModelLoadError, match=f"on {device}"):
        TorchCrossEncoder(model=tiny_checkpoint, device=device).load()


def test_threads_that_load_find_each_its_own_faults_and_leave_transformers_as_it_was(
    checkpoint, tiny_checkpoint, tmp_path
):
    from transformers.utils import logging

    headless = save_bert(tmp_path, checkpoint, "BertModel", num_labels=1)
    before = logging.is_progress_bar_enabled()

    def load(number: int) -> bool:
        folder = headless if number % 2 else tiny_checkpoint
        try:
            TorchCrossEncoder(model=folder, device="cpu").load()
        except ModelLoadError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(load, range(16))) == [True, False] * 8
    assert logging.is_progress_bar_enabled() == before
