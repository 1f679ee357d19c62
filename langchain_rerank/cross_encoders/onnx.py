"""Rerankers in int8 on the CPU, by ONNX Runtime."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field
from tqdm.auto import tqdm

from langchain_rerank.cross_encoders import batching, onnx_export
from langchain_rerank.cross_encoders.checkpoint import load_error
from langchain_rerank.cross_encoders.loaded import CheckpointCrossEncoder, LoadedModel, shared
from langchain_rerank.cross_encoders.processes import (
    PerProcess,
    available_cores,
    cancelled,
    check_cancelled,
)
from langchain_rerank.errors import RerankError, require

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from langchain_rerank.cross_encoders.checkpoint import Checkpoint
    from langchain_rerank.cross_encoders.tokenization import Windows

_EXTRA = "langchain-rerank[onnx]"
_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}


class OnnxCrossEncoder(CheckpointCrossEncoder):
    """A reranker in int8 on the CPU, as a LangChain cross encoder.

    `model` is a folder or a hub repository with `tokenizer.json` and an int8 ONNX graph that suits
    the processor (`model*.onnx` or `onnx/model*.onnx`), or with any checkpoint that
    `TorchCrossEncoder` reads: the BGE, ModernBERT and Qwen3 rerankers, sentence-transformers'
    modules. A checkpoint is quantized at the first use, which takes less than three times the
    memory of its weights in float32, and kept in the cache (`LANGCHAIN_RERANK_CACHE`) for the next,
    which needs neither the weights nor PyTorch. A float32 graph that comes without weights runs as
    it is.

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

    def _open(self) -> LoadedModel:
        require("onnxruntime", "onnx", "filelock", install=_EXTRA, purpose=type(self).__name__)
        try:
            checkpoint, graph = onnx_export.find_model(self.model)
            tokenizer_folder = checkpoint.folder
            if graph is None:
                graph = onnx_export.int8_graph(checkpoint, show_progress=self.show_progress)
                tokenizer_folder = graph.parent
            key = "onnx", graph.resolve(), graph.stat().st_mtime_ns, self.model
            model = shared(key, lambda: OnnxModel(graph, tokenizer_folder, checkpoint))
        except RerankError:
            raise
        # ONNX Runtime's, protobuf's and transformers' own errors.
        except Exception as error:
            reason = f"in ONNX Runtime: {type(error).__name__}: {error}"
            other = "Use TorchCrossEncoder for it, or a repository that holds an int8 ONNX graph."
            raise load_error(self.model, f"{reason}\n{other}") from error
        self._pair_limit(checkpoint.token_limit)
        model.frame(self.instruction)
        return model


class OnnxModel(LoadedModel):
    """An ONNX graph with one logit a pair."""

    def __init__(self, graph: Path, tokenizer_folder: Path, checkpoint: Checkpoint) -> None:
        """Load graph and tokenizer, and check that they make a cross encoder."""
        from transformers import PreTrainedTokenizerFast

        self._session = PerProcess(lambda: _session(graph))
        session = self._session.get()
        self._names = names = [given.name for given in session.get_inputs()]
        if not {"input_ids"} <= set(names) <= _INPUTS:
            msg = f"its graph takes {names}, expected input_ids and at most {sorted(_INPUTS)}."
            raise ValueError(msg)
        # AutoTokenizer would need config.json.
        load: Any = PreTrainedTokenizerFast.from_pretrained
        super().__init__(checkpoint, lambda: load(tokenizer_folder, model_input_names=names))
        encoded = self.tokenizer.get()(["query"], ["passage"])
        inputs = {name: np.array(rows, dtype=np.int64) for name, rows in encoded.items()}
        outputs = [given.name for given in session.get_outputs()]
        self._output = "logits" if "logits" in outputs else outputs[0]
        (logits,) = session.run([self._output], inputs)
        if logits.size != 1:
            msg = f"its graph gives {logits.shape} numbers a pair, a reranker gives one logit."
            raise ValueError(msg)

    def logits(self, windows: Windows, settings: Any) -> npt.NDArray[np.float64]:
        """Score every window, a batch on each thread; shape (windows,)."""
        features, pad = windows.features, self.tokenizer.get().pad_token_id
        lengths = [len(row) for row in features["input_ids"]]
        # In int8 a batch shares one scale, so that neighbours would change a window's score.
        batches = batching.batches_by_length(lengths, settings.batch_tokens or 1)

        def run(batch: list[int]) -> npt.NDArray[np.float32]:
            check_cancelled(given_up)
            padded = batching.pad_batch(features, batch, pad)
            if "token_type_ids" in self._names:
                # A language model's prompt has none.
                padded.setdefault("token_type_ids", np.zeros_like(padded["input_ids"]))
            (logits,) = self._session.get().run([self._output], padded)
            flat: npt.NDArray[np.float32] = logits.reshape(len(batch))
            return flat

        given_up, hide = cancelled.get(), not settings.show_progress
        scores: npt.NDArray[np.float64] = np.empty(len(lengths))
        threads = min(settings.num_threads or available_cores(), len(batches))
        bar = tqdm(total=len(lengths), desc="Scoring", unit="pair", disable=hide)
        with bar, ThreadPoolExecutor(threads) as pool:
            for batch, found in zip(batches, pool.map(run, batches), strict=True):
                scores[batch] = found
                bar.update(len(batch))
        return scores


def _session(graph: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # One thread a window and a window a core: threads that share a window wait on each other.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        str(graph),
        options,
        providers=["CPUExecutionProvider"],
        # An addition and a layer norm after it take a fifth of the fused operator's time.
        disabled_optimizers=["SkipLayerNormFusion"],
    )
