"""How a checkpoint becomes an int8 graph, and what the cache of graphs promises."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from langchain_rerank import (
    ModelLoadError,
    OnnxCrossEncoder,
    TorchCrossEncoder,
)
from langchain_rerank.cross_encoders import heads, onnx_export, onnx_files, onnx_quantize
from langchain_rerank.cross_encoders.checkpoint import read_checkpoint
from tests import checkpoints
from tests.cross_encoders.test_onnx import BERLIN, PAIRS
from tests.cross_encoders.test_parity import FORMS

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


def python(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


# From checkpoint to graph


@pytest.mark.parametrize("form", EXPORTED)
def test_a_traced_graph_computes_what_pytorch_does(form, tmp_path, checkpoint):
    read = read_checkpoint(form, Path(FORMS[form](tmp_path, checkpoint)))
    tokenizer = heads.load_tokenizer(read)
    scorer = heads.build(read, tokenizer)
    texts = [text[: 5 + 9 * i] for i, text in enumerate(list(topics.values())[:9])]
    batches = [
        tokenizer(
            [BERLIN] * len(passages),
            passages,
            padding=True,
            padding_side="right",
            truncation="only_second",
            max_length=90,
            return_tensors="pt",
        )
        for passages in (texts[1:4], texts[:1], texts[8:], texts)
    ]
    with torch.inference_mode():
        expected = [scorer(**batch).numpy() for batch in batches]
    graph, matrices = onnx_export.trace(scorer, dict(batches[0]))
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    weights = {name: matrix.numpy() for name, matrix in matrices.items()}
    for batch, logits in zip(batches, expected, strict=True):
        inputs = {name: rows.numpy() for name, rows in batch.items()}
        (found,) = session.run(["logits"], {**inputs, **weights})
        assert found == pytest.approx(logits, abs=1e-4)


@pytest.mark.parametrize("form", EXPORTED)
@pytest.mark.usefixtures("cache")
def test_int8_ranks_as_pytorch_does(form, tmp_path, checkpoint, caplog, capsys):
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
    assert np.abs(int8 - float32).max() < 0.15 * np.ptp(float32)


def test_attention_is_fused_and_token_types_are_left_out(cache, tmp_path):
    folder = checkpoints.save_xlm_roberta(tmp_path)
    OnnxCrossEncoder(model=Path(folder)).load()
    (file,) = cache.glob("*/model.onnx")
    graph = onnx.load(file, load_external_data=False).graph
    assert [given.name for given in graph.input] == ["input_ids", "attention_mask"]
    operators = [node.op_type for node in graph.node]
    assert operators.count("QAttention") == 2, "attention is fused and in int8"
    assert operators.count("BiasGelu") == 2


def float_graph(folder: Path, tiny_checkpoint: str) -> Path:
    """A folder with a float32 graph and a tokenizer, but no checkpoint."""
    (folder / "onnx").mkdir(parents=True)
    read = read_checkpoint("tiny", Path(tiny_checkpoint))
    graph, matrices = onnx_export._export(read, folder)
    onnx_quantize._fold(graph.graph, matrices)
    fed = [given for given in graph.graph.input if given.name not in matrices]
    del graph.graph.input[:]
    graph.graph.input.extend(fed)
    graph.graph.initializer.extend(
        onnx.numpy_helper.from_array(matrix.numpy(), name)
        for name, matrix in matrices.items()
        if any(name in node.input for node in graph.graph.node)
    )
    onnx.save(graph, folder / "onnx" / "model.onnx")
    return folder


def test_a_float32_graph_is_quantized_without_its_checkpoint(cache, tmp_path, tiny_checkpoint):
    folder = float_graph(tmp_path / "float", tiny_checkpoint)
    expected = OnnxCrossEncoder(model=tiny_checkpoint, normalize=False).score(PAIRS)
    model = OnnxCrossEncoder(model=str(folder), normalize=False)
    assert model.score(PAIRS) == pytest.approx(expected, abs=0.1)
    assert len(list(cache.glob("*/model.onnx"))) == 2


def test_weights_are_quantized_to_the_bit_as_onnx_runtime_does(tmp_path, tiny_checkpoint):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = float_graph(tmp_path / "float", tiny_checkpoint) / "onnx" / "model.onnx"
    # Without the number of heads attention stays as it is, in theirs as in ours.
    onnx_quantize.quantize(*onnx_export._read(graph), {}, tmp_path / "ours.onnx")
    quantize_dynamic(
        graph,
        tmp_path / "theirs.onnx",
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=onnx_files.processor() == "x86",
    )

    def integers(name: str) -> list[tuple[tuple[int, ...], bytes]]:
        tensors = onnx.load(tmp_path / name).graph.initializer
        arrays = [onnx.numpy_helper.to_array(tensor) for tensor in tensors]
        kinds = ("int8", "uint8")
        return sorted((a.shape, a.tobytes()) for a in arrays if a.ndim == 2 and a.dtype in kinds)

    assert len(integers("ours.onnx")) == 17
    assert integers("ours.onnx") == integers("theirs.onnx")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_export_takes_less_than_three_times_the_weights(cache, tmp_path, checkpoint):
    sizes = {"hidden_size": 768, "num_hidden_layers": 8, "intermediate_size": 3072}
    folder = checkpoints.save_bert(
        tmp_path, checkpoint, "BertForSequenceClassification", num_labels=1, **sizes
    )
    process = python(
        "import onnxruntime.quantization, onnxruntime.transformers.optimizer, torch, transformers\n"
        "from transformers import AutoModelForSequenceClassification\n"
        "from langchain_rerank import OnnxCrossEncoder\n"
        "def peak():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return int(next(line.split()[1] for line in lines if line.startswith('VmHWM')))\n"
        f"before = peak()\nOnnxCrossEncoder(model={folder!r}).load()\nprint(peak() - before)"
    )
    grown = int(process.communicate()[0]) * 1024
    assert grown < 3 * (tmp_path / "model.safetensors").stat().st_size


# The cache


def written(cache: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in cache.glob("*/*")}


def test_a_checkpoint_is_exported_once(cache, tiny_checkpoint):
    first = OnnxCrossEncoder(model=tiny_checkpoint).score(PAIRS)
    before = written(cache)
    assert {file.name for file in before} >= {"model.onnx", "tokenizer.json", "manifest.json"}
    assert OnnxCrossEncoder(model=tiny_checkpoint).score(PAIRS) == first
    assert written(cache) == before


def test_what_is_cached_loads_without_torch(cache, tiny_checkpoint):
    OnnxCrossEncoder(model=tiny_checkpoint).load()
    process = python(
        "import sys\nfrom langchain_rerank import OnnxCrossEncoder\n"
        f"OnnxCrossEncoder(model={tiny_checkpoint!r}).score([('q', 'p')])\n"
        "print([name for name in ('torch', 'FlagEmbedding', 'onnx') if name in sys.modules])"
    )
    assert process.communicate()[0] == "[]\n"


def test_two_processes_at_once_both_get_a_whole_graph(cache, tiny_checkpoint):
    code = (
        "import sys\nfrom langchain_rerank import OnnxCrossEncoder\n"
        f"model = OnnxCrossEncoder(model={tiny_checkpoint!r})\n"
        "print(model.score([('who', 'somebody')]))"
    )
    processes = [python(code) for _ in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0] == outputs[1] != ""
    assert len(list(cache.glob("*/model.onnx"))) == 1
    assert not list(cache.glob(".*.partial"))


def test_a_killed_export_leaves_nothing_that_counts(cache, tiny_checkpoint):
    process = python(
        "import os, signal, onnxruntime.quantization as quantization\n"
        "def die(*args, **kwargs): os.kill(os.getpid(), signal.SIGKILL)\n"
        "quantization.quantize_dynamic = die\n"
        "from langchain_rerank import OnnxCrossEncoder\n"
        f"OnnxCrossEncoder(model={tiny_checkpoint!r}).load()"
    )
    process.communicate()
    assert process.returncode == -9
    assert list(cache.glob(".*.partial"))
    assert not list(cache.glob("[!.]*"))
    OnnxCrossEncoder(model=tiny_checkpoint).load()
    assert not list(cache.glob(".*.partial"))


@pytest.mark.parametrize(
    "name", ["model.onnx", "model.onnx.data", "tokenizer.json", "manifest.json"]
)
def test_a_damaged_file_of_the_cache_is_named_with_the_remedy(cache, tiny_checkpoint, name):
    OnnxCrossEncoder(model=tiny_checkpoint).load()
    (file,) = cache.glob(f"*/{name}")
    file.write_bytes(file.read_bytes()[:-1])
    model = OnnxCrossEncoder(model=tiny_checkpoint)
    with pytest.raises(ModelLoadError, match="Delete the folder") as error:
        model.load()
    assert str(file) in str(error.value)
    shutil.rmtree(file.parent)
    model.load()


def test_a_changed_model_is_exported_again_and_the_old_export_goes(
    cache, tiny_checkpoint, tmp_path
):
    OnnxCrossEncoder(model=tiny_checkpoint).load()
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    old = OnnxCrossEncoder(model=str(folder), normalize=False)
    before = old.score(PAIRS)
    first = set(cache.glob("*/model.onnx"))
    killed = next(cache.glob("model-*")).name[:-1] + "x"
    (cache / f".{killed}.partial").mkdir()
    (cache / f".{killed}.lock").touch()
    save_other_weights(folder)
    assert OnnxCrossEncoder(model=str(folder), normalize=False).score(PAIRS) != before
    assert old.score(PAIRS) == before, "whoever has it open keeps it"
    now = set(cache.glob("*/model.onnx"))
    assert len(now) == 2, "the other model's and the new one"
    assert len(now & first) == 1
    assert not list(cache.glob(".*.partial"))


def test_an_export_in_the_making_is_left_alone(cache, tiny_checkpoint, tmp_path):
    from filelock import FileLock

    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    OnnxCrossEncoder(model=str(folder)).load()
    (made,) = cache.glob("model-*")
    with FileLock(cache / f".{made.name}.lock"):
        save_other_weights(folder)
        OnnxCrossEncoder(model=str(folder)).load()
    assert (made / "model.onnx").is_file()


def save_other_weights(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"] = weights["classifier.bias"] + 1
    file = folder / "model.safetensors"
    later = file.stat().st_mtime_ns + 10**9
    save_file(weights, file, metadata={"format": "pt"})
    os.utime(file, ns=(later, later))


def test_a_cache_that_can_not_be_written_is_named(tiny_checkpoint, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LANGCHAIN_RERANK_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelLoadError, match="LANGCHAIN_RERANK_CACHE"):
        OnnxCrossEncoder(model=tiny_checkpoint).load()
