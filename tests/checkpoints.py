"""Small checkpoints that load in milliseconds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)


def save_bert(folder: Path, tokenizer_from: str, class_name: str, **config: Any) -> str:
    """Save a tiny randomly initialised BERT with the real tokenizer."""
    import torch
    import transformers

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, class_name)(
            transformers.BertConfig(
                **{**small, "num_attention_heads": 2, "initializer_range": 0.3, **config}
            )
        )
    model.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copy(Path(tokenizer_from) / name, folder / name)
    return str(folder)
