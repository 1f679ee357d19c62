"""FlagEmbeddingCrossEncoder: processes of its own, what is refused, which engine a name takes."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import sys

import pytest
import transformers

from langchain_rerank import (
    FlagEmbeddingCrossEncoder,
    ModelLoadError,
    TorchCrossEncoder,
)
from langchain_rerank.cross_encoders import from_name
from tests.checkpoints import QWEN3_TEMPLATE, save_decoder, save_modules, save_settings
from tests.cross_encoders.families import (
    ENCODER,
    FAMILIES,
    GEMMA,
    LAYERWISE,
    LIGHTWEIGHT,
    VERSION,
    every_family,
    with_encoder,
)
from tests.texts import real_pairs

PAIRS = real_pairs(12)[1:]


@with_encoder
def test_a_process_of_its_own_scores_and_exits_without_a_word_of_the_finalizer(make_flag, family):
    model = make_flag(family)
    code = f"print(*__import__('langchain_rerank').{model!r}.score([('q', 'p')]))"
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(model.score([("q", "p")])[0], abs=1e-6)
    assert "Exception ignored" not in done.stderr


@with_encoder
def test_a_forked_child_scores_by_what_it_inherits_and_by_what_it_loads(make_flag, family):
    model = make_flag(family)
    expected = model.score(PAIRS)
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()

    def score() -> None:
        results.put(model.score(PAIRS) + model.model_copy().score(PAIRS))

    child = context.Process(target=score)
    child.start()
    child.join(60)
    child.kill()
    assert child.exitcode == 0
    assert results.get() == pytest.approx(expected * 2, abs=1e-5)


# What is refused, and which engine a name takes


@every_family
def test_missing_weights_are_not_invented(make_flag, family, flag_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(flag_folder(family), tmp_path / "damaged")
    weights = load_file(folder / "model.safetensors")
    inner = "intermediate.dense.weight" if family is ENCODER else "mlp.up_proj.weight"
    del weights[next(name for name in weights if name.endswith(f"1.{inner}"))]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=rf"lacks weights.*1\.{inner}"):
        make_flag(family, model=folder).load()


@with_encoder
def test_what_flagembedding_would_score_wrongly_or_not_at_all(
    make_flag, family, flag_folder, tmp_path
):
    bert = flag_folder(family)
    prompted = shutil.copytree(bert, tmp_path / "prompted")
    prompts = {"prompts": {"a": "b: "}, "default_prompt_name": "a", "model_type": "CrossEncoder"}
    save_settings(prompted, "config_sentence_transformers.json", **prompts)
    save_modules(prompted, "sentence_transformers.models.Transformer")
    save_settings(prompted, "sentence_bert_config.json", transformer_task="sequence-classification")
    lm = save_decoder(tmp_path / "lm", "Qwen2ForCausalLM", template=QWEN3_TEMPLATE)
    name = "Qwen2ForSequenceClassification"
    classifier = save_decoder(tmp_path / "one", name, template=QWEN3_TEMPLATE, num_labels=1)
    for says, of, fields in (
        ("max_length=513 is over the 512", family, {"max_length": 513}),
        ("set model_class", GEMMA, {"model": bert, "compute_score_kwargs": {"prompt": "?"}}),
        ("no folder of that name", family, {"model": tmp_path / "nothing"}),
        (r"config\.json", GEMMA, {"model": tmp_path}),
        (r"'qwen2'.*TorchCrossEncoder", GEMMA, {"model": lm}),
        ("TorchCrossEncoder", family, {"model": lm}),
        ("TorchCrossEncoder", family, {"model": classifier}),
        ("prompt.*TorchCrossEncoder", family, {"model": prompted}),
    ):
        with pytest.raises(ModelLoadError, match=says):
            make_flag(of, **fields).load()


@pytest.mark.parametrize("family", [one for one in FAMILIES if one.broken_since <= VERSION])
def test_a_family_that_cannot_run_here_says_what_goes_together(tmp_path, family):
    model = FlagEmbeddingCrossEncoder(model=tmp_path, model_class=family.name, device="cpu")
    with pytest.raises(ModelLoadError, match="TorchCrossEncoder") as raised:
        model.score(PAIRS)
    needed = f'pip install langchain-rerank FlagEmbedding "{family.needed}"'
    for part in (str(tmp_path), family.name, needed, transformers.__version__):
        assert part in str(raised.value)
    if family in (ENCODER, GEMMA):
        assert isinstance(raised.value.__cause__, ImportError)


@with_encoder
def test_settings_that_would_be_dropped(make_flag, family):
    for setting in ({"instruction": "Find recipes"}, {"long_documents": "max"}):
        with pytest.raises(ValueError, match=next(iter(setting))):
            make_flag(family, **setting)
    with pytest.raises(ValueError, match="can't set normalize: use the field"):
        make_flag(family, compute_score_kwargs={"normalize": True})


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("BAAI/bge-reranker-v2-minicpm-layerwise", LAYERWISE),
        ("BAAI/bge-reranker-v2.5-gemma2-lightweight", LIGHTWEIGHT),
        ("/models/bge-reranker-v2-minicpm-layerwise/", LAYERWISE),
        ("/models/bge-reranker-v2.5-gemma2-lightweight/checkpoint-500", LIGHTWEIGHT),
        ("BAAI/bge-reranker-v2-m3", ENCODER),
        ("/models/bge-reranker-v2-gemma/checkpoint-9", GEMMA),
        ("somebody/a-name-that-is-not-in-the-table", ENCODER),
        ("./models/my-layerwise", ENCODER),
    ],
)
def test_only_flagembedding_runs_layerwise_and_lightweight_models(name, family):
    assert FlagEmbeddingCrossEncoder(model=name).family == family.name
    ours = family in (ENCODER, GEMMA)
    assert type(from_name(name)) is (TorchCrossEncoder if ours else FlagEmbeddingCrossEncoder)


@with_encoder
def test_the_table_is_flagembeddings(family):
    from FlagEmbedding.inference.reranker import model_mapping

    classes = model_mapping.RERANKER_CLASS_MAPPING
    names = {flag_class: known.value for known, flag_class in classes.items()}
    for model, entry in model_mapping.AUTO_RERANKER_MAPPING.items():
        assert FlagEmbeddingCrossEncoder(model=model).family == names[entry.model_class]
