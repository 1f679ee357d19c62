"""Which graph is taken, how a checkpoint becomes one, and what the cache of graphs promises."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from langchain_rerank import OnnxCrossEncoder, TorchCrossEncoder
from langchain_rerank.cross_encoders import int8_layers, onnx_export
from tests import checkpoints
from tests.cross_encoders.test_onnx import PAIRS
from tests.cross_encoders.test_parity import FORMS
from tests.texts import BERLIN

EXPORTED = [
    "bert with a prompt",
    "xlm-roberta",
    "deberta-v2",
    "modernbert, cls",
    "modernbert, mean",
    "qwen3 with a prompt",
    "qwen3 with a template",
    "llama",
    "ettin, mean and residual",
    "ettin with a prompt",
    "logit score of two tokens",
    "logit score of one token",
]


def python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


# From checkpoint to graph


@pytest.mark.parametrize("form", EXPORTED)
def test_int8_ranks_as_pytorch_does(form, tmp_path, request, cache, capsys):
    caplog, checkpoint = map(request.getfixturevalue, ("caplog", "checkpoint"))
    folder = FORMS[form](tmp_path, checkpoint)
    pairs = [(BERLIN, text[: 10 + 12 * i]) for i, text in enumerate(list(topics.values())[:30])]
    caplog.clear()
    capsys.readouterr()
    int8 = np.array(OnnxCrossEncoder(model=folder, normalize=False).score(pairs))
    loud = [record for record in caplog.records if not record.name.startswith("langchain_rerank")]
    assert (loud, *capsys.readouterr()) == ([], "", "")
    float32 = np.array(TorchCrossEncoder(model=folder, normalize=False, device="cpu").score(pairs))
    ranks = [scores.argsort().argsort() for scores in (int8, float32)]
    assert np.corrcoef(ranks)[0, 1] > 0.9
    assert np.abs(int8 - float32).max() < 0.17 * np.ptp(float32)

    (file,) = cache.glob("*/model.onnx")
    graph = onnx.load(file, load_external_data=False).graph
    products = [node for node in graph.node if node.op_type in ("Gemm", "MatMul")]
    constants = {
        tensor.name
        for tensor in graph.initializer
        if len(tensor.dims) == 2 and min(tensor.dims) > 8
    }
    assert not [node for node in products if node.input[1] in constants], (
        "all but heads are in integers"
    )


def test_what_is_not_known_keeps_its_weights_and_shared_layers_stay_shared():
    class Doubling(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    shared = nn.Linear(8, 8, dtype=torch.bfloat16)
    model = nn.Sequential(nn.Embedding(9, 8), shared, nn.LayerNorm(8), Doubling(8, 8), shared)
    model.to(torch.bfloat16)
    ids = torch.arange(9)[None]
    with torch.inference_mode():
        expected = model(ids).float()
        weight = shared.weight.float()
        int8_layers.quantize(model, 127)
        assert model(ids).numpy() == pytest.approx(expected.numpy(), abs=0.1)
    assert model[1] is model[4]
    assert type(model[3]) is Doubling
    assert model[1].weight.numpy() == pytest.approx(weight.numpy(), abs=0.002)
    kinds = {tensor.dtype for tensor in model.state_dict().values()}
    assert kinds == {torch.int8, torch.float32}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_export_takes_less_than_three_times_the_weights(cache, tmp_path, checkpoint):
    sizes = {"hidden_size": 768, "num_hidden_layers": 8, "intermediate_size": 3072}
    folder = checkpoints.save_bert(
        tmp_path, checkpoint, "BertForSequenceClassification", num_labels=1, **sizes
    )
    printed = python(
        "import onnx, onnxruntime, torch, transformers\n"
        "from transformers import AutoModelForSequenceClassification\n"
        "from langchain_rerank import OnnxCrossEncoder\n"
        "def peak():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return int(next(line.split()[1] for line in lines if line.startswith('VmHWM')))\n"
        f"before = peak()\nOnnxCrossEncoder(model={folder!r}).load()\nprint(peak() - before)"
    )
    grown = int(printed) * 1024
    assert grown < 3 * (tmp_path / "model.safetensors").stat().st_size


# The cache


def test_a_checkpoint_is_exported_once_and_then_loads_without_torch(cache, tiny_checkpoint):
    first = OnnxCrossEncoder(model=tiny_checkpoint).score(PAIRS)
    before = {file: file.stat().st_mtime_ns for file in cache.glob("*/*")}
    printed = python(
        "import sys\nfrom langchain_rerank import OnnxCrossEncoder\n"
        f"print(OnnxCrossEncoder(model={tiny_checkpoint!r}).score({PAIRS!r}))\n"
        "print([name for name in ('torch', 'FlagEmbedding', 'onnx') if name in sys.modules])"
    )
    assert printed == f"{first}\n[]\n"
    assert {file: file.stat().st_mtime_ns for file in cache.glob("*/*")} == before


def save_other_weights(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["classifier.bias"] = weights["classifier.bias"] + 1
    later = file.stat().st_mtime_ns + 10**9
    save_file(weights, file, metadata={"format": "pt"})
    os.utime(file, ns=(later, later))


def test_a_changed_model_is_exported_again_in_place_of_the_old(cache, tiny_checkpoint, tmp_path):
    OnnxCrossEncoder(model=tiny_checkpoint).load()
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    old = OnnxCrossEncoder(model=str(folder), normalize=False)
    before = old.score(PAIRS)
    save_other_weights(folder)
    assert OnnxCrossEncoder(model=str(folder), normalize=False).score(PAIRS) != before
    assert old.score(PAIRS) == before, "whoever has it open keeps it"
    assert len(list(cache.glob("*/model.onnx"))) == 2, "the other model's and the new one"
    assert not [*cache.glob(".*.partial")]


# Which files


PUBLISHED = ["", "_O2", "_O4", "_fp16", "_qint8_arm64", "_qint8_avx512_vnni", "_quint8_avx2"]
GRAPHS = [f"onnx/model{mark}.onnx" for mark in PUBLISHED]


@pytest.mark.parametrize(
    ("names", "kind", "expected"),
    [
        (GRAPHS, "x86-vnni", "onnx/model_qint8_avx512_vnni.onnx"),
        (GRAPHS, "x86", "onnx/model_quint8_avx2.onnx"),
        ([*GRAPHS, "model.safetensors"], "arm", "onnx/model_qint8_arm64.onnx"),
        (GRAPHS[:4], "x86", "onnx/model.onnx"),
        ([*GRAPHS[:4], "pytorch_model.bin"], "x86", None),
        (["model.onnx", "model_quantized.onnx"], "x86", "model_quantized.onnx"),
        (["onnx/model.onnx", "model.onnx", "training_args.bin"], "arm", "model.onnx"),
        (["onnx/model_fp16.onnx", "openvino/model.onnx"], "x86", None),
    ],
)
def test_the_graph_that_suits_the_processor(names, kind, expected):
    assert onnx_export.best_graph(names, kind) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["onnx/model.onnx"], "onnx/model.onnx"),
        (["model.safetensors", "onnx/model.onnx", "pytorch_model.bin"], "model.safetensors"),
        (["pytorch_model.bin", "training_args.bin"], "pytorch_model.bin"),
    ],
)
def test_only_what_is_needed_is_downloaded(names, expected):
    wanted = onnx_export.graph_wanted([*names, "config.json", "README.md"])
    assert set(names) & set(wanted) == {expected}


def test_a_published_graph_is_not_taken_where_modules_come_behind_it(tmp_path, checkpoint):
    folder = Path(FORMS["ettin, mean and residual"](tmp_path, checkpoint))
    (folder / "model_quantized.onnx").touch()
    read, graph = onnx_export.find_model(str(folder))
    assert [layer.kind for layer in read.layers] == ["Pooling", "Dense", "LayerNorm", "Dense"]
    assert graph is None
