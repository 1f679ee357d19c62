"""What can't be scored as its author meant is refused by name, before anything is scored."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from langchain_rerank import ModelLoadError, TorchCrossEncoder
from tests.checkpoints import (
    LIMIT,
    QWEN3_TEMPLATE,
    save_bert,
    save_decoder,
    save_modernbert,
    save_modules,
    save_settings,
    save_xlm_roberta,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Maker = Callable[[Path, str], str]

ST = "sentence_transformers."
TRANSFORMER = f"{ST}models.Transformer"
POOLING, NORMALIZE, DENSE, LOGIT = (
    f"{ST}models.{name}" for name in ("Pooling", "Normalize", "Dense", "LogitScore")
)
PLAIN_TEMPLATE = '{% for m in messages if m.role == "user" %}{{ m.content }}{% endfor %}<|im_end|>'


def bert(folder: Path, real: str, **config: Any) -> str:
    """A good one-logit classifier, to be spoilt; `config` goes into its config.json."""
    save_bert(folder, real, "BertForSequenceClassification", num_labels=1)
    return save_settings(folder, **config)


def bert_with(**config: Any) -> Maker:
    return lambda folder, real: bert(folder, real, **config)


def modules(*types: str, **settings: Any) -> Maker:
    """A BERT with modules behind it; `settings` go into the config.json of the last one."""

    def save(folder: Path, real: str) -> str:
        save_bert(folder, real, "BertModel")
        save_modules(folder, *types)
        if settings:
            save_settings(
                folder, f"{len(types) - 1}_{types[-1].split('.')[-1]}/config.json", **settings
            )
        return str(folder)

    return save


def modules_with(name: str, **settings: Any) -> Maker:
    """A classifier in one module, with settings of sentence-transformers."""

    def save(folder: Path, real: str) -> str:
        save_modules(Path(bert(folder, real)), TRANSFORMER)
        task = {"transformer_task": "sequence-classification"}
        save_settings(folder, "sentence_bert_config.json", **task)
        return save_settings(folder, name, **settings)

    return save


def ettin(settings: dict[str, Any], *, weights: bool = True) -> Maker:
    def save(folder: Path, real: str) -> str:
        modules(TRANSFORMER, POOLING, DENSE)(folder, real)
        save_settings(folder, "1_Pooling/config.json", pooling_mode="cls")
        dense = {"in_features": 32, "out_features": 1, "module_output_name": "scores"}
        save_settings(folder, "2_Dense/config.json", **{**dense, **settings})
        if weights:
            layer = torch.nn.Linear(32, 1).state_dict()
            from safetensors.torch import save_file

            named = {f"linear.{name}": weight for name, weight in layer.items()}
            save_file(named, folder / "2_Dense" / "model.safetensors")
        return str(folder)

    return save


def causal(template: str | None = None, **logit_score: Any) -> Maker:
    def save(folder: Path, _: str) -> str:
        save_decoder(folder, "Qwen3ForCausalLM", template=template)
        if logit_score:
            task = {"transformer_task": "text-generation"}
            save_settings(folder, "sentence_bert_config.json", **task)
            save_modules(folder, TRANSFORMER, LOGIT)
            save_settings(folder, "1_LogitScore/config.json", **logit_score)
        return str(folder)

    return save


def without(maker: Maker, *names: str) -> Maker:
    def save(folder: Path, real: str) -> str:
        maker(folder, real)
        for name in names:
            (folder / name).unlink()
        return str(folder)

    return save


def layers_without_input(task: str, *layers: str) -> Maker:
    """Layers, the first of which reads what the transformer doesn't give for this task."""

    def save(folder: Path, real: str) -> str:
        save_modules(Path(bert(folder, real)), TRANSFORMER, *layers)
        path = f"{len(layers)}_Dense/config.json"
        save_settings(folder, path, module_output_name="scores")
        return save_settings(folder, "sentence_bert_config.json", transformer_task=task)

    return save


def qwen3_classifier(template: str) -> Maker:
    name = "Qwen3ForSequenceClassification"
    return lambda folder, _: save_decoder(folder, name, template=template, num_labels=1)


_SAVED = "config_sentence_transformers.json"
# How to make it, and what the error must name: the file, then what it asks for.
REFUSED: dict[str, tuple[Maker, str]] = {
    "listwise": (
        bert_with(
            architectures=["JinaForRanking"], auto_map={"AutoModel": "modeling.JinaForRanking"}
        ),
        r"config\.json.*JinaForRanking",
    ),
    "two logits": (
        bert_with(id2label={"0": "no", "1": "yes"}, label2id={"no": 0, "yes": 1}),
        r"config\.json.* 2 logits",
    ),
    "masked language model": (
        bert_with(architectures=["BertForMaskedLM"]),
        r"config\.json.*BertForMaskedLM",
    ),
    "code of its own beside a native model": (
        bert_with(auto_map={"AutoModelForSequenceClassification": "modeling.MyModel"}),
        r"config\.json.*modeling\.MyModel.*\n?.*trust_remote_code",
    ),
    "router": (modules(f"{ST}base.modules.Router"), r"modules\.json.*Router"),
    "multi-vector": (
        modules(TRANSFORMER, "pylate.models.Dense.Dense"),
        r"modules\.json.*pylate\.models\.Dense",
    ),
    "module of its own": (modules(TRANSFORMER, "custom.MyHead"), r"modules\.json.*custom\.MyHead"),
    "module named as a known one": (modules(TRANSFORMER, "custom.Dense"), r"modules\.json.*custom"),
    "pooling behind a classifier": (
        layers_without_input("sequence-classification", POOLING, DENSE),
        r"modules\.json.*Pooling reads token_embeddings",
    ),
    "dense without pooling": (
        layers_without_input("feature-extraction", DENSE),
        r"modules\.json.*Dense reads sentence_embedding",
    ),
    "bi-encoder": (
        modules(TRANSFORMER, POOLING, NORMALIZE),
        r"modules\.json.*Normalize|SentenceTransformer",
    ),
    "bi-encoder without normalization": (
        modules(TRANSFORMER, POOLING, pooling_mode="mean"),
        r"modules\.json.*Pooling",
    ),
    "bi-encoder that says so": (
        modules_with(_SAVED, model_type="SentenceTransformer"),
        rf"{re.escape(_SAVED)}.*SentenceTransformer",
    ),
    "activation of its own": (
        modules_with(_SAVED, activation_fn="custom.Scaled"),
        r"custom\.Scaled",
    ),
    "activation of another scale": (
        modules_with(_SAVED, activation_fn="torch.nn.modules.activation.Tanh"),
        r"Tanh",
    ),
    "activation of another scale, in an older form": (
        bert_with(sbert_ce_default_activation_function="torch.nn.modules.activation.ReLU"),
        r"ReLU",
    ),
    "prompt that is not there": (
        modules_with(_SAVED, prompts={"a": "b"}, default_prompt_name="c"),
        rf'{re.escape(_SAVED)}.*"c"',
    ),
    "settings of the processor": (
        modules_with("sentence_bert_config.json", processing_kwargs={"text": {"max_length": 8}}),
        r"sentence_bert_config\.json.*text",
    ),
    "dense without weights": (ettin({}, weights=False), r"2_Dense lacks weights"),
    "dense of another width": (ettin({"in_features": 16}), r"2_Dense lacks weights that fit"),
    "dense of two scores": (ettin({"out_features": 2}), r"2_Dense lacks weights that fit"),
    "dense with an activation of its own": (
        ettin({"activation_function": "custom.Swish"}),
        r"custom\.Swish",
    ),
    "dense that gives no score": (ettin({"module_output_name": "x"}), r"modules\.json.*no score"),
    "language model without a template": (causal(), r"config\.json.*Qwen3ForCausalLM"),
    "template without a place for a pair": (
        causal(PLAIN_TEMPLATE),
        r"chat template.*'query' and 'document'",
    ),
    "classifier whose template has no place for a pair": (
        qwen3_classifier(PLAIN_TEMPLATE),
        r"chat template.*'query' and 'document'",
    ),
    "template that changes texts": (
        qwen3_classifier("{% for m in messages %}{{ m.content | upper }}{% endfor %}"),
        r"chat template",
    ),
    "template that fails": (
        qwen3_classifier("{{ raise_exception('only user and assistant') }}"),
        r"only user and assistant",
    ),
    "token out of range": (
        causal(QWEN3_TEMPLATE, true_token_id=10**6, false_token_id=0),
        r"LogitScore.*1000000",
    ),
    "token below zero": (causal(QWEN3_TEMPLATE, true_token_id=-1), r"LogitScore.*-1"),
    "no token": (causal(QWEN3_TEMPLATE, false_token_id=3), r"true_token_id"),
    "head that was never trained": (
        lambda folder, real: save_settings(
            save_bert(folder, real, "BertModel"),
            architectures=["BertForSequenceClassification"],
            id2label={"0": "LABEL_0"},
        ),
        r"lacks weights.*classifier\.weight",
    ),
    "modernbert that was never trained": (
        lambda folder, _: save_settings(
            save_modernbert(folder, "ModernBertModel"),
            architectures=["ModernBertForSequenceClassification"],
            id2label={"0": "LABEL_0"},
        ),
        r"lacks weights.*head|classifier",
    ),
    "adapter": (
        lambda folder, real: save_settings(
            without(bert, "config.json", "model.safetensors")(folder, real), "adapter_config.json"
        ),
        r"adapter.*merge",
    ),
    "file that is no JSON": (
        lambda folder, real: (
            Path(bert(folder, real), "modules.json").write_text("{"),
            str(folder),
        )[1],
        r"modules\.json is not JSON",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(checkpoint, tmp_path, case):
    make, named = REFUSED[case]
    folder = make(tmp_path / "model", checkpoint)
    with pytest.raises(ModelLoadError, match=re.escape(folder)) as raised:
        TorchCrossEncoder(model=folder, device="cpu").load()
    assert re.search(named, str(raised.value)), str(raised.value)


def test_listwise_is_refused_though_its_code_is_trusted(checkpoint, tmp_path):
    folder = REFUSED["listwise"][0](tmp_path, checkpoint)
    with pytest.raises(ModelLoadError, match="JinaForRanking"):
        TorchCrossEncoder(model=folder, device="cpu", trust_remote_code=True).load()


TOKENIZER = "tokenizer_config.json"


@pytest.mark.parametrize("stated", [None, 10**30, 8192], ids=["none", "no limit", "too large"])
@pytest.mark.parametrize(("kind", "limit"), [("bert", 512), ("xlm-roberta", LIMIT)])
def test_positions_limit_the_length_whatever_the_tokenizer_says(
    checkpoint, tmp_path, kind, limit, stated
):
    """One token more would crash in the first long passage."""
    folder = (
        bert(tmp_path, checkpoint) if kind == "bert" else save_xlm_roberta(tmp_path, limit=None)
    )
    save_settings(folder, TOKENIZER, model_max_length=stated)
    with pytest.raises(ModelLoadError, match=rf"max_length={limit + 1} is over the {limit} tokens"):
        TorchCrossEncoder(model=folder, device="cpu", max_length=limit + 1).load()
    long = [("query", "word " * 3000)]
    full = TorchCrossEncoder(model=folder, device="cpu", max_length=limit).score(long)
    assert TorchCrossEncoder(model=folder, device="cpu").score(long) == full


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ((512, 512, None), 512),
        ((8192, None, None), 1024),
        ((8192, 768, None), 768),
        ((8192, 768, 300), 300),
        ((512, 10**30, 8192), 512),
    ],
)
def test_the_smallest_limit_counts_and_at_most_1024_tokens_are_the_default(
    checkpoint, tmp_path, stated, expected
):
    positions, tokenizer, module = stated
    sizes = {"num_labels": 1, "max_position_embeddings": positions}
    folder = save_bert(tmp_path, checkpoint, "BertForSequenceClassification", **sizes)
    save_settings(folder, TOKENIZER, model_max_length=tokenizer)
    if module is not None:
        save_modules(tmp_path, TRANSFORMER)
        task = {"transformer_task": "sequence-classification"}
        save_settings(folder, "sentence_bert_config.json", max_seq_length=module, **task)
    model = TorchCrossEncoder(model=folder, device="cpu")
    model.score([("query", "word " * 3000)])
    assert model.tokens_scored == expected
