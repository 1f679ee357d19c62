"""What the systems are asked to score: a data set, the Python reference, or random words."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import BertProcessing

from langchain_rerank.corpus import python_reference
from langchain_rerank.evaluation import load_beir, read_run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from langchain_rerank.evaluation import Dataset
    from tests.bench.systems import Pairs

QUESTIONS = (
    "What happens if no except clause matches?",
    "How does the with statement call __enter__ and __exit__?",
    "What is the difference between a list and a tuple?",
    "When is a default argument evaluated?",
)
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
_KINDS = {
    "ModernBert": {"vocab_size": 50_368, "reference_compile": False},
    "XLMRoberta": {"vocab_size": 250_002, "type_vocab_size": 1, "max_position_embeddings": 514},
    "Qwen3": {"vocab_size": 151_669, "num_key_value_heads": 8, "head_dim": 128},
}
QUERY_TOKENS, PASSAGE_TOKENS = 10, 115  # of the 128 of a pair, with three added ones


def dataset_queries(
    dataset: Dataset, run: Mapping[str, Mapping[str, float]], queries: int, candidates: int
) -> list[Pairs]:
    """Take judged queries evenly spread, with the best candidates of a run."""
    corpus = {key: document.page_content for key, document in (dataset.corpus or {}).items()}
    asked = [query_id for query_id in dataset.qrels if query_id in run]
    if not asked:
        msg = f"the run answers none of the {len(dataset.qrels)} judged queries"
        raise ValueError(msg)
    chosen = []
    for query_id in asked[:: max(1, len(asked) // queries)][:queries]:
        # Candidates outside the corpus, which may be a part, cost no places.
        passages = [corpus[one] for one in run[query_id] if one in corpus][:candidates]
        if not passages:
            msg = f"the run names no document of the corpus for query {query_id!r}"
            raise ValueError(msg)
        chosen.append([(dataset.queries[query_id], passage) for passage in passages])
    return chosen


def folder_queries(folder: Path, qrels: str, queries: int, candidates: int) -> list[Pairs]:
    """Take queries of a BEIR folder, with candidates of runs/bm25.trec, else of its first run."""
    dataset = load_beir(folder, qrels, partial_corpus=True)
    runs = sorted((folder / "runs").glob("*.trec"), key=lambda path: (path.stem != "bm25", path))
    if not runs:
        msg = f"expected the run of a first stage in {folder}/runs, got no *.trec there"
        raise ValueError(msg)
    return dataset_queries(dataset, read_run(runs[0]), queries, candidates)


def python_queries(queries: int, candidates: int) -> list[Pairs]:
    """Take questions on the Python language reference, each with chunks of it at random."""
    texts = [chunk.page_content for chunk in python_reference()]
    samples = (random.Random(seed).sample(texts, candidates) for seed in range(queries))  # noqa: S311  # no secret
    return [
        [(QUESTIONS[number % len(QUESTIONS)], text) for text in passages]
        for number, passages in enumerate(samples)
    ]


def random_queries(queries: int, candidates: int) -> list[Pairs]:
    """Make pairs of 128 tokens for the tokenizer of `save_shape`."""
    generator = random.Random(0)  # noqa: S311  # no secret

    def text(length: int) -> str:
        return " ".join(f"w{generator.randrange(4, 50_000)}" for _ in range(length))

    asked = [text(QUERY_TOKENS) for _ in range(queries)]
    return [[(query, text(PASSAGE_TOKENS)) for _ in range(candidates)] for query in asked]


def save_shape(name: str, folder: Path) -> None:
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
