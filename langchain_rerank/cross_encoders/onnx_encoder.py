"""The forward loop of encoder-only rerankers in ONNX Runtime."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from langchain_rerank.cross_encoders import batching

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from langchain_rerank.cross_encoders.tokenization import Windows

_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}


def available_cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class OnnxEncoder:
    """An ONNX graph with one logit a pair, and its tokenizer, ready to score on the CPU."""

    def __init__(
        self, graph: Path, tokenizer_folder: Path, num_threads: int | None, batch_tokens: int | None
    ) -> None:
        """Load both and check that they fit together.

        Raises:
            ValueError: The graph is no cross encoder, or its tokenizer is not there.
        """
        import onnxruntime

        self._threads = num_threads or available_cores()
        self._batch_tokens = batch_tokens
        options = onnxruntime.SessionOptions()
        # One thread a window and a window a core: threads that share a window wait on each other.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(graph),
            options,
            providers=["CPUExecutionProvider"],
            # An addition and a layer norm after it take a fifth of the fused operator's time.
            disabled_optimizers=["SkipLayerNormFusion"],
        )
        names = [given.name for given in self._session.get_inputs()]
        if not {"input_ids"} <= set(names) <= _INPUTS:
            msg = f"its graph takes {names}, expected input_ids and at most {sorted(_INPUTS)}."
            raise ValueError(msg)
        outputs = [given.name for given in self._session.get_outputs()]
        self._output = "logits" if "logits" in outputs else outputs[0]
        self.tokenizer = load_tokenizer(tokenizer_folder, names)
        self._check_logits()

    def logits(self, windows: Windows, *, show_progress: bool) -> npt.NDArray[np.float64]:
        """Score every window; shape (windows,).

        In int8, the activations of a batch share one scale, so that neighbours would change a
        window's score: each runs alone, unless a budget of tokens for batches was given.
        """
        from tqdm.auto import tqdm

        lengths = [len(row) for row in windows.features["input_ids"]]
        batches = batching.batches_by_length(lengths, self._batch_tokens or 1)
        scores: npt.NDArray[np.float64] = np.empty(len(lengths))
        workers = min(self._threads, len(batches))
        bar = tqdm(total=len(lengths), desc="Scoring", unit="pair", disable=not show_progress)
        with ThreadPoolExecutor(workers) as pool, bar as progress:
            outputs = pool.map(lambda batch: self._forward(windows, batch), batches)
            for batch, output in zip(batches, outputs, strict=True):
                scores[batch] = output
                progress.update(len(batch))
        return scores

    def _forward(self, windows: Windows, batch: list[int]) -> npt.NDArray[np.float32]:
        """Logits of one batch, shape (batch,)."""
        inputs = batching.pad_batch(
            windows.features, batch, self.tokenizer.pad_token_id, self.tokenizer.padding_side
        )
        (logits,) = self._session.run([self._output], inputs)
        flat: npt.NDArray[np.float32] = logits.reshape(len(batch))
        return flat

    def _check_logits(self) -> None:
        encoded = self.tokenizer(["query"], ["passage"])
        inputs = {name: np.array(rows, dtype=np.int64) for name, rows in encoded.items()}
        (logits,) = self._session.run([self._output], inputs)
        if logits.size != 1:
            msg = f"its graph gives {logits.shape} numbers a pair, a reranker gives one logit."
            raise ValueError(msg)


def load_tokenizer(folder: Path, features: Sequence[str]) -> Any:
    """Load tokenizer.json, which needs no config.json, to give just what the graph takes.

    Raises:
        ValueError: It is not there.
    """
    from transformers import PreTrainedTokenizerFast

    if not (folder / "tokenizer.json").is_file():
        msg = f"there is no tokenizer.json in {folder}."
        raise ValueError(msg)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.model_input_names = list(features)
    return tokenizer
