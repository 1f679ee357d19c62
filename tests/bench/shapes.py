"""How long 100 passages of 128 tokens take at the shapes of published rerankers.

    python -m tests.bench.shapes [NAME ...]

Random weights: their forward pass takes as long as trained ones. One row a shape is printed as it
is done, in milliseconds for the 100 passages, the fastest of the rounds. Where there is a GPU it is
timed, and int8, which is for processors, left out.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import BertProcessing

from langchain_rerank import OnnxCrossEncoder, TorchCrossEncoder
from langchain_rerank.cross_encoders.torch import best_device
from tests.bench.report import commit, processor

PASSAGES, TOKENS, QUERY_TOKENS, ADDED_TOKENS, ROUNDS = 100, 128, 10, 3, 3

# Kind, layers, hidden size, heads, intermediate size: of the config.json of each on the hub.
SHAPES = {
    "ettin-reranker-17m": ("ModernBert", 7, 256, 4, 384),
    "ettin-reranker-32m": ("ModernBert", 10, 384, 6, 576),
    "ettin-reranker-150m": ("ModernBert", 22, 768, 12, 1152),
    "gte-reranker-modernbert-base": ("ModernBert", 22, 768, 12, 1152),
    "bge-reranker-base": ("XLMRoberta", 12, 768, 12, 3072),
    "bge-reranker-v2-m3": ("XLMRoberta", 24, 1024, 16, 4096),
    "qwen3-reranker-0.6b": ("Qwen3", 28, 1024, 16, 3072),
}
_KINDS: dict[str, dict[str, Any]] = {
    "ModernBert": {"vocab_size": 50_368, "reference_compile": False},
    "XLMRoberta": {"vocab_size": 250_002, "type_vocab_size": 1, "max_position_embeddings": 514},
    "Qwen3": {"vocab_size": 151_669, "num_key_value_heads": 8, "head_dim": 128},
}


def save(name: str, folder: Path) -> None:
    """Write a checkpoint of random weights, with a tokenizer of one token a word."""
    kind, layers, hidden, heads, intermediate = SHAPES[name]
    config = getattr(transformers, f"{kind}Config")(
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        pad_token_id=1,
        num_labels=1,
        **_KINDS[kind],
    )
    torch.manual_seed(0)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    words = ["<s>", "<pad>", "</s>", "<unk>", *(f"w{i}" for i in range(4, config.vocab_size))]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106  # no password
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = BertProcessing(("</s>", 2), ("<s>", 0))
    special = {"pad_token": "<pad>", "eos_token": "</s>"}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=512, **special
    ).save_pretrained(folder)


def milliseconds(model: Any) -> float:
    generator = random.Random(0)  # noqa: S311  # no secret

    def text(length: int) -> str:
        return " ".join(f"w{generator.randrange(4, 50_000)}" for _ in range(length))

    query, room = text(QUERY_TOKENS), TOKENS - QUERY_TOKENS - ADDED_TOKENS
    pairs = [(query, text(room)) for _ in range(PASSAGES)]
    model.score(pairs[:4])
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        model.score(pairs)
        best = min(best, time.perf_counter() - start)
    model.close()
    return 1000 * best


def main(names: list[str]) -> None:
    device = best_device()
    columns = ["float32", "bfloat16", *(["int8"] if device == "cpu" else [])]
    place = f"{len(os.sched_getaffinity(0))} cores" if device == "cpu" else processor(device)
    print(  # noqa: T201  # a command
        f"commit {commit()}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{place}; ms for {PASSAGES} passages of {TOKENS} tokens\n"
        f"| shape | {' | '.join(columns)} |\n| --- |{' ---: |' * len(columns)}"
    )
    for name in names or SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            save(name, Path(folder))
            os.environ["LANGCHAIN_RERANK_CACHE"] = folder
            times = [
                milliseconds(
                    OnnxCrossEncoder(model=folder)
                    if column == "int8"
                    else TorchCrossEncoder(model=folder, device=device, dtype=column)
                )
                for column in columns
            ]
        print(f"| {name} | {' | '.join(f'{ms:,.0f}' for ms in times)} |", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
