"""Rerankers in int8 on the CPU, by ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, PrivateAttr

from langchain_rerank.cross_encoders import batching, onnx_export, onnx_files
from langchain_rerank.cross_encoders.base import LocalCrossEncoder
from langchain_rerank.cross_encoders.onnx_encoder import OnnxEncoder
from langchain_rerank.errors import ModelLoadError, RerankError, require

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

_EXTRA = "langchain-rerank[onnx]"


class OnnxCrossEncoder(LocalCrossEncoder):
    """An encoder-only reranker in int8 on the CPU, as a LangChain cross encoder.

    `model` is a folder or a hub repository with `tokenizer.json` and either an ONNX graph
    (`model*.onnx` or `onnx/model*.onnx`; of several, an int8 one that suits the processor) or a
    checkpoint with one logit, such as the BGE rerankers base, large and v2-m3. A checkpoint or a
    float32 graph is fused and quantized at the first use, and kept in the cache
    (`LANGCHAIN_RERANK_CACHE`) for the next.

    Scores differ slightly from float32's, the order hardly does. Each window runs alone, on one
    thread, as many at once as there are cores: in int8, the activations of a batch share one
    scale, so a score would depend on its neighbours. `batch_tokens` allows that, padding included,
    where a little more speed is worth it.

    Example:
        >>> from langchain_rerank import OnnxCrossEncoder
        >>> from langchain_rerank.offline import offline_reranker
        >>> cross_encoder = OnnxCrossEncoder(model=offline_reranker())
        >>> question = "How many people live in Berlin?"
        >>> scores = cross_encoder.score(
        ...     [
        ...         (question, "Berlin had a population of 3,520,031 registered inhabitants."),
        ...         (question, "Berlin is well known for its museums."),
        ...     ]
        ... )
        >>> [round(score, 1) for score in scores]
        [1.0, 0.0]
    """

    batch_tokens: int | None = Field(default=None, ge=1)
    """Most tokens of a batch, padding included; None scores each window alone."""
    num_threads: int | None = Field(default=None, ge=1)
    """How many windows are scored at once, on a thread each; None takes the cores that this
    process may use."""

    _encoder: OnnxEncoder | None = PrivateAttr(default=None)

    def load(self) -> None:
        """Load the graph now instead of at the first `score`; does nothing once loaded.

        Raises:
            MissingDependencyError: The extra `onnx` is not installed.
            ModelLoadError: The model is missing, damaged or not a reranker, or can't be exported;
                its message says what was looked for and what to do.
        """
        with self._lock.get():
            if self._encoder is not None:
                return
            require("onnxruntime", "onnx", "filelock", install=_EXTRA, purpose=type(self).__name__)
            folder = onnx_files.model_folder(self.model)
            try:
                self._encoder = self._open(folder)
            except RerankError:
                raise
            # ONNX Runtime's, protobuf's and transformers' own errors.
            except Exception as error:
                msg = f"could not load '{self.model}' in ONNX Runtime: {error}"
                raise ModelLoadError(msg) from error

    def close(self) -> None:
        """Free the graph; the next `score` loads it again."""
        with self._lock.get():
            self._encoder = None

    def _open(self, folder: Path) -> OnnxEncoder:
        graph = onnx_files.graph_in(folder)
        if graph is None or not onnx_export.is_quantized(graph):
            folder = onnx_export.quantized_folder(
                folder, graph, max_length=self.max_length or 512, show_progress=self.show_progress
            )
            graph = folder / onnx_export.GRAPH
        encoder = OnnxEncoder(graph, folder, self.num_threads, self.batch_tokens)
        limit = encoder.tokenizer.model_max_length
        if (self.max_length or 0) > limit:
            msg = f"max_length={self.max_length} is over the {limit} tokens that it reads."
            raise ValueError(msg)
        return encoder

    def _logits(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float64]:
        if self._encoder is None:
            msg = "_logits is called loaded"
            raise AssertionError(msg)
        windows = self._windows(self._encoder.tokenizer, pairs, self.max_length or 512)
        logits = self._encoder.logits(windows, show_progress=self.show_progress)
        return batching.merge_windows(logits, windows.owners, self.long_documents)
