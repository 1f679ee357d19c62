"""What cross encoders that run in this process share: settings, checks, one lock a model."""

from __future__ import annotations

import functools
import gc
import logging
import os
import sys
import threading
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from langchain_core.cross_encoders import BaseCrossEncoder
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator

from langchain_rerank.cross_encoders import batching, tokenization
from langchain_rerank.cross_encoders.processes import PerProcess
from langchain_rerank.errors import ModelLoadError, RerankError, ScoringError
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "BAAI/bge-reranker-v2-m3"

# `max_length=None` goes no further, though a checkpoint may: cost grows faster than length.
_LONGEST_DEFAULT = 1024
# Templates such as "[CLS] query [SEP] passage [SEP]" leave at least this much to the passage.
_MIN_PASSAGE_TOKENS = 8


def query_limit(max_length: int) -> int:
    """Most tokens of a query."""
    return min(max_length * 3 // 4, max_length - _MIN_PASSAGE_TOKENS)


class FrozenSettings(BaseModel):
    """Frozen settings beside state that belongs to one object.

    Objects of equal settings are equal. A copy made by `pickle`, `copy`, `deepcopy` or
    `model_copy` has the settings and makes state of its own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        return hash(repr(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(type(self), **self.model_dump()), ()

    def __copy__(self) -> Self:
        # `model_copy(update={"model": …})` copies by this: it must not go on with the old state.
        return type(self)(**self.model_dump())

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self.__copy__()


class LocalCrossEncoder(FrozenSettings, BaseCrossEncoder):
    """Base of the cross encoders that hold a model in this process.

    The constructor stores and checks. Weights load at the first `score`, or at `load`. One
    lock a model makes every method safe to call from any number of threads. A copy made by
    `pickle`, `copy` or `model_copy` has the settings and loads the weights itself;
    `TorchCrossEncoder` and `OnnxCrossEncoder` share equal ones in memory.
    """

    model: str = Field(default=DEFAULT_MODEL, min_length=1)
    """Name on the Hugging Face hub, or path of a folder (str or Path, "~" for the home folder)."""
    max_length: int | None = Field(default=None, ge=16)
    """Most tokens of a pair, query and prompt included, that the model reads at once; the query
    takes three quarters of them at most, as in FlagEmbedding. None takes what the checkpoint was
    made for, at most 1,024; more than it can read is an error at load."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Most tokens of a batch, padding included; None chooses by device."""
    query_instruction: str | None = None
    """Put before every query; None takes the prompt that the checkpoint saved, if any."""
    passage_instruction: str | None = None
    """Put before every passage."""
    normalize: bool = True
    """Map logits to 0–1 by the sigmoid; False gives the raw, unbounded logits. 0–1 is no promise of
    a probability: see `TorchCrossEncoder.activation`."""
    show_progress: bool = False
    """Show a progress bar over the batches."""

    _lock: PerProcess[threading.RLock] = PrivateAttr(
        default_factory=lambda: PerProcess(threading.RLock)
    )
    _loaded: Any = PrivateAttr(default=None)
    _warned: set[str] = PrivateAttr(default_factory=set)

    @field_validator("model", mode="before")
    @classmethod
    def _path_as_text(cls, model: object) -> object:
        text: Any = os.fspath(model) if isinstance(model, os.PathLike) else model
        # No hub name starts so.
        home = isinstance(text, str) and text.startswith("~")
        return str(Path(text).expanduser()) if home else text

    def _pair_limit(self, readable: int | None, default: int = _LONGEST_DEFAULT) -> int:
        """Most tokens of a pair, where the model can read so many."""
        max_length = self.max_length or min(readable or default, default)
        if readable is not None and max_length > readable:
            msg = (
                f"could not load '{self.model}': max_length={max_length} is over the {readable} "
                "tokens that it reads; give at most that, or none. TorchCrossEncoder and "
                'OnnxCrossEncoder read longer passages whole by long_documents="max".'
            )
            raise ModelLoadError(msg)
        return max_length

    def load(self) -> None:
        """Load the weights now instead of at the first `score`; does nothing once loaded.

        Raises:
            MissingDependencyError: The extra that it needs is not installed.
            ModelLoadError: The model is missing, damaged, not a reranker, asks for something that
                is not done, or reads less than `max_length`; the message says what was looked for
                and what to do.
            ValueError: `instruction` is given, and the model takes none.
        """
        with self._lock.get():
            if self._loaded is None:
                self._loaded = self._open()

    def close(self) -> None:
        """Let go of the weights, which are freed with the last that shares them.

        The next `score` loads them again.
        """
        with self._lock.get():
            if self._loaded is None:
                return
            self._loaded = None
        # A model is full of reference cycles: without this its memory would stay taken.
        gc.collect()
        if (torch := sys.modules.get("torch")) is not None:
            torch.cuda.empty_cache()
            if torch.backends.mps.is_available():
                torch.mps.empty_cache()

    def _open(self) -> Any:
        """Load the weights."""
        raise NotImplementedError

    @abstractmethod
    def _logits(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float64]:
        """Raw scores of `pairs`, shape (pairs,); called loaded and under the lock."""

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """Score how well each passage answers its query; higher is better.

        Args:
            text_pairs: (query, passage) each.

        Returns:
            One float a pair, in the same order: 0–1 with `normalize`, else a logit.

        Raises:
            TypeError: A text is not a str; the message names its position.
            ModelLoadError: The model could not be loaded.
            ScoringError: The model failed; its own error is the cause.
        """
        tokenization.check_pairs(text_pairs)
        if not text_pairs:
            return []
        pairs = [(well_formed(query), well_formed(passage)) for query, passage in text_pairs]
        with self._lock.get():
            self.load()
            try:
                groups = [self._logits(group) for group in batching.groups_by_size(pairs)]
            except RerankError:
                raise
            except Exception as error:
                msg = (
                    f"'{self.model}' failed on {len(pairs)} pairs: {type(error).__name__}: {error}"
                )
                raise ScoringError(msg) from error
        logits = np.concatenate(groups)
        scores: list[float] = (batching.sigmoid(logits) if self.normalize else logits).tolist()
        return scores

    @property
    def score_scale(self) -> str:
        """What a score is, for traces: "sigmoid" (0–1) or "logit"."""
        return "sigmoid" if self.normalize else "logit"

    def _short_queries(
        self, tokenizer: Any, pairs: Sequence[tuple[str, str]], max_length: int
    ) -> list[tuple[str, str]]:
        """Truncate long queries, with one warning in the life of this object."""
        given, passages = zip(*pairs, strict=True)
        limit = query_limit(max_length)
        queries = tokenization.truncate_queries(tokenizer, given, limit)
        if queries != list(given):
            message = "a query is longer than %d tokens, three quarters of max_length, and was cut"
            self._warn_once(message, limit)
        return list(zip(queries, passages, strict=True))

    def _warn_once(self, message: str, *args: object) -> None:
        if message not in self._warned:
            self._warned.add(message)
            logger.warning(message, *args)
