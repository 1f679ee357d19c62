"""FlagEmbedding's decoder families, end to end on tiny randomly initialised checkpoints.

FlagEmbedding's own modelling code of two families stops working at some version of transformers;
there the tests of these families give way to one of the error that says so.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import transformers

from langchain_rerank import FlagEmbeddingCrossEncoder, ModelLoadError, ScoringError
from langchain_rerank.cross_encoders.tokenization import text_windows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUERY = "what does the with statement do"
PASSAGES = [
    topics["with"][:300],
    "short",
    topics["lambda"][:150],
    "",
    topics["del"][:500],
    "🙂 \u200fשלם \ud83d",
]
PAIRS = [(QUERY, passage) for passage in PASSAGES]
WELL_FORMED = [(QUERY, passage.replace("\ud83d", "\ufffd")) for passage in PASSAGES]


@dataclass(frozen=True)
class Family:
    """One of FlagEmbedding's decoder families, and the settings that its tiny model needs."""

    name: str
    flag_class: str
    broken_since: tuple[int, int]
    compute_score: dict[str, Any] = field(default_factory=dict)

    @property
    def works(self) -> bool:
        return tuple(map(int, transformers.__version__.split(".")[:2])) < self.broken_since


BASE = Family("decoder-only-base", "FlagLLMReranker", (99, 0))
LAYERWISE = Family(
    "decoder-only-layerwise", "LayerWiseFlagLLMReranker", (4, 54), {"cutoff_layers": [3]}
)
LIGHTWEIGHT = Family(
    "decoder-only-lightweight",
    "LightWeightFlagLLMReranker",
    (4, 48),
    {"cutoff_layers": [3], "compress_layers": [2], "compress_ratio": 2},
)
FAMILIES = [
    pytest.param(
        family,
        id=family.name,
        marks=pytest.mark.skipif(
            not family.works,
            reason=f"FlagEmbedding's {family.name} needs transformers<"
            f"{'.'.join(map(str, family.broken_since))}",
        ),
    )
    for family in (BASE, LAYERWISE, LIGHTWEIGHT)
]
LAYERED = FAMILIES[1:]


def save_tokenizer(folder: Path) -> int:
    """Train a byte-level BPE on the language reference; return the size of its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*list(topics.values())[:10], "Yes " * 100], trainer)
    marks = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks)
    fast.save_pretrained(folder)
    return len(fast)


def tiny_model(family: Family, vocab_size: int) -> Any:
    size = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if family is BASE:
        return transformers.GemmaForCausalLM(transformers.GemmaConfig(**size, head_dim=8))
    if family is LAYERWISE:
        from FlagEmbedding.inference.reranker.decoder_only.models import (
            configuration_minicpm_reranker as configuration,
        )
        from FlagEmbedding.inference.reranker.decoder_only.models import (
            modeling_minicpm_reranker as modeling,
        )

        config = configuration.LayerWiseMiniCPMConfig(
            **size, start_layer=2, dim_model_base=16, scale_depth=1.4, scale_emb=12
        )
        return modeling.LayerWiseMiniCPMForCausalLM(config)
    from FlagEmbedding.inference.reranker.decoder_only.models import gemma_config, gemma_model

    config = gemma_config.CostWiseGemmaConfig(
        **size, head_dim=8, query_pre_attn_scalar=8, start_layer=2, layer_sep=1, layer_wise=True
    )
    return gemma_model.CostWiseGemmaForCausalLM(config)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Family], str]:
    """Folder of a family's tiny checkpoint, saved when first asked for."""
    saved: dict[str, str] = {}

    def folder_of(family: Family) -> str:
        if family.name not in saved:
            folder = tmp_path_factory.mktemp(family.name)
            vocab_size = save_tokenizer(folder)
            with torch.random.fork_rng():
                torch.manual_seed(0)
                tiny_model(family, vocab_size).save_pretrained(folder)
            saved[family.name] = str(folder)
        return saved[family.name]

    return folder_of


@pytest.fixture
def make(checkpoints: Callable[[Family], str]) -> Callable[..., FlagEmbeddingCrossEncoder]:
    def make(family: Family, **fields: Any) -> FlagEmbeddingCrossEncoder:
        defaults = {
            "model": checkpoints(family),
            "model_class": family.name,
            "device": "cpu",
            "normalize": False,
            "compute_score_kwargs": family.compute_score,
        }
        return FlagEmbeddingCrossEncoder(**{**defaults, **fields})

    return make


@pytest.fixture
def flag(checkpoints: Callable[[Family], str]) -> Callable[..., Any]:
    """FlagEmbedding's own class on the same checkpoint."""

    def flag(family: Family, **arguments: Any) -> Any:
        import FlagEmbedding

        flag_class = getattr(FlagEmbedding, family.flag_class)
        return flag_class(checkpoints(family), devices="cpu", use_fp16=True, **arguments)

    return flag


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_flagembedding(make, flag, family):
    theirs = flag(family).compute_score(WELL_FORMED, **family.compute_score)
    ours = make(family).score(PAIRS)
    assert [type(score) for score in ours] == [float] * len(PAIRS)
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert np.ptp(ours) > 0.1, "a model that scores all alike would prove nothing"


@pytest.mark.parametrize("family", FAMILIES)
def test_normalized_scores_are_those_of_flagembedding(make, flag, family):
    theirs = flag(family).compute_score(WELL_FORMED, normalize=True, **family.compute_score)
    assert make(family, normalize=True).score(PAIRS) == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_follow_their_pairs_and_do_not_depend_on_company(make, family):
    model = make(family)
    scores = model.score(PAIRS)
    assert model.score(PAIRS[::-1]) == pytest.approx(scores[::-1], abs=1e-5)
    assert [model.score([pair])[0] for pair in PAIRS] == pytest.approx(scores, abs=1e-4)
    assert model.score(PAIRS) == scores


@pytest.mark.parametrize("family", FAMILIES)
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


@pytest.mark.parametrize("family", LAYERED)
def test_the_cutoff_layer_chooses_the_score(make, family):
    by_layer = [
        make(family, compute_score_kwargs={"cutoff_layers": [layer]}).score(PAIRS)
        for layer in (2, 3, 4)
    ]
    assert len({tuple(scores) for scores in by_layer}) == 3


@pytest.mark.parametrize("layers", [[2, 3], [99]])
@pytest.mark.parametrize("pairs", [PAIRS, PAIRS[:1], PAIRS[:2]], ids=["six", "one", "two"])
@pytest.mark.parametrize("family", LAYERED)
def test_layers_that_do_not_give_one_score_are_an_error(make, family, layers, pairs):
    model = make(family, compute_score_kwargs={"cutoff_layers": layers})
    with pytest.raises(ScoringError, match="layer"):
        model.score(pairs)


@pytest.mark.parametrize("mode", ["max", "mean"])
@pytest.mark.parametrize("family", FAMILIES)
def test_long_documents_are_scored_by_windows(make, family, mode):
    reduce = {"max": max, "mean": np.mean}[mode]
    long = topics["with"][:1500]
    model = make(family, long_documents=mode, max_length=96)
    score, short = model.score([(QUERY, long), (QUERY, "short")])

    room = 96 - model._decoder_overhead()
    windows, _ = text_windows(model._decoder.tokenizer, [(QUERY, long)], room)
    assert len(windows) > 5
    first = make(family, max_length=96)
    assert score == pytest.approx(reduce(first.score(windows)), abs=1e-4)
    assert short == pytest.approx(first.score([(QUERY, "short")])[0], abs=1e-4)


def hook(model: FlagEmbeddingCrossEncoder, check: Callable[[torch.Tensor], None]) -> list[int]:
    """Call `check` on the input ids within each forward pass; the list collects batch sizes."""
    sizes: list[int] = []

    def before(_module: Any, _args: Any, kwargs: dict[str, torch.Tensor]) -> None:
        sizes.append(len(kwargs["input_ids"]))
        check(kwargs["input_ids"])

    model.load()
    model._decoder.model.model.register_forward_pre_hook(before, with_kwargs=True)
    return sizes


@pytest.mark.parametrize("family", FAMILIES)
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
    read = "".join(model._decoder.tokenizer.batch_decode(rows))
    assert [word for word in words if word not in read] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_failing_forward_reaches_the_caller_with_its_cause(make, family):
    error = RuntimeError("boom")

    def fail(_ids: torch.Tensor) -> None:
        raise error

    model = make(family)
    sizes = hook(model, fail)
    with pytest.raises(ScoringError, match="boom") as raised:
        model.score(PAIRS)
    assert raised.value.__cause__ is error
    assert len(sizes) == 1, "FlagEmbedding alone would retry with ever smaller batches"


@pytest.mark.parametrize("family", FAMILIES)
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


@pytest.mark.parametrize("family", FAMILIES)
def test_out_of_memory_on_a_single_pair_says_what_to_do(make, family):
    def check(_ids: torch.Tensor) -> None:
        msg = "CUDA out of memory"
        raise torch.OutOfMemoryError(msg)

    model = make(family)
    hook(model, check)
    with pytest.raises(ScoringError, match="lower max_length or choose a smaller model") as raised:
        model.score(PAIRS)
    assert isinstance(raised.value.__cause__, torch.OutOfMemoryError)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_bar_unless_asked_for(make, family, capfd):
    many = PAIRS * 3
    make(family, batch_tokens=1024).score(many)
    assert "it/s" not in capfd.readouterr().err
    make(family, batch_tokens=1024, show_progress=True).score(many)
    assert "it/s" in capfd.readouterr().err


def test_direct_users_of_flagembedding_keep_their_bars(make, flag, capfd):
    make(BASE).score(PAIRS)
    capfd.readouterr()
    flag(BASE).compute_score(WELL_FORMED)
    assert "it/s" in capfd.readouterr().err


@pytest.mark.parametrize("family", FAMILIES)
def test_missing_weights_are_not_invented(make, family, checkpoints, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(checkpoints(family), tmp_path / "damaged")
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if name.endswith("layers.1.mlp.up_proj.weight"))
    del weights[lost]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"lacks weights.*layers\.1\.mlp\.up_proj"):
        make(family, model=str(folder)).load()


@pytest.mark.parametrize("family", FAMILIES)
def test_close_and_score_again(make, family):
    model = make(family)
    scores = model.score(PAIRS)
    model.close()
    assert model.score(PAIRS) == scores


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=pytest.mark.skipif(family.works, reason="it works here"))
        for family in (LAYERWISE, LIGHTWEIGHT)
    ],
    ids=lambda family: family.name,
)
def test_a_family_that_cannot_run_here_says_which_transformers_it_needs(tmp_path, family):
    needed = "transformers<" + ".".join(map(str, family.broken_since))
    model = FlagEmbeddingCrossEncoder(model=str(tmp_path), model_class=family.name, device="cpu")
    with pytest.raises(ModelLoadError) as raised:
        model.score(PAIRS)
    for part in (str(tmp_path), family.name, needed, transformers.__version__, "pip install"):
        assert part in str(raised.value)
