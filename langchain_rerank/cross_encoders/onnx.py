"""Rerankers in int8 on the CPU, by ONNX Runtime."""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field
from tqdm.auto import tqdm

from langchain_rerank.cancellation import check_cancelled
from langchain_rerank.cross_encoders import batching, onnx_export
from langchain_rerank.cross_encoders.base import LocalCrossEncoder
from langchain_rerank.cross_encoders.processes import PerProcess, available_cores
from langchain_rerank.cross_encoders.tokenization import frame_of_checkpoint
from langchain_rerank.errors import ModelLoadError, RerankError, require

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from langchain_rerank.cross_encoders.checkpoint import Checkpoint
    from langchain_rerank.cross_encoders.tokenization import Frame

_EXTRA = "langchain-rerank[onnx]"
_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
_shared: weakref.WeakValueDictionary[Any, OnnxModel] = weakref.WeakValueDictionary()
_loading = PerProcess(threading.RLock)


class OnnxCrossEncoder(LocalCrossEncoder):
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

    def _open(self) -> OnnxModel:
        require("onnxruntime", "onnx", "filelock", install=_EXTRA, purpose=type(self).__name__)
        model = _shared_model(self.model, show_progress=self.show_progress)
        self._max_length(model.checkpoint)
        model.frame(self.instruction)
        return model

    @property
    def activation(self) -> str:
        """What the checkpoint's author makes of a logit; see `TorchCrossEncoder.activation`.

        Raises:
            ModelLoadError: The model could not be loaded.
        """
        with self._lock.get():
            self.load()
            activation: str = self._loaded.checkpoint.activation
            return activation

    def _logits(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float64]:
        model: OnnxModel = self._loaded
        with model.lock.get():
            windows = self._windows(pairs)
        # In int8 a batch shares one scale, so that neighbours would change a window's score.
        lengths = [len(row) for row in windows.features["input_ids"]]
        batches = batching.batches_by_length(lengths, self.batch_tokens or 1)
        scores: npt.NDArray[np.float64] = np.empty(len(lengths))
        bar = tqdm(total=len(lengths), desc="Scoring", unit="pair", disable=not self.show_progress)
        threads = min(self.num_threads or available_cores(), len(batches))
        with ThreadPoolExecutor(threads) as pool, bar:
            futures = [pool.submit(model.logits, windows.features, batch) for batch in batches]
            try:
                for batch, future in zip(batches, futures, strict=True):
                    check_cancelled()
                    scores[batch] = future.result()
                    bar.update(len(batch))
            finally:
                for future in futures:
                    future.cancel()
        merged = batching.merge_windows(scores, windows.owners, self.long_documents)
        return merged / model.checkpoint.divisor


class OnnxModel:
    """An ONNX graph with one logit a pair, and its tokenizer, which is used under `lock`."""

    def __init__(self, graph: Path, tokenizer_folder: Path, checkpoint: Checkpoint) -> None:
        """Load both and check that they fit together.

        Raises:
            ValueError: The graph is no cross encoder.
        """
        from transformers import PreTrainedTokenizerFast

        self.checkpoint = checkpoint
        # What a thread of the parent was using at a fork would stay locked in the child.
        self.lock = PerProcess(threading.RLock)
        self._session = PerProcess(lambda: _session(graph))
        session = self._session.get()
        self._names = names = [given.name for given in session.get_inputs()]
        if not {"input_ids"} <= set(names) <= _INPUTS:
            msg = f"its graph takes {names}, expected input_ids and at most {sorted(_INPUTS)}."
            raise ValueError(msg)
        # AutoTokenizer would need config.json.
        self.tokenizer = PerProcess(
            lambda: PreTrainedTokenizerFast.from_pretrained(
                tokenizer_folder, model_input_names=names
            )
        )
        encoded = self.tokenizer.get()(["query"], ["passage"])
        inputs = {name: np.array(rows, dtype=np.int64) for name, rows in encoded.items()}
        outputs = [given.name for given in session.get_outputs()]
        self._output = "logits" if "logits" in outputs else outputs[0]
        (logits,) = session.run([self._output], inputs)
        if logits.size != 1:
            msg = f"its graph gives {logits.shape} numbers a pair, a reranker gives one logit."
            raise ValueError(msg)

    def frame(self, instruction: str | None) -> Frame | None:
        """What stands around a pair; see `frame_of_checkpoint`."""
        return frame_of_checkpoint(self.checkpoint, self.tokenizer.get(), instruction)

    def logits(
        self, features: Mapping[str, Sequence[Sequence[int]]], batch: list[int]
    ) -> npt.NDArray[np.float32]:
        """Logits of one batch, shape (rows,)."""
        tokenizer = self.tokenizer.get()
        padded = batching.pad_batch(features, batch, tokenizer.pad_token_id)
        if "token_type_ids" in self._names:
            # A language model's prompt has none.
            padded.setdefault("token_type_ids", np.zeros_like(padded["input_ids"]))
        (logits,) = self._session.get().run([self._output], padded)
        flat: npt.NDArray[np.float32] = logits.reshape(len(batch))
        return flat


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


def _shared_model(name: str, *, show_progress: bool) -> OnnxModel:
    """Return a model, loaded once for all that ask for the same.

    Raises:
        ModelLoadError: It is missing, damaged, not a reranker or can't be exported.
    """
    try:
        checkpoint, graph = onnx_export.find_model(name)
        tokenizer_folder = checkpoint.folder
        if graph is None:
            graph = onnx_export.int8_graph(checkpoint, show_progress=show_progress)
            tokenizer_folder = graph.parent
        with _loading.get():
            key = (str(graph.resolve()), graph.stat().st_mtime_ns, name)
            model = _shared.get(key)
            if model is None:
                model = _shared[key] = OnnxModel(graph, tokenizer_folder, checkpoint)
            return model
    except RerankError:
        raise
    # ONNX Runtime's, protobuf's and transformers' own errors.
    except Exception as error:
        msg = (
            f"could not load '{name}' in ONNX Runtime: {type(error).__name__}: {error}\n"
            "Use TorchCrossEncoder for this model, or a repository that holds an int8 ONNX graph."
        )
        raise ModelLoadError(msg) from error
