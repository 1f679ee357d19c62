"""How long 100 passages of 128 tokens take at the shapes of published rerankers.

    python -m tests.bench.shapes [NAME ...]

Random weights: their forward pass takes as long as trained ones. One row a shape is printed as it
is done, in milliseconds for the 100 passages, the fastest of the rounds.
"""

from __future__ import annotations

import os
import random
import subprocess
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

PASSAGES, TOKENS, QUERY_TOKENS, ADDED_TOKENS, ROUNDS = 100, 128, 10, 3, 3


def modernbert(layers: int, hidden: int, heads: int, intermediate: int) -> Any:
    return transformers.ModernBertConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        vocab_size=50_368,
        pad_token_id=1,
        num_labels=1,
        reference_compile=False,
    )


def xlm_roberta(layers: int, hidden: int, heads: int, positions: int) -> Any:
    return transformers.XLMRobertaConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        vocab_size=250_002,
        max_position_embeddings=positions,
        type_vocab_size=1,
        pad_token_id=1,
        num_labels=1,
    )


# Sizes from the config.json of each on the hub.
SHAPES = {
    "ettin-reranker-17m": lambda: modernbert(7, 256, 4, 384),
    "ettin-reranker-32m": lambda: modernbert(10, 384, 6, 576),
    "ettin-reranker-150m": lambda: modernbert(22, 768, 12, 1152),
    "gte-reranker-modernbert-base": lambda: modernbert(22, 768, 12, 1152),
    "bge-reranker-base": lambda: xlm_roberta(12, 768, 12, 514),
    "bge-reranker-v2-m3": lambda: xlm_roberta(24, 1024, 16, 8194),
    "qwen3-reranker-0.6b": lambda: transformers.Qwen3Config(
        num_hidden_layers=28,
        hidden_size=1024,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=3072,
        vocab_size=151_669,
        pad_token_id=1,
        num_labels=1,
    ),
}


def save(name: str, folder: Path) -> None:
    """Write a checkpoint of random weights, with a tokenizer of one token a word."""
    config = SHAPES[name]()
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
    return 1000 * best


def main(names: list[str]) -> None:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607  # whichever git is in use
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    print(  # noqa: T201  # a command
        f"commit {commit}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{len(os.sched_getaffinity(0))} cores; ms for {PASSAGES} passages of {TOKENS} tokens\n"
        "| shape | float32 | bfloat16 | int8 |\n| --- | ---: | ---: | ---: |"
    )
    for name in names or SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            save(name, Path(folder))
            os.environ["LANGCHAIN_RERANK_CACHE"] = folder
            cells = []
            for make in (
                lambda: TorchCrossEncoder(model=folder, device="cpu"),  # called here
                lambda: TorchCrossEncoder(model=folder, device="cpu", dtype="bfloat16"),
                lambda: OnnxCrossEncoder(model=folder),
            ):
                model = make()
                cells.append(f"{milliseconds(model):,.0f}")
                model.close()
        print(f"| {name} | {' | '.join(cells)} |", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
