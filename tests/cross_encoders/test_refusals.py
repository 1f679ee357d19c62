"""What can't be scored as its author meant is refused by name, before anything is scored."""

from __future__ import annotations

import re
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
    from pathlib import Path

CONFIG, MODULES, TOKENIZER = "config.json", "modules.json", "tokenizer_config.json"
SAVED, MODULE = "config_sentence_transformers.json", "sentence_bert_config.json"
ST = "sentence_transformers.models."
TRANSFORMER, POOLING, NORMALIZE, DENSE, LOGIT = (
    f"{ST}{name}" for name in ("Transformer", "Pooling", "Normalize", "Dense", "LogitScore")
)
CLASSIFIES = {"transformer_task": "sequence-classification"}
GENERATES = {"transformer_task": "text-generation"}
PLAIN_TEMPLATE = '{% for m in messages if m.role == "user" %}{{ m.content }}{% endfor %}<|im_end|>'


def classifier(folder: Path, real: str) -> None:
    save_bert(folder, real, "BertForSequenceClassification", num_labels=1)


def encoder(folder: Path, real: str) -> None:
    save_bert(folder, real, "BertModel")


def head(folder: Path, real: str) -> None:
    """Modules whose last one scores."""
    from safetensors.torch import save_file

    encoder(folder, real)
    save_modules(folder, TRANSFORMER, POOLING, DENSE)
    save_settings(folder, "1_Pooling/config.json", pooling_mode="cls")
    dense = {"in_features": 32, "out_features": 1, "module_output_name": "scores"}
    save_settings(folder, "2_Dense/config.json", **dense)
    layer = {f"linear.{name}": one for name, one in torch.nn.Linear(32, 1).state_dict().items()}
    save_file(layer, folder / "2_Dense" / "model.safetensors")


def modernbert(folder: Path, _: str) -> None:
    save_modernbert(folder, "ModernBertModel")


def qwen3(folder: Path, _: str) -> None:
    save_decoder(folder, "Qwen3ForCausalLM", template=QWEN3_TEMPLATE)


def qwen3_classifier(folder: Path, _: str) -> None:
    save_decoder(folder, "Qwen3ForSequenceClassification", template=QWEN3_TEMPLATE, num_labels=1)


def make(folder: Path, real: str, good: Any, changes: dict[str, Any]) -> str:
    """Save something good, and change its files: settings, modules, a text, or None to remove."""
    good(folder, real)
    for name, change in changes.items():
        if change is None:
            (folder / name).unlink()
        elif isinstance(change, str):
            (folder / name).write_text(change)
        elif isinstance(change, list):
            save_modules(folder, *change)
        else:
            save_settings(folder, name, **change)
    return str(folder)


def logit_score(**settings: int) -> dict[str, Any]:
    modules = {MODULES: [TRANSFORMER, LOGIT], MODULE: GENERATES}
    return {**modules, "1_LogitScore/config.json": settings}


def modular(name: str, **settings: Any) -> dict[str, Any]:
    """A classifier in one module, with settings of sentence-transformers."""
    files = {MODULES: [TRANSFORMER], MODULE: CLASSIFIES}
    return {**files, name: {**files.get(name, {}), **settings}}


def config(**settings: Any) -> dict[str, Any]:
    return {CONFIG: settings}


def modules(*types: str, **settings: Any) -> dict[str, Any]:
    """Modules behind a transformer; the settings are the first one's."""
    path = f"1_{types[0].rpartition('.')[2]}/config.json"
    return {MODULES: [TRANSFORMER, *types], **({path: settings} if settings else {})}


def saved(**settings: Any) -> dict[str, Any]:
    return modular(SAVED, **settings)


def dense(**settings: Any) -> dict[str, Any]:
    return {"2_Dense/config.json": settings}


def template(text: str | None) -> dict[str, Any]:
    return {"chat_template.jinja": text}


OWN_CODE = {"AutoModelForSequenceClassification": "modeling.MyModel"}
NEVER = {"id2label": {"0": "LABEL_0"}}
OLDER = {"sbert_ce_default_activation_function": "torch.nn.modules.activation.ReLU"}
ESCAPES = "{% for m in messages %}{{ m.content | replace('<', '&lt;') }}{% endfor %}"
FAILS = "{{ raise_exception('only user and assistant') }}"
NO_PLACE = r"chat template.*'query' and 'document'"
# What is good, how it is spoilt, and what the error must name: the file, then what it asks for.
REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "listwise": (
        classifier,
        config(architectures=["JinaForRanking"], auto_map={"AutoModel": "JinaForRanking"}),
        r"config\.json.*JinaForRanking",
    ),
    "two logits": (
        classifier,
        config(id2label={"0": "no", "1": "yes"}),
        r"config\.json.*2 logits",
    ),
    "masked language model": (
        classifier,
        config(architectures=["BertForMaskedLM"]),
        r"config\.json.*BertForMaskedLM",
    ),
    "bare encoder": (encoder, {}, r"config\.json.*BertModel"),
    "code of its own": (
        classifier,
        config(auto_map=OWN_CODE),
        r"config\.json.*modeling\.MyModel.*\n?.*trust_remote_code",
    ),
    "router": (encoder, modules(f"{ST}Router"), r"modules\.json.*Router"),
    "multi-vector": (encoder, modules("pylate.models.Dense.Dense"), r"modules\.json.*pylate"),
    "module of its own": (encoder, modules("custom.Dense"), r"modules\.json.*custom\.Dense"),
    "pooling behind a classifier": (head, {MODULE: CLASSIFIES}, r"Pooling reads token_embeddings"),
    "dense without pooling": (
        encoder,
        modules(DENSE, module_output_name="scores"),
        r"modules\.json.*Dense reads sentence_embedding",
    ),
    "bi-encoder": (encoder, modules(POOLING, NORMALIZE), r"modules\.json.*Normalize"),
    "bi-encoder, not normalized": (encoder, modules(POOLING, pooling_mode="mean"), r"no score"),
    "bi-encoder that says so": (classifier, saved(model_type="SentenceTransformer"), r"says model"),
    "its own activation": (classifier, saved(activation_fn="custom.Scaled"), r"custom\.Scaled"),
    "another scale": (classifier, saved(activation_fn="torch.nn.Tanh"), r"Tanh"),
    "another scale, in an older form": (classifier, config(**OLDER), r"ReLU"),
    "prompt that is not there": (classifier, saved(default_prompt_name="c"), r'ormers\.json.*"c"'),
    "settings of the processor": (
        classifier,
        modular(MODULE, processing_kwargs={"text": {"max_length": 8}}),
        r"sentence_bert_config\.json.*text",
    ),
    "dense without weights": (head, {"2_Dense/model.safetensors": None}, r"2_Dense lacks weights"),
    "dense of another width": (head, dense(in_features=16), r"2_Dense lacks weights that fit"),
    "dense of two scores": (head, dense(out_features=2), r"2_Dense lacks weights that fit"),
    "dense of its own": (head, dense(activation_function="custom.Swish"), r"custom\.Swish"),
    "dense without score": (head, dense(module_output_name="x"), r"modules\.json.*no score"),
    "no template": (qwen3, template(None), r"config\.json.*Qwen3ForCausalLM"),
    "template without a place": (qwen3, template(PLAIN_TEMPLATE), NO_PLACE),
    "classifier's template without": (qwen3_classifier, template(PLAIN_TEMPLATE), NO_PLACE),
    "template that changes texts": (qwen3_classifier, template(ESCAPES), r"chat template changes"),
    "template that fails": (qwen3_classifier, template(FAILS), r"only user and assistant"),
    "token out of range": (qwen3, logit_score(true_token_id=10**6), r"LogitScore.*1000000"),
    "token below zero": (qwen3, logit_score(true_token_id=-1), r"LogitScore.*-1"),
    "no token": (qwen3, logit_score(false_token_id=3), r"true_token_id"),
    "head that was never trained": (
        encoder,
        config(architectures=["BertForSequenceClassification"], **NEVER),
        r"lacks weights.*classifier\.weight",
    ),
    "modernbert that was never trained": (
        modernbert,
        config(architectures=["ModernBertForSequenceClassification"], **NEVER),
        r"lacks weights.*(head|classifier)\.",
    ),
    "adapter": (
        classifier,
        {CONFIG: None, "model.safetensors": None, "adapter_config.json": {}},
        r"adapter.*merge",
    ),
    "file that is no JSON": (classifier, {MODULES: "{"}, r"modules\.json is not JSON"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(checkpoint, tmp_path, case):
    good, changes, named = REFUSED[case]
    folder = make(tmp_path / "model", checkpoint, good, changes)
    # Whose code is trusted is refused for its form.
    model = TorchCrossEncoder(model=folder, device="cpu", trust_remote_code=case == "listwise")
    with pytest.raises(ModelLoadError, match=re.escape(folder)) as raised:
        model.load()
    assert re.search(named, str(raised.value)), str(raised.value)


@pytest.mark.parametrize("good", [classifier, head, qwen3, qwen3_classifier])
def test_what_is_spoilt_above_was_good(checkpoint, tmp_path, good):
    folder = make(tmp_path / "model", checkpoint, good, {})
    TorchCrossEncoder(model=folder, device="cpu").load()


@pytest.mark.parametrize("stated", [None, 10**30, 8192], ids=["none", "no limit", "too large"])
@pytest.mark.parametrize("limit", [512, LIMIT])
def test_positions_limit_the_length_whatever_the_tokenizer_says(
    checkpoint, tmp_path, limit, stated
):
    """One token more would crash in the first long passage."""
    classifier(tmp_path, checkpoint) if limit == 512 else save_xlm_roberta(tmp_path, limit=None)
    save_settings(tmp_path, TOKENIZER, model_max_length=stated)
    with pytest.raises(ModelLoadError, match=rf"max_length={limit + 1} is over the {limit} tokens"):
        TorchCrossEncoder(model=tmp_path, device="cpu", max_length=limit + 1).load()
    long = [("query", "word " * 3000)]
    full = TorchCrossEncoder(model=tmp_path, device="cpu", max_length=limit).score(long)
    assert TorchCrossEncoder(model=tmp_path, device="cpu").score(long) == full


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
    checkpoint, tmp_path, stated, expected, batches
):
    positions, tokenizer, module = stated
    sizes = {"num_labels": 1, "max_position_embeddings": positions}
    folder = save_bert(tmp_path, checkpoint, "BertForSequenceClassification", **sizes)
    save_settings(folder, TOKENIZER, model_max_length=tokenizer)
    if module is not None:
        save_modules(tmp_path, TRANSFORMER)
        save_settings(folder, MODULE, max_seq_length=module, **CLASSIFIES)
    TorchCrossEncoder(model=folder, device="cpu").score([("query", "word " * 3000)])
    assert batches[0]["attention_mask"].sum() == expected
