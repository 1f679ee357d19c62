"""FlagEmbedding's rerankers as LangChain cross encoders."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, PrivateAttr, field_validator

from langchain_rerank.cross_encoders import batching, flag_loading, flag_patches, tokenization
from langchain_rerank.cross_encoders.base import DEFAULT_MODEL, LocalCrossEncoder
from langchain_rerank.cross_encoders.flag_loading import ModelClass  # noqa: TC001  # pydantic reads it
from langchain_rerank.errors import ScoringError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt


class FlagEmbeddingCrossEncoder(LocalCrossEncoder):
    """Any reranker that FlagEmbedding loads, as a LangChain cross encoder.

    FlagEmbedding loads model and tokenizer. Encoder-only models (the BGE rerankers base, large
    and v2-m3, the Jina, GTE and BCE rerankers, any sequence-classification checkpoint with one
    logit) then run in a loop of our own, which gives the scores of `FlagReranker.compute_score`
    to 1e-4 in a fraction of its time. Decoder models run in FlagEmbedding's `compute_score`.

    Source of the models: Xiao et al., "C-Pack", and Chen et al., "BGE M3-Embedding"; model cards
    at huggingface.co/BAAI.

    Example:
        >>> from langchain_rerank import FlagEmbeddingCrossEncoder
        >>> from langchain_rerank.offline import offline_reranker
        >>> cross_encoder = FlagEmbeddingCrossEncoder(model=offline_reranker())
        >>> question = "How many people live in Berlin?"
        >>> scores = cross_encoder.score(
        ...     [
        ...         (question, "Berlin had a population of 3,520,031 registered inhabitants."),
        ...         (question, "Berlin is well known for its museums."),
        ...     ]
        ... )
        >>> [round(score, 2) for score in scores]
        [1.0, 0.02]
    """

    model: str = Field(default=DEFAULT_MODEL, min_length=1)
    """Name on the Hugging Face hub, or path of a folder."""
    model_class: ModelClass | None = None
    """FlagEmbedding's family name. None looks the model's name up in FlagEmbedding's table; a
    name that is not in it means "encoder-only-base"."""
    device: str | None = None
    """One torch device such as "cuda:1" or "cpu"; None picks cuda, then mps, then cpu."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the weights. "auto" is float32 on a CPU, elsewhere bfloat16 where the device
    has it and float16 where not."""
    trust_remote_code: bool = False
    """Run model code that comes with the checkpoint, as the Jina and GTE rerankers need."""
    compute_score_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Decoder families only: keywords for FlagEmbedding's `compute_score`, such as
    `{"cutoff_layers": [28]}`, `{"compress_ratio": 2, "compress_layers": [24, 40]}` or `prompt`."""

    _encoder: TorchEncoder | None = PrivateAttr(default=None)
    _decoder: Any = PrivateAttr(default=None)

    @field_validator("compute_score_kwargs")
    @classmethod
    def _check_compute_score_kwargs(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        if "normalize" in kwargs:
            msg = "compute_score_kwargs can't set normalize: use the field of that name"
            raise ValueError(msg)
        return kwargs

    def load(self) -> None:
        """Load the weights now instead of at the first `score`; does nothing once loaded.

        Raises:
            ModelLoadError: The model is missing, damaged or not a reranker; its message says what
                was looked for and what to do, and the library's own error is the cause.
        """
        with self._lock.get():
            if self._encoder is not None or self._decoder is not None:
                return
            device = self.device or flag_loading.best_device()
            model_class = self.model_class or flag_loading.look_up_model_class(self.model)
            reranker = flag_loading.load_reranker(
                self.model,
                model_class,
                device,
                self.dtype,
                max_length=self.max_length,
                query_max_length=self.query_max_length,
                trust_remote_code=self.trust_remote_code,
                show_progress=self.show_progress,
                **({} if model_class == "encoder-only-base" else self._decoder_arguments(device)),
            )
            if model_class == "encoder-only-base":
                self._encoder = TorchEncoder(
                    reranker.model, reranker.tokenizer, device, self.batch_tokens
                )
            else:
                self._decoder = reranker

    def close(self) -> None:
        """Free the weights; the next `score` loads them again."""
        with self._lock.get():
            if self._encoder is None and self._decoder is None:
                return
            self._encoder = self._decoder = None
        import torch

        # A model is full of reference cycles: without this its memory would stay taken.
        gc.collect()
        torch.cuda.empty_cache()
        if torch.backends.mps.is_available():
            torch.mps.empty_cache()

    def _logits(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float64]:
        if self._encoder is None:
            return self._decoder_logits(pairs)
        windows = self._windows(self._encoder.tokenizer, pairs)
        logits = self._encoder.logits(windows, show_progress=self.show_progress)
        return batching.merge_windows(logits, windows.owners, self.long_documents)

    def _decoder_logits(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float64]:
        """Score through FlagEmbedding, which puts instructions and prompt around the texts."""
        tokenizer = self._decoder.tokenizer
        pairs = self._short_queries(tokenizer, pairs)
        owners = list(range(len(pairs)))
        if self.long_documents != "first":
            room = self.max_length - self._decoder_overhead()
            pairs, owners = tokenization.text_windows(tokenizer, pairs, room)
        with flag_patches.progress_shown(self.show_progress):
            logits = self._decoder.compute_score(list(pairs), **self.compute_score_kwargs)
        if np.shape(logits) != (len(pairs),):
            msg = (
                f"'{self.model}' gave scores of {len(logits)} layers, expected those of one: "
                f"name one that it has in compute_score_kwargs, got {self.compute_score_kwargs}"
            )
            raise ScoringError(msg)
        return batching.merge_windows(np.asarray(logits, float), owners, self.long_documents)

    def _decoder_overhead(self) -> int:
        """Tokens that FlagEmbedding adds inside `max_length`: the first one and instructions."""
        decoder = self._decoder
        added = decoder.query_instruction_for_rerank + decoder.passage_instruction_for_rerank
        return 1 + len(decoder.tokenizer(added, add_special_tokens=False)["input_ids"])

    def _decoder_arguments(self, device: str) -> dict[str, Any]:
        """Arguments that only the decoder families take from here; encoders run in our loop."""
        budget = self.batch_tokens or default_batch_tokens(device)
        arguments: dict[str, Any] = {"batch_size": max(1, budget // self.max_length)}
        # Their own defaults are "A: " and "B: ": pass on only what was given.
        if self.query_instruction is not None:
            arguments["query_instruction_for_rerank"] = self.query_instruction
        if self.passage_instruction is not None:
            arguments["passage_instruction_for_rerank"] = self.passage_instruction
        return arguments
