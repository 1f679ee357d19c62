"""FlagEmbedding's rerankers as cross encoders; the only file that imports FlagEmbedding."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, PrivateAttr

from langchain_rerank.cross_encoders import batching, tokenization
from langchain_rerank.cross_encoders.local import LocalCrossEncoder
from langchain_rerank.cross_encoders.torch_encoder import TorchEncoder, default_batch_tokens
from langchain_rerank.errors import ModelLoadError, ScoringError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

DEFAULT_MODEL = "BAAI/bge-reranker-v2-m3"

ModelClass = Literal[
    "encoder-only-base", "decoder-only-base", "decoder-only-layerwise", "decoder-only-lightweight"
]

_loading = threading.Lock()
_show_progress: ContextVar[bool] = ContextVar("show_progress", default=True)


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

    def load(self) -> None:
        """Load the weights now instead of at the first `score`; does nothing once loaded.

        Raises:
            ModelLoadError: The model is missing, damaged or not a reranker; its message says what
                was looked for and what to do, and the library's own error is the cause.
        """
        with self._lock:
            if self._encoder is not None or self._decoder is not None:
                return
            device = self.device or _best_device()
            model_class = self.model_class or _look_up_model_class(self.model)
            reranker = _load_reranker(self, model_class, device)
            if model_class == "encoder-only-base":
                self._encoder = TorchEncoder(
                    reranker.model, reranker.tokenizer, device, self.batch_tokens
                )
            else:
                self._decoder = reranker

    def close(self) -> None:
        """Free the weights; the next `score` loads them again."""
        with self._lock:
            if self._encoder is None and self._decoder is None:
                return
            self._encoder = self._decoder = None
        import torch

        torch.cuda.empty_cache()

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
            pairs, owners = tokenization.text_windows(tokenizer, pairs, self.max_length)
        visible = _show_progress.set(self.show_progress)
        try:
            logits = self._decoder.compute_score(list(pairs), **self.compute_score_kwargs)
        finally:
            _show_progress.reset(visible)
        if np.ndim(logits) != 1:
            msg = (
                f"'{self.model}' gave scores of {len(logits)} layers, expected those of one: "
                f"name one in compute_score_kwargs, got {self.compute_score_kwargs}"
            )
            raise ScoringError(msg)
        return batching.merge_windows(np.asarray(logits, float), owners, self.long_documents)


def _best_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _torch_dtype(name: str, device: str) -> Any:
    import torch

    if name != "auto":
        return getattr(torch, name)
    if device == "cpu":
        return torch.float32
    if device.startswith("cuda") and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return torch.float16


def _look_up_model_class(model: str) -> ModelClass:
    """Find the family by the last part of the name, as FlagEmbedding's FlagAutoReranker does."""
    from FlagEmbedding.inference.reranker import model_mapping

    path = Path(model)
    name = path.parent.name if path.name.startswith("checkpoint-") else path.name
    entry = model_mapping.AUTO_RERANKER_MAPPING.get(name)
    for family, reranker_class in model_mapping.RERANKER_CLASS_MAPPING.items():
        if entry is not None and entry.model_class is reranker_class:
            found: ModelClass = family.value
            return found
    return "encoder-only-base"


def _load_reranker(
    settings: FlagEmbeddingCrossEncoder, model_class: ModelClass, device: str
) -> Any:
    """Load by FlagEmbedding, check what came, move it to its device and dtype.

    Returns:
        A FlagEmbedding reranker, with `model`, `tokenizer` and `compute_score`.
    """
    dtype = _torch_dtype(settings.dtype, device)
    arguments: dict[str, Any] = {}
    if model_class != "encoder-only-base":
        arguments = _decoder_arguments(settings, device, str(dtype))
    try:
        with _loading, _quiet(settings), _loading_report() as missing:
            reranker = _reranker_class(model_class)(
                settings.model,
                trust_remote_code=settings.trust_remote_code,
                devices=device,
                max_length=settings.max_length,
                query_max_length=settings.query_max_length,
                **arguments,
            )
        _check_loaded(reranker, model_class, missing)
        reranker.use_fp16 = str(dtype) == "torch.float16"
        reranker.model.to(device=device, dtype=dtype).eval()
    # SystemExit: FlagEmbedding leaves the process where it can't import a model's code.
    except (Exception, SystemExit) as error:
        nowhere = "" if Path(settings.model).exists() else " There is no folder of that name here."
        msg = (
            f"could not load '{settings.model}' as {model_class} on {device}: {error}\n"
            "Expected the name of a reranker on the Hugging Face hub, or a folder that holds its "
            f"config.json, weights and tokenizer.{nowhere} If it is of another family, set "
            "model_class."
        )
        raise ModelLoadError(msg) from error
    if model_class != "encoder-only-base":
        _guard_forward(reranker.model)
    return reranker


def _decoder_arguments(
    settings: FlagEmbeddingCrossEncoder, device: str, dtype: str
) -> dict[str, Any]:
    """Arguments that only FlagEmbedding's decoder rerankers take."""
    # Two of the families warn unless one half precision is asked for; on a CPU all of them
    # ignore float16, so asking for it there keeps float32 and the peace.
    arguments: dict[str, Any] = {
        "use_fp16": dtype == "torch.float16" or (device == "cpu" and dtype == "torch.float32"),
        "use_bf16": dtype == "torch.bfloat16",
        "batch_size": max(
            1, (settings.batch_tokens or default_batch_tokens(device)) // settings.max_length
        ),
    }
    # Their own defaults are "A: " and "B: ": pass on only what was given.
    if settings.query_instruction is not None:
        arguments["query_instruction_for_rerank"] = settings.query_instruction
    if settings.passage_instruction is not None:
        arguments["passage_instruction_for_rerank"] = settings.passage_instruction
    return arguments


def _check_loaded(reranker: Any, model_class: ModelClass, missing: Sequence[str]) -> None:
    """Refuse a model that would score at random, and one that gives no single score a pair."""
    invented = [name for name, _ in reranker.model.named_parameters() if name in set(missing)]
    if invented:
        msg = f"the checkpoint lacks weights of a reranker, among them {', '.join(invented[:3])}."
        raise ValueError(msg)
    if not reranker.tokenizer.is_fast:
        msg = f"it has no fast tokenizer, only {type(reranker.tokenizer).__name__}."
        raise ValueError(msg)
    if model_class != "encoder-only-base":
        return
    labels = reranker.model.config.num_labels
    if labels != 1:
        msg = f"it gives {labels} logits a pair, a reranker gives one."
        raise ValueError(msg)
    limit = reranker.tokenizer.model_max_length
    if reranker.max_length > limit:
        msg = f"max_length={reranker.max_length} is over the {limit} tokens that it reads."
        raise ValueError(msg)


@contextmanager
def _loading_report() -> Iterator[list[str]]:
    """Collect the names of weights that transformers initialises afresh, which it only logs.

    FlagEmbedding has no way to ask for `output_loading_info`, and two of its loaders fall back
    to a fresh head under a bare `except`; so this asks beneath it, in this thread alone.
    """
    from transformers import PreTrainedModel

    missing: list[str] = []
    thread = threading.get_ident()
    inherited = PreTrainedModel.__dict__["from_pretrained"]

    def from_pretrained(cls: type[Any], *args: Any, **kwargs: Any) -> Any:
        load = inherited.__get__(None, cls)
        if threading.get_ident() != thread or kwargs.get("output_loading_info"):
            return load(*args, **kwargs)
        model, report = load(*args, **{**kwargs, "output_loading_info": True})
        missing[:] = report["missing_keys"]
        return model

    setattr(PreTrainedModel, "from_pretrained", classmethod(from_pretrained))  # noqa: B010  # mypy
    try:
        yield missing
    finally:
        setattr(PreTrainedModel, "from_pretrained", inherited)  # noqa: B010  # mypy


@contextmanager
def _quiet(settings: FlagEmbeddingCrossEncoder) -> Iterator[None]:
    """Hide transformers' bars, but not while a download may run, which can take minutes."""
    from transformers.utils import logging as transformers_logging

    hide = (
        not settings.show_progress
        and Path(settings.model).exists()
        and transformers_logging.is_progress_bar_enabled()
    )
    if hide:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if hide:
            transformers_logging.enable_progress_bar()


def _guard_forward(model: Any) -> None:
    """Stop FlagEmbedding's decoders from taking every RuntimeError for a lack of memory.

    They answer it with ever smaller batches, down to none, and lose the cause. A `ScoringError`
    is not one, so it passes: for a failure that has nothing to do with memory, and for a lack of
    memory that no smaller batch can cure.
    """
    import torch

    unguarded = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        try:
            return unguarded(*args, **kwargs)
        except torch.OutOfMemoryError as error:
            if len(kwargs["input_ids"]) > 1:
                raise
            msg = "out of memory with a single pair; lower max_length or choose a smaller model"
            raise ScoringError(msg) from error
        except RuntimeError as error:
            msg = f"the model failed: {error}"
            raise ScoringError(msg) from error

    model.forward = forward


def _reranker_class(model_class: ModelClass) -> Any:
    """FlagEmbedding's class for a family, without its finalizer and with a switch for its bars.

    The finalizer stops a pool of processes, which one device never starts; at interpreter exit
    it prints errors. The bars have no argument; they are switched by a context variable, which
    leaves direct users of FlagEmbedding in the same process theirs.
    """
    import sys

    from FlagEmbedding.inference.reranker import model_mapping

    family = model_mapping.RerankerModelClass(model_class)
    reranker_class = model_mapping.RERANKER_CLASS_MAPPING[family]
    module = sys.modules[reranker_class.__module__]
    for name in ("tqdm", "trange"):
        bar = getattr(module, name, None)
        if bar is not None and not hasattr(bar, "switched"):
            setattr(module, name, _switched(bar))
    return type(reranker_class.__name__, (reranker_class,), {"__del__": lambda _: None})


def _switched(bar: Any) -> Any:
    def show(*args: Any, **kwargs: Any) -> Any:
        return bar(
            *args, **{**kwargs, "disable": kwargs.get("disable") or not _show_progress.get()}
        )

    show.switched = True  # type: ignore[attr-defined]  # marks the wrapper, so it wraps once
    return show
