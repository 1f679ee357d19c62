"""Small random checkpoints that load in milliseconds, in every form that rerankers come in."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)
# Most tokens of a pair that the tiny models read: long passages of a test stay short.
LIMIT = 96
_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.2,
}
_CLS = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
_XLM = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
_SPECIAL = ("pad", "eos", "bos")
_QWEN = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}

# As in the published conversions of Qwen3-Reranker; the system message takes the instruction's
# place.
QWEN3_TEMPLATE = """\
<|im_start|>system
Judge whether the Document meets the requirements based on the Query and the Instruct provided. \
Note that the answer can only be "yes" or "no".<|im_end|>
<|im_start|>user
<Instruct>: {{ messages | selectattr("role", "eq", "system") | map(attribute="content") | first \
| default("Given a web search query, retrieve relevant passages that answer the query") }}
<Query>: {{ messages | selectattr("role", "eq", "query") | map(attribute="content") | first }}
<Document>: {{ messages | selectattr("role", "eq", "document") | map(attribute="content") \
| first }}<|im_end|>
<|im_start|>assistant
<think>

</think>

"""
# Messages one after the other, and a suffix that must be asked for.
LOOP_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message["role"] }}
{{ message["content"] | trim }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}
"""
# Contents are lists of parts.
STRUCTURED_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}: {% for part in message.content -%}
{%- if part.type == "text" -%}{{ part.text }}{%- endif -%}
{%- endfor -%}<|im_end|>
{% endfor -%}
"""


def save_bert(folder: Path, tokenizer_from: str, class_name: str, **config: Any) -> str:
    """Save a tiny randomly initialised BERT with the real tokenizer."""
    save_model(folder, class_name, **config)
    for name in TOKENIZER_FILES:
        shutil.copy(Path(tokenizer_from) / name, folder / name)
    return str(folder)


def save_model(folder: Path, model_class: Any, **config: Any) -> str:
    """Save a tiny randomly initialised model of a class, or of transformers' class of a name."""
    import torch
    import transformers

    if isinstance(model_class, str):
        if not hasattr(transformers, model_class):
            pytest.skip(f"transformers {transformers.__version__} has no {model_class}")
        model_class = getattr(transformers, model_class)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model_class(model_class.config_class(**{**_SIZES, **config})).save_pretrained(folder)
    return str(folder)


@functools.cache
def _trained(kind: str, specials: tuple[str, ...], pair: str | None) -> str:
    """Train a tokenizer on the language reference; return its tokenizer.json."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    common = {
        "vocab_size": 600,
        "special_tokens": list(dict.fromkeys((*specials, *_QWEN.values(), "<|im_start|>"))),
        "show_progress": False,
    }
    trainer: Any
    if kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(**common, unk_token=specials[-1])
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(**common, initial_alphabet=alphabet)
    texts = ["yes no Yes 0 1 " * 100, *(topics[name] for name in ("with", "lambda", "del"))]
    tokenizer.train_from_iterator(texts, trainer)
    if pair is not None:
        ids = [(token, tokenizer.token_to_id(token)) for token in specials]
        single = pair.split("$B")[0].split("$A")[0] + "$A"
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, pair=pair, special_tokens=ids
        )
    return tokenizer.to_str()


def save_tokenizer(
    folder: Path,
    marks: dict[str, str],
    *,
    kind: str = "bpe",
    pair: str | None = None,
    limit: int | None = LIMIT,
    **settings: Any,
) -> Any:
    """Save a small tokenizer of its own, of bytes ("bpe") or "unigram".

    `marks` are special tokens by their role, `pair` is how a pair stands between them, `limit` its
    model_max_length.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    specials = tuple(dict.fromkeys(marks.values()))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained(kind, specials, pair)),
        **marks,
        **({} if limit is None else {"model_max_length": limit}),
        **settings,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def save_xlm_roberta(folder: Path, *, limit: int | None = LIMIT, **config: Any) -> str:
    """XLM-RoBERTa, whose positions start behind its padding token's index."""
    marks = {**_XLM, "cls_token": "<s>", "sep_token": "</s>"}
    pair = "<s> $A </s> </s> $B </s>"
    tokenizer = save_tokenizer(folder, marks, kind="unigram", pair=pair, limit=limit)
    positions = {"max_position_embeddings": LIMIT + 2, "type_vocab_size": 1, "num_labels": 1}
    known = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "vocab_size": len(tokenizer)}
    return save_model(
        folder, "XLMRobertaForSequenceClassification", **{**positions, **known, **config}
    )


def save_deberta(folder: Path) -> str:
    """DeBERTa-v2, with relative positions and token types."""
    tokenizer = save_tokenizer(
        folder, _CLS, kind="unigram", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"
    )
    positions = {"max_position_embeddings": LIMIT, "position_buckets": 16}
    positions |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
    positions |= {"norm_rel_ebd": "layer_norm", "share_att_key": True}
    positions |= {"position_biased_input": False}
    sizes = {"vocab_size": len(tokenizer), "num_labels": 1, "type_vocab_size": 2}
    return save_model(folder, "DebertaV2ForSequenceClassification", **sizes, **positions)


def save_modernbert(folder: Path, class_name: str, **config: Any) -> str:
    """ModernBERT, with attention windows shorter than a passage."""
    tokenizer = save_tokenizer(folder, _CLS, pair="[CLS] $A [SEP] $B [SEP]")
    ids = {"pad": 0, "cls": 1, "bos": 1, "sep": 2, "eos": 2}
    tokens = {f"{name}_token_id": id_ for name, id_ in ids.items()}
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": LIMIT}
    windows = {"local_attention": 16, "global_attn_every_n_layers": 2}
    spread = {"initializer_cutoff_factor": 3.0}
    return save_model(folder, class_name, **tokens, **sizes, **windows, **spread, **config)


def save_decoder(folder: Path, class_name: str, *, template: str | None, **config: Any) -> str:
    """Qwen3, Llama or Gemma, as a classifier or a language model."""
    begins, pair = ({}, None) if "Qwen" in class_name else ({"bos_token": "<s>"}, "<s> $A $B")
    settings = {"chat_template": template, "padding_side": "left", "limit": 3 * LIMIT}
    tokenizer = save_tokenizer(folder, {**_QWEN, **begins}, pair=pair, **settings)
    sizes = {"num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 3 * LIMIT}
    known = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in _SPECIAL}
    vocabulary = {"vocab_size": len(tokenizer)}
    return save_model(folder, class_name, **{**sizes, **known, **vocabulary, **config})


def save_settings(folder: Path | str, name: str = "config.json", **settings: Any) -> str:
    """Change settings in a JSON file of a checkpoint, which may be new; None takes one out."""
    path = Path(folder) / name
    before = json.loads(path.read_text()) if path.is_file() else {}
    changed = {key: value for key, value in {**before, **settings}.items() if value is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(changed))
    return str(folder)


def save_modules(folder: Path, *types: str) -> str:
    """Write a modules.json of the Transformer at the top and others in folders of their own."""
    modules = []
    for number, type_ in enumerate(types):
        path = f"{number}_{type_.rpartition('.')[2]}" if number else ""
        modules.append({"idx": number, "name": str(number), "path": path, "type": type_})
    (folder / "modules.json").write_text(json.dumps(modules))
    return str(folder)
