"""FlagEmbeddingCrossEncoder: which family, what is refused, processes and the finalizer."""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
import subprocess
import sys

import pytest
import transformers

from langchain_rerank import FlagEmbeddingCrossEncoder, ModelLoadError, TorchCrossEncoder
from langchain_rerank.cross_encoders import from_name
from langchain_rerank.cross_encoders.flag_embedding import family_of
from tests.checkpoints import QWEN3_TEMPLATE, save_decoder, save_settings
from tests.cross_encoders.families import (
    ENCODER,
    GEMMA,
    LAYERWISE,
    LIGHTWEIGHT,
    every_family,
    with_encoder,
)
from tests.texts import real_pairs

PAIRS = real_pairs(12)[1:]


@with_encoder
def test_flagembeddings_finalizer_does_not_touch_the_model(make_flag, monkeypatch, family):
    """It would move the weights to the CPU as soon as its reranker is collected."""
    from FlagEmbedding.abc.inference import AbsReranker

    finalized = []
    monkeypatch.setattr(AbsReranker, "stop_self_pool", lambda _: finalized.append(True))
    model = make_flag(family)
    model.load()
    model.close()
    gc.collect()
    assert not finalized


@with_encoder
def test_a_process_of_its_own_scores_and_exits_without_a_word_of_the_finalizer(make_flag, family):
    model = make_flag(family)
    code = f"print(*__import__('langchain_rerank').{model!r}.score([('q', 'p')]))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) == pytest.approx(model.score([("q", "p")])[0], abs=1e-6)
    assert "Exception ignored" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@with_encoder
def test_a_forked_child_scores_by_what_it_inherits_and_by_what_it_loads(make_flag, family):
    model = make_flag(family)
    many = PAIRS
    expected = model.score(many)
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()

    def score() -> None:
        results.put(model.score(many) + model.model_copy().score(many))

    child = context.Process(target=score)
    child.start()
    child.join(60)
    child.kill()
    assert child.exitcode == 0
    assert results.get() == pytest.approx(expected * 2, abs=1e-5)


# What is refused.


@every_family
def test_missing_weights_are_not_invented(make_flag, family, flag_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(flag_folder(family), tmp_path / "damaged")
    weights = load_file(folder / "model.safetensors")
    inner = "intermediate.dense.weight" if family is ENCODER else "mlp.up_proj.weight"
    lost = next(name for name in weights if name.endswith(f"1.{inner}"))
    del weights[lost]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=rf"lacks weights.*1\.{inner}"):
        make_flag(family, model=folder).load()


@with_encoder
def test_a_length_that_the_encoder_cannot_read(make_flag, family):
    with pytest.raises(ModelLoadError, match="max_length=513 is over the 512"):
        make_flag(family, max_length=513).load()


@with_encoder
def test_an_encoder_taken_for_a_decoder_names_the_setting(make_flag, family):
    with pytest.raises(ModelLoadError, match="set model_class"):
        make_flag(GEMMA, model=make_flag(family).model, compute_score_kwargs={"prompt": "?"}).load()


@with_encoder
def test_a_folder_that_is_not_there(make_flag, family, tmp_path):
    with pytest.raises(ModelLoadError, match="no folder of that name"):
        make_flag(family, model=tmp_path / "nothing").load()
    with pytest.raises(ModelLoadError, match=r"config\.json"):
        make_flag(GEMMA, model=tmp_path).load()


@pytest.mark.parametrize("name", ["Qwen2ForCausalLM", "Qwen2ForSequenceClassification"])
@with_encoder
def test_a_model_of_another_prompt_is_not_asked_bge_gemmas(make_flag, tmp_path, family, name):
    labels = {"num_labels": 1} if name.endswith("Classification") else {}
    folder = save_decoder(tmp_path, name, template=QWEN3_TEMPLATE, **labels)
    with pytest.raises(ModelLoadError, match=r"'qwen2'.*TorchCrossEncoder"):
        make_flag(GEMMA, model=folder).load()
    with pytest.raises(ModelLoadError, match="TorchCrossEncoder"):
        make_flag(family, model=folder).load()


@with_encoder
def test_an_encoder_with_a_saved_prompt_is_refused(make_flag, flag_folder, tmp_path, family):
    folder = shutil.copytree(flag_folder(family), tmp_path / "prompted")
    prompts = {"prompts": {"a": "b: "}, "default_prompt_name": "a", "model_type": "CrossEncoder"}
    save_settings(folder, "config_sentence_transformers.json", **prompts)
    (folder / "modules.json").write_text(
        '[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]'
    )
    save_settings(folder, "sentence_bert_config.json", transformer_task="sequence-classification")
    with pytest.raises(ModelLoadError, match=r"prompt.*TorchCrossEncoder"):
        make_flag(family, model=folder).load()


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, id=family.name)
        for family in (ENCODER, GEMMA, LAYERWISE, LIGHTWEIGHT)
        if not family.works
    ],
)
def test_a_family_that_cannot_run_here_says_what_goes_together(tmp_path, family):
    model = FlagEmbeddingCrossEncoder(model=tmp_path, model_class=family.name, device="cpu")
    with pytest.raises(ModelLoadError) as raised:
        model.score(PAIRS)
    needed = f'pip install langchain-rerank FlagEmbedding "{family.needed}"'
    for part in (str(tmp_path), family.name, needed, transformers.__version__):
        assert part in str(raised.value)
    if family in (ENCODER, GEMMA):
        assert "TorchCrossEncoder" in str(raised.value)
        assert isinstance(raised.value.__cause__, ImportError)


def test_an_instruction_is_not_dropped(tmp_path):
    model = FlagEmbeddingCrossEncoder(model=tmp_path, instruction="Find recipes")
    with pytest.raises(ValueError, match="takes no instruction"):
        model.score(PAIRS)


def test_normalize_has_a_field_of_its_own():
    with pytest.raises(ValueError, match="use the field"):
        FlagEmbeddingCrossEncoder(compute_score_kwargs={"normalize": True})


# Which engine a name takes.

NAMES = {
    "BAAI/bge-reranker-v2-minicpm-layerwise": LAYERWISE.name,
    "BAAI/bge-reranker-v2.5-gemma2-lightweight": LIGHTWEIGHT.name,
    "/models/bge-reranker-v2-minicpm-layerwise/": LAYERWISE.name,
    "/models/bge-reranker-v2.5-gemma2-lightweight/checkpoint-500": LIGHTWEIGHT.name,
    "BAAI/bge-reranker-v2-m3": None,
    "BAAI/bge-reranker-v2-gemma": None,
    "somebody/a-name-that-is-not-in-the-table": None,
    "./models/my-layerwise": None,
}


@pytest.mark.parametrize(("name", "family"), NAMES.items())
def test_only_flagembedding_runs_layerwise_and_lightweight_models(name, family):
    assert family_of(name) == family
    engine = TorchCrossEncoder if family is None else FlagEmbeddingCrossEncoder
    assert type(from_name(name)) is engine


def test_the_family_is_looked_up_in_flagembeddings_table():
    known = {**NAMES, "/models/bge-reranker-v2-gemma/checkpoint-9": GEMMA.name}
    known["BAAI/bge-reranker-v2-gemma"] = GEMMA.name
    for name, family in known.items():
        assert FlagEmbeddingCrossEncoder(model=name).family == (family or ENCODER.name)


@with_encoder
def test_the_table_is_flagembeddings(family):
    from FlagEmbedding.inference.reranker.model_mapping import (
        AUTO_RERANKER_MAPPING,
        RERANKER_CLASS_MAPPING,
    )

    names = {flag_class: known.value for known, flag_class in RERANKER_CLASS_MAPPING.items()}
    for model, entry in AUTO_RERANKER_MAPPING.items():
        assert FlagEmbeddingCrossEncoder(model=model).family == names[entry.model_class]
