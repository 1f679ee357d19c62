"""What loading promises: errors that help, a second try, no harm to other threads."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from langchain_rerank import ModelLoadError, TorchCrossEncoder
from tests.checkpoints import TOKENIZER_FILES, save_bert, save_settings

if TYPE_CHECKING:
    from collections.abc import Callable

PAIRS = [("q", "p"), ("who", "somebody")]


def assert_does_not_load(*parts: str, **fields) -> None:
    model = TorchCrossEncoder(**{"device": "cpu", **fields})
    with pytest.raises(ModelLoadError) as raised:
        model.score(PAIRS)
    for part in (fields["model"], *parts):
        assert part in str(raised.value)
    assert isinstance(raised.value.__cause__, Exception)


def spoilt(keep: tuple[str, ...]) -> Callable[[Path, Path], None]:
    """Copy only some files of a checkpoint."""

    def copy(source: Path, folder: Path) -> None:
        for name in keep:
            shutil.copy(source / name, folder)

    return copy


def damaged(source: Path, folder: Path) -> None:
    shutil.copytree(source, folder, dirs_exist_ok=True)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def of_another_shape(source: Path, folder: Path) -> None:
    shutil.copytree(source, folder, dirs_exist_ok=True)
    save_settings(folder, hidden_size=64)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (spoilt(()), "config.json"),
        (spoilt(("config.json", *TOKENIZER_FILES)), "safetensors"),
        # transformers makes up a tokenizer of five tokens, and every text would score alike.
        (
            spoilt(("config.json", "model.safetensors")),
            "tokenizer that knows 5 tokens, and a model that knows 30522",
        ),
        (damaged, ""),
        (of_another_shape, ""),
    ],
    ids=["empty", "no weights", "no tokenizer", "damaged weights", "weights of another shape"],
)
def test_a_folder_that_is_not_whole_is_named(tiny_checkpoint, tmp_path, make, named):
    make(Path(tiny_checkpoint), tmp_path)
    assert_does_not_load(named, model=str(tmp_path))


def test_an_unknown_name_without_a_network():
    assert_does_not_load("no folder of that name", model="nobody/there-is-no-such-model")


def test_a_checkpoint_without_a_head_would_score_at_random(checkpoint, tmp_path):
    folder = save_bert(tmp_path, checkpoint, "BertModel", num_labels=1)
    assert_does_not_load("config.json", "BertModel", model=folder)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there(tiny_checkpoint):
    assert_does_not_load("on cuda", model=tiny_checkpoint, device="cuda")


def test_a_device_that_does_not_exist(tiny_checkpoint):
    assert_does_not_load("on gpu", model=tiny_checkpoint, device="gpu")


def test_after_a_failure_the_next_score_tries_again(tiny_checkpoint, tmp_path):
    folder = tmp_path / "later"
    model = TorchCrossEncoder(model=str(folder), device="cpu")
    for _ in range(2):
        with pytest.raises(ModelLoadError):
            model.score(PAIRS)
    shutil.copytree(tiny_checkpoint, folder)
    assert len(model.score(PAIRS)) == 2


def test_a_relative_path_loads(tiny_checkpoint, monkeypatch):
    monkeypatch.chdir(Path(tiny_checkpoint).parent)
    assert len(TorchCrossEncoder(model=Path(tiny_checkpoint).name).score(PAIRS)) == 2


def test_loading_leaves_transformers_as_it_was(tiny_checkpoint, tmp_path):
    from transformers import PreTrainedModel
    from transformers.utils import logging

    before = PreTrainedModel.__dict__["from_pretrained"], logging.is_progress_bar_enabled()
    TorchCrossEncoder(model=tiny_checkpoint).load()
    with pytest.raises(ModelLoadError):
        TorchCrossEncoder(model=str(tmp_path)).load()
    after = PreTrainedModel.__dict__["from_pretrained"], logging.is_progress_bar_enabled()
    assert after == before


def test_threads_that_load_different_models_find_each_its_own_faults(
    checkpoint, tiny_checkpoint, tmp_path
):
    headless = save_bert(tmp_path, checkpoint, "BertModel", num_labels=1)

    def load(number: int) -> bool:
        folder = headless if number % 2 else tiny_checkpoint
        try:
            TorchCrossEncoder(model=folder, device="cpu").load()
        except ModelLoadError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(load, range(16))) == [True, False] * 8


def test_a_process_of_its_own_scores_and_exits_silently(tiny_checkpoint, tiny):
    code = (
        "import pickle, sys\n"
        "model = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "print(model.score([('q', 'p'), ('who', 'somebody')]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, pickle.dumps(tiny).hex()],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == pytest.approx(tiny.score(PAIRS), abs=1e-6)
    assert done.stderr == ""
