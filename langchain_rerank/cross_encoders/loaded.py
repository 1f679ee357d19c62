"""Weights in this process, shared by all that ask for the same, and the cross encoders' base."""

from __future__ import annotations

import functools
import threading
import weakref
from typing import TYPE_CHECKING, Any, Self

from langchain_rerank.cross_encoders import batching, tokenization
from langchain_rerank.cross_encoders.base import LocalCrossEncoder
from langchain_rerank.cross_encoders.processes import PerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import numpy.typing as npt

    from langchain_rerank.cross_encoders.checkpoint import Checkpoint


class LoadedModel:
    """Weights and their tokenizer, which is used under `lock`."""

    def __init__(self, checkpoint: Checkpoint, load_tokenizer: Callable[[], Any]) -> None:
        """Load the tokenizer, and find out what stands around a pair."""
        self.checkpoint = checkpoint
        # What a thread of the parent was using at a fork would stay locked in the child.
        self.lock = PerProcess(threading.RLock)
        self.tokenizer = tokenizer = PerProcess(load_tokenizer)
        # What stands around a pair, by instruction.
        self.frame = functools.lru_cache(64)(
            lambda given: tokenization.frame_of_checkpoint(checkpoint, tokenizer.get(), given)
        )
        self.frame(None)

    def logits(self, windows: tokenization.Windows, settings: Any) -> npt.NDArray[np.float64]:
        """Score every window as a cross encoder's settings say; shape (windows,)."""
        raise NotImplementedError


_shared: weakref.WeakValueDictionary[Any, LoadedModel] = weakref.WeakValueDictionary()
loading = PerProcess(threading.RLock)


def shared(key: tuple[object, ...], load: Callable[[], LoadedModel]) -> LoadedModel:
    """Return a model that is loaded once for all that ask for the same, and freed with the last."""
    with loading.get():
        found = _shared.get(key)
        if found is None:
            found = _shared[key] = load()
        return found


class CheckpointCrossEncoder(LocalCrossEncoder):
    """Base of those that read what a checkpoint says of itself, and share its weights."""

    instruction: str | None = None
    """What to look for, for models that take an instruction (Qwen3-Reranker, mxbai v2, checkpoints
    whose chat template shows a system message); None takes the checkpoint's own."""
    long_documents: batching.LongDocuments = "first"
    """Passages over `max_length`: "first" cuts them off, as FlagEmbedding does; "max" and "mean"
    score overlapping windows and take the highest or the average logit (MaxP and AvgP of Dai and
    Callan, SIGIR 2019)."""

    @property
    def activation(self) -> str:
        """What the checkpoint's author makes of a logit: "sigmoid" or "identity".

        With "identity" the sigmoid of `normalize` still gives 0–1, in the same order, but nobody
        fitted it: a wrong passage may stand at .95. Find a `score_threshold` on data of your own
        (`langchain_rerank.evaluation.suggest_threshold`).

        Raises:
            ModelLoadError: The model could not be loaded.
        """
        with self._lock.get():
            self.load()
            activation: str = self._loaded.checkpoint.activation
            return activation

    @property
    def score_scale(self) -> str:
        """What a score is, for traces; "uncalibrated" once the checkpoint is known to be so."""
        loaded = self._loaded
        identity = loaded is not None and loaded.checkpoint.activation == "identity"
        return super().score_scale + (" (uncalibrated)" if self.normalize and identity else "")

    def with_instruction(self, instruction: str) -> Self:
        """Copy this with another `instruction`; the copy shares the loaded weights.

        Raises:
            ValueError: The model takes no instruction.
            ModelLoadError: The model could not be loaded.
        """
        copy = self.model_copy(update={"instruction": instruction})
        with self._lock.get():
            self.load()
            copy.load()
        return copy

    def _logits(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float64]:
        model: LoadedModel = self._loaded
        with model.lock.get():
            windows = self._windows(pairs)
        logits = model.logits(windows, self)
        merged = batching.merge_windows(logits, windows.owners, self.long_documents)
        return merged / model.checkpoint.divisor

    def _windows(self, pairs: Sequence[tuple[str, str]]) -> tokenization.Windows:
        """Encode pairs for the loaded model as `long_documents` says."""
        model: LoadedModel = self._loaded
        frame, tokenizer = model.frame(self.instruction), model.tokenizer.get()
        before, max_length = self.query_instruction, self._pair_limit(model.checkpoint.token_limit)
        if before is None:
            before = model.checkpoint.prompt if frame is None else ""
        text = self.passage_instruction or ""
        pairs = [(before + query, text + passage) for query, passage in pairs]
        pairs = self._short_queries(tokenizer, pairs, max_length)
        whole = self.long_documents != "first"
        windows = tokenization.encode(tokenizer, pairs, max_length, frame, whole=whole)
        if windows.truncated:
            self._warn_once(
                "%d of %d passages are longer than max_length=%d tokens and were cut; "
                'long_documents="max" scores them whole',
                *(windows.truncated, len(pairs), max_length),
            )
        return windows
