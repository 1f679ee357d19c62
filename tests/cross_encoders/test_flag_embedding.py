"""FlagEmbedding's own engine, all four families end to end, and ours measured against it.

FlagEmbedding 1.4.2 fails beside newer transformers, each family from another version on; there the
tests of a family give way to one of the error that says so.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import transformers

from langchain_rerank import (
    FlagEmbeddingCrossEncoder,
    ModelLoadError,
    ScoringError,
    TorchCrossEncoder,
)
from langchain_rerank.cross_encoders import from_name
from langchain_rerank.cross_encoders.flag_embedding import family_of
from langchain_rerank.cross_encoders.tokenization import text_windows
from tests.checkpoints import QWEN3_TEMPLATE, save_bert, save_decoder, save_model, save_settings
from tests.texts import real_pairs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUERY = "what does the with statement do"
PASSAGES = [
    topics["with"][:300],
    "short",
    topics["lambda"][:150],
    topics["del"][:500],
    "🙂 \u200fשלם \ud83d",
]
PAIRS = [(QUERY, passage) for passage in PASSAGES]
WELL_FORMED = [(QUERY, passage.replace("\ud83d", "\ufffd")) for passage in PASSAGES]
VERSION = tuple(map(int, transformers.__version__.split(".")[:2]))


@dataclass(frozen=True)
class Family:
    """One of FlagEmbedding's families, and the settings that its tiny model needs."""

    name: str
    flag_class: str
    broken_since: tuple[int, int]
    compute_score: dict[str, Any] = field(default_factory=dict)

    @property
    def works(self) -> bool:
        return self.broken_since > VERSION

    @property
    def needed(self) -> str:
        return "transformers<" + ".".join(map(str, self.broken_since))


ENCODER = Family("encoder-only-base", "FlagReranker", (5, 24))
GEMMA = Family("decoder-only-base", "FlagLLMReranker", (5, 24))
LAYERWISE = Family(
    "decoder-only-layerwise", "LayerWiseFlagLLMReranker", (4, 54), {"cutoff_layers": [3]}
)
LIGHTWEIGHT = Family(
    "decoder-only-lightweight",
    "LightWeightFlagLLMReranker",
    (4, 48),
    {"cutoff_layers": [3], "compress_layers": [2], "compress_ratio": 2},
)


def where_it_works(*families: Family) -> Any:
    """Run a test for each family that this transformers allows."""
    return pytest.mark.parametrize(
        "family",
        [
            pytest.param(
                family,
                id=family.name,
                marks=pytest.mark.skipif(not family.works, reason=f"needs {family.needed}"),
            )
            for family in families
        ],
    )


every_family = where_it_works(ENCODER, GEMMA, LAYERWISE, LIGHTWEIGHT)
layered_families = where_it_works(LAYERWISE, LIGHTWEIGHT)
with_encoder = where_it_works(ENCODER)
with_gemma = where_it_works(GEMMA)


def save_tiny(family: Family, folder: Path, real: str) -> str:
    if family is ENCODER:
        return save_bert(folder, real, "BertForSequenceClassification", num_labels=1)
    more = {"num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 2048}
    # Gives the tokenizer, and for one family the model.
    save_decoder(folder, "GemmaForCausalLM", template=None, **more, head_dim=8)
    if family is GEMMA:
        return str(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    more |= {"num_key_value_heads": 4, "vocab_size": len(tokenizer), "start_layer": 2}
    more |= {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos")}
    if family is LAYERWISE:
        from FlagEmbedding.inference.reranker.decoder_only.models import (
            modeling_minicpm_reranker as modeling,
        )

        scales = {"dim_model_base": 16, "scale_depth": 1.4, "scale_emb": 12}
        return save_model(folder, modeling.LayerWiseMiniCPMForCausalLM, **more, **scales)
    from FlagEmbedding.inference.reranker.decoder_only.models import gemma_model

    layers = {"layer_sep": 1, "layer_wise": True, "head_dim": 8, "query_pre_attn_scalar": 8}
    return save_model(folder, gemma_model.CostWiseGemmaForCausalLM, **more, **layers)


@pytest.fixture(scope="module")
def folder_of(checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Family], str]:
    """Folder of a family's tiny checkpoint, saved when first asked for."""
    saved: dict[str, str] = {}

    def folder_of(family: Family) -> str:
        if family.name not in saved:
            saved[family.name] = save_tiny(
                family, tmp_path_factory.mktemp(family.name) / "model", checkpoint
            )
        return saved[family.name]

    return folder_of


@pytest.fixture
def make(folder_of: Callable[[Family], str]) -> Callable[..., FlagEmbeddingCrossEncoder]:
    def make(family: Family, **fields: Any) -> FlagEmbeddingCrossEncoder:
        if "model" not in fields:
            fields["model"] = folder_of(family)
        defaults = {
            "model_class": family.name,
            "device": "cpu",
            "normalize": False,
            "compute_score_kwargs": family.compute_score,
        }
        return FlagEmbeddingCrossEncoder(**{**defaults, **fields})

    return make


@pytest.fixture
def flag(folder_of: Callable[[Family], str]) -> Callable[..., Any]:
    """FlagEmbedding's own class on the same checkpoint."""

    def flag(family: Family, **arguments: Any) -> Any:
        import FlagEmbedding

        flag_class = getattr(FlagEmbedding, family.flag_class)
        return flag_class(folder_of(family), devices="cpu", use_fp16=True, **arguments)

    return flag


# Our engine against FlagEmbedding's.


@with_encoder
def test_our_loop_scores_as_flagreranker(checkpoint, cross_encoder, family):
    from FlagEmbedding import FlagReranker

    pairs = real_pairs(200)
    expected = FlagReranker(checkpoint, devices="cpu").compute_score(pairs, batch_size=16)
    assert cross_encoder.score(pairs) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_length": 96, "query_max_length": 20},
        {"query_instruction": "Find: ", "passage_instruction": "Text: "},
    ],
    ids=["lengths", "instructions"],
)
@with_encoder
def test_our_loop_cuts_and_instructs_as_flagreranker(make, family, fields):
    model = make(family, **fields)
    ours = TorchCrossEncoder(model=model.model, device="cpu", normalize=False, **fields)
    pairs = real_pairs(48)
    assert ours.score(pairs) == pytest.approx(model.score(pairs), abs=1e-4)


@pytest.mark.parametrize("max_length", [64, 256])
@with_gemma
def test_our_loop_scores_as_flagllmreranker(flag, folder_of, tmp_path, family, max_length):
    folder = shutil.copytree(folder_of(family), tmp_path / "bge-reranker-v2-gemma")
    # The first one's query is cut, and FlagEmbedding counts its "A: " there.
    short = real_pairs(40)[1:]
    ours = TorchCrossEncoder(model=folder, device="cpu", normalize=False, max_length=max_length)
    expected = flag(family, max_length=max_length).compute_score([*WELL_FORMED, *short])
    assert ours.score([*WELL_FORMED, *short]) == pytest.approx(expected, abs=1e-4)
    assert np.ptp(expected) > 0.1, "a model that scores all alike would prove nothing"


# FlagEmbedding's engine in our class.


@every_family
def test_scores_are_those_of_flagembedding(make, flag, family):
    theirs = flag(family).compute_score(WELL_FORMED, **family.compute_score)
    ours = make(family).score(PAIRS)
    assert [type(score) for score in ours] == [float] * len(PAIRS)
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert np.ptp(ours) > 0.1, "a model that scores all alike would prove nothing"
    theirs = flag(family).compute_score(WELL_FORMED, normalize=True, **family.compute_score)
    assert make(family, normalize=True).score(PAIRS) == pytest.approx(theirs, abs=1e-5)


@every_family
def test_scores_follow_their_pairs_and_do_not_depend_on_company(make, family):
    model = make(family)
    scores = model.score(PAIRS)
    assert model.score(PAIRS[::-1]) == pytest.approx(scores[::-1], abs=1e-5)
    assert [model.score([pair])[0] for pair in PAIRS] == pytest.approx(scores, abs=1e-4)
    model.close()
    assert model.score(PAIRS) == pytest.approx(scores, abs=1e-6)


@where_it_works(GEMMA, LAYERWISE, LIGHTWEIGHT)
def test_instructions_and_prompt_are_passed_on(make, flag, family):
    fields = {"query_instruction": "Question: ", "passage_instruction": "Text: "}
    theirs = flag(
        family,
        query_instruction_for_rerank="Question: ",
        passage_instruction_for_rerank="Text: ",
    ).compute_score(WELL_FORMED, prompt="Yes or No?", **family.compute_score)
    kwargs = {**family.compute_score, "prompt": "Yes or No?"}
    ours = make(family, compute_score_kwargs=kwargs, **fields).score(PAIRS)
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert ours != pytest.approx(make(family).score(PAIRS), abs=1e-2)


@layered_families
def test_the_cutoff_layer_chooses_the_score(make, family):
    by_layer = [
        make(family, compute_score_kwargs={"cutoff_layers": [layer]}).score(PAIRS)
        for layer in (2, 3, 4)
    ]
    assert len({tuple(scores) for scores in by_layer}) == 3


@pytest.mark.parametrize("layers", [[2, 3], [99]])
@pytest.mark.parametrize("count", [1, 2, 5])
@layered_families
def test_layers_that_do_not_give_one_score_are_an_error(make, family, layers, count):
    model = make(family, compute_score_kwargs={"cutoff_layers": layers})
    with pytest.raises(ScoringError, match="layer"):
        model.score(PAIRS[:count])


@pytest.mark.parametrize("mode", ["max", "mean"])
@every_family
def test_long_documents_are_scored_by_windows(make, family, mode):
    reduce = {"max": max, "mean": np.mean}[mode]
    long = topics["with"][:1500]
    model = make(family, long_documents=mode, max_length=96)
    score, short = model.score([(QUERY, long), (QUERY, "short")])

    room = 96 - model._overhead()
    windows, _ = text_windows(model._reranker.tokenizer, [(QUERY, long)], room)
    assert len(windows) > 3
    first = make(family, max_length=96)
    assert score == pytest.approx(reduce(first.score(windows)), abs=1e-4)
    assert short == pytest.approx(first.score([(QUERY, "short")])[0], abs=1e-4)


def hook(model: FlagEmbeddingCrossEncoder, check: Callable[[torch.Tensor], None]) -> list[int]:
    """Call `check` on the input ids within each forward pass; the list collects batch sizes."""
    sizes: list[int] = []

    def before(_module: Any, args: tuple[torch.Tensor]) -> None:
        sizes.append(len(args[0]))
        check(args[0])

    model.load()
    model._reranker.model.get_input_embeddings().register_forward_pre_hook(before)
    return sizes


@where_it_works(GEMMA, LAYERWISE, LIGHTWEIGHT)
def test_windows_leave_room_for_long_instructions(make, family):
    """Nothing of a document is lost between its windows, nor its end."""
    rows: list[list[int]] = []
    model = make(
        family,
        long_documents="max",
        max_length=256,
        passage_instruction="the quick brown fox jumps over the lazy dog " * 2,
        compute_score_kwargs={**family.compute_score, "prompt": "Yes"},
    )
    hook(model, lambda ids: rows.extend(ids.tolist()))
    words = [f"w{number}x" for number in range(300)]
    model.score([(QUERY, " ".join(words))])
    read = "".join(model._reranker.tokenizer.batch_decode(rows))
    assert [word for word in words if word not in read] == []


@pytest.mark.parametrize("fatal", [RuntimeError("boom"), torch.OutOfMemoryError("CUDA")])
@every_family
def test_a_failing_forward_reaches_the_caller_with_its_cause(make, family, fatal):
    def fail(_ids: torch.Tensor) -> None:
        raise fatal

    model = make(family)
    sizes = hook(model, fail)
    says = "boom" if type(fatal) is RuntimeError else "lower max_length or choose a smaller model"
    with pytest.raises(ScoringError, match=says) as raised:
        model.score(PAIRS)
    assert raised.value.__cause__ is fatal
    assert sizes[-1] == 1 or len(sizes) == 1, "FlagEmbedding alone would go on down to no pair"


@every_family
def test_out_of_memory_on_a_big_batch_is_survived(make, family):
    model = make(family, batch_tokens=8192)
    expected = model.score(PAIRS)

    def check(ids: torch.Tensor) -> None:
        if len(ids) > 2:
            msg = "CUDA out of memory"
            raise torch.OutOfMemoryError(msg)

    sizes = hook(model, check)
    assert model.score(PAIRS) == pytest.approx(expected, abs=1e-4)
    assert sizes[0] == len(PAIRS)
    assert sizes[-1] <= 2


@every_family
def test_no_bar_unless_asked_for(make, family, capfd):
    many = PAIRS * 3
    make(family, batch_tokens=1024).score(many)
    assert "it/s" not in capfd.readouterr().err
    make(family, batch_tokens=1024, show_progress=True).score(many)
    assert "it/s" in capfd.readouterr().err


@with_gemma
def test_direct_users_of_flagembedding_keep_their_bars(make, flag, capfd, family):
    make(family).score(PAIRS)
    capfd.readouterr()
    flag(family).compute_score(WELL_FORMED * 30)
    assert "it/s" in capfd.readouterr().err


@with_encoder
def test_flagembeddings_finalizer_does_not_touch_the_model(make, monkeypatch, family):
    """It would move the weights to the CPU as soon as its reranker is collected."""
    from FlagEmbedding.abc.inference import AbsReranker

    finalized = []
    monkeypatch.setattr(AbsReranker, "stop_self_pool", finalized.append)
    model = make(family)
    model.load()
    model.close()
    gc.collect()
    assert not finalized


@with_encoder
def test_a_process_of_its_own_scores_and_exits_silently(make, family):
    model = make(family)
    code = f"print(*__import__('langchain_rerank').{model!r}.score([('q', 'p')]))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) == pytest.approx(model.score([("q", "p")])[0], abs=1e-6)
    assert done.stderr == ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@with_encoder
def test_a_forked_child_scores_by_what_it_inherits_and_by_what_it_loads(make, family):
    model = make(family)
    many = WELL_FORMED * 10
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
def test_missing_weights_are_not_invented(make, family, folder_of, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(folder_of(family), tmp_path / "damaged")
    weights = load_file(folder / "model.safetensors")
    inner = "intermediate.dense.weight" if family is ENCODER else "mlp.up_proj.weight"
    lost = next(name for name in weights if name.endswith(f"1.{inner}"))
    del weights[lost]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=rf"lacks weights.*1\.{inner}"):
        make(family, model=folder).load()


@with_encoder
def test_a_length_that_the_encoder_cannot_read(make, family):
    with pytest.raises(ModelLoadError, match="max_length=513 is over the 512"):
        make(family, max_length=513).load()


@with_encoder
def test_an_encoder_taken_for_a_decoder_names_the_setting(make, family):
    with pytest.raises(ModelLoadError, match="set model_class"):
        make(GEMMA, model=make(family).model, compute_score_kwargs={"prompt": "?"}).load()


@with_encoder
def test_a_folder_that_is_not_there(make, family, tmp_path):
    with pytest.raises(ModelLoadError, match="no folder of that name"):
        make(family, model=tmp_path / "nothing").load()
    with pytest.raises(ModelLoadError, match=r"config\.json"):
        make(GEMMA, model=tmp_path).load()


@pytest.mark.parametrize("name", ["Qwen3ForCausalLM", "Qwen3ForSequenceClassification"])
@with_encoder
def test_a_model_of_another_prompt_is_not_asked_bge_gemmas(make, tmp_path, family, name):
    labels = {"num_labels": 1} if name.endswith("Classification") else {}
    folder = save_decoder(tmp_path, name, template=QWEN3_TEMPLATE, **labels)
    with pytest.raises(ModelLoadError, match=r"'qwen3'.*TorchCrossEncoder"):
        make(GEMMA, model=folder).load()
    with pytest.raises(ModelLoadError, match="TorchCrossEncoder"):
        make(family, model=folder).load()


@with_encoder
def test_an_encoder_with_a_saved_prompt_is_refused(make, folder_of, tmp_path, family):
    folder = shutil.copytree(folder_of(family), tmp_path / "prompted")
    prompts = {"prompts": {"a": "b: "}, "default_prompt_name": "a", "model_type": "CrossEncoder"}
    save_settings(folder, "config_sentence_transformers.json", **prompts)
    (folder / "modules.json").write_text(
        '[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]'
    )
    save_settings(folder, "sentence_bert_config.json", transformer_task="sequence-classification")
    with pytest.raises(ModelLoadError, match=r"prompt.*TorchCrossEncoder"):
        make(family, model=folder).load()


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
