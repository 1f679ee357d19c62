"""Checkpoints of a real model's shape with random weights: their forward pass takes as long.

The tokenizer is simpler, and faster, than the real one's.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from langchain_rerank.bench.inputs import BenchQuery
from langchain_rerank.cache import cache_dir, is_complete, make_folder

if TYPE_CHECKING:
    from pathlib import Path

_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
_QUERY_TOKENS = 10
# "<s> query </s></s> passage </s>"
_ADDED_TOKENS = 4
# Writing 2.3 GB takes seconds to minutes; a holder that is still busy after this long hangs.
_LOCK_TIMEOUT_S = 900


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of an XLM-RoBERTa encoder."""

    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int


SHAPES = {
    # BAAI/bge-reranker-v2-m3, that is XLM-RoBERTa large; from its config.json on the hub.
    "v2-m3": Shape(24, 1024, 16, 4096, 250_002),
    "tiny": Shape(2, 64, 4, 128, 500),
}


def synthetic_checkpoint(name: str) -> str:
    """Return the folder of a checkpoint of one of `SHAPES`, made once in `cache_dir()`.

    Raises:
        ValueError: There is no shape of that name.
        ModelLoadError: The cache folder can't be written.
    """
    if name not in SHAPES:
        msg = f"expected one of the shapes {', '.join(SHAPES)}, got {name!r}"
        raise ValueError(msg)
    folder = cache_dir() / f"synthetic-{name}-format-1"
    if not is_complete(folder):
        make_folder(folder, lambda to: _write(SHAPES[name], to), lock_timeout_s=_LOCK_TIMEOUT_S)
    return str(folder)


def _write(shape: Shape, folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import RobertaProcessing
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    torch.manual_seed(0)
    settings: dict[str, Any] = {
        **asdict(shape),
        "num_labels": 1,
        "max_position_embeddings": 8194,
        "type_vocab_size": 1,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    config = XLMRobertaConfig(**settings)
    XLMRobertaForSequenceClassification(config).save_pretrained(folder)
    words = [*_SPECIAL, *(f"w{number}" for number in range(len(_SPECIAL), shape.vocab_size))]
    tokenizer = Tokenizer(
        WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>")  # noqa: S106  # no password
    )
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 8192,
        "bos_token": "<s>",
        "cls_token": "<s>",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(special), encoding="utf-8")


def synthetic_queries(name: str, queries: int, candidates: int, tokens: int) -> list[BenchQuery]:
    """Make queries whose pairs have `tokens` tokens each, special ones included."""
    import random

    vocabulary = SHAPES[name].vocab_size
    generator = random.Random(0)  # noqa: S311  # no secret

    def text(length: int) -> str:
        numbers = (generator.randrange(len(_SPECIAL), vocabulary) for _ in range(length))
        return " ".join(f"w{number}" for number in numbers)

    room = tokens - _QUERY_TOKENS - _ADDED_TOKENS
    return [
        BenchQuery(text(_QUERY_TOKENS), tuple(text(room) for _ in range(candidates)))
        for _ in range(queries)
    ]
