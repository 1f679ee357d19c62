"""FlagEmbedding's own engine as a LangChain cross encoder; the one importer of FlagEmbedding."""

from __future__ import annotations

import inspect
import json
import os
import threading
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from langchain_rerank.cross_encoders import tokenization
from langchain_rerank.cross_encoders.base import LocalCrossEncoder, query_limit
from langchain_rerank.cross_encoders.checkpoint import (
    find_folder,
    load_error,
    read_checkpoint,
    weights_wanted,
)
from langchain_rerank.cross_encoders.processes import PerProcess, check_cancelled
from langchain_rerank.cross_encoders.torch import DType, best_device, torch_dtype
from langchain_rerank.errors import ModelLoadError, ScoringError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

ModelClass = Literal[
    "encoder-only-base", "decoder-only-base", "decoder-only-layerwise", "decoder-only-lightweight"
]

# FlagEmbedding's classes, and the first version of transformers beside which each fails, or scores
# wrongly; found with FlagEmbedding 1.4.2.
_CLASSES: dict[ModelClass, tuple[str, tuple[int, int]]] = {
    "encoder-only-base": ("FlagReranker", (5, 24)),
    "decoder-only-base": ("FlagLLMReranker", (5, 24)),
    "decoder-only-layerwise": ("LayerWiseFlagLLMReranker", (4, 54)),
    "decoder-only-lightweight": ("LightWeightFlagLLMReranker", (4, 48)),
}
ONLY_HERE = ("decoder-only-layerwise", "decoder-only-lightweight")  # nothing else runs them
# Decoders in FlagEmbedding's table, by the last part of their names.
_FAMILIES: dict[str, ModelClass] = {
    "bge-reranker-v2-gemma": "decoder-only-base",
    "bge-reranker-v2-minicpm-layerwise": "decoder-only-layerwise",
    "bge-reranker-v2.5-gemma2-lightweight": "decoder-only-lightweight",
}
_MAX_LENGTH = 512  # FlagEmbedding's own default
_PROCESS = os.getpid()
_loading = PerProcess(threading.Lock)


def family_of(model: str) -> ModelClass:
    """Look up FlagEmbedding's name of a model's family; "encoder-only-base" where it knows none."""
    path = Path(model)
    name = path.parent.name if path.name.startswith("checkpoint-") else path.name
    return _FAMILIES.get(name, "encoder-only-base")


class FlagEmbeddingCrossEncoder(LocalCrossEncoder):
    """FlagEmbedding's `compute_score`, made safe, as a LangChain cross encoder.

    Wraps `FlagReranker`, `FlagLLMReranker`, `LayerWiseFlagLLMReranker` and
    `LightWeightFlagLLMReranker`: one device, one call at a time, errors with their cause, bars only
    if asked for, and no model with an untrained head. Take it for the layerwise and lightweight
    models, which nothing else runs, and as the reference; `TorchCrossEncoder` gives the same scores
    for the other two families in a fraction of the time, and beside any transformers.

    FlagEmbedding 1.4.2 needs transformers<5.24; for layerwise models <4.54, for lightweight ones
    <4.48. Beside transformers 5 its encoders leave a blank passage out of the pair.

    Source of the models: their cards at huggingface.co/BAAI.

    Example:
        >>> from langchain_rerank import FlagEmbeddingCrossEncoder
        >>> cross_encoder = FlagEmbeddingCrossEncoder(
        ...     model="BAAI/bge-reranker-v2-minicpm-layerwise",
        ...     compute_score_kwargs={"cutoff_layers": [28]},
        ... )
        >>> cross_encoder.score([("what is a panda?", "A bear of China.")])  # doctest: +SKIP
        [0.97]
    """

    max_length: int | None = Field(default=None, ge=16)
    """Most tokens of query and passage; a decoder's prompt comes on top. None is FlagEmbedding's
    own 512, or what the encoder can read if that is less."""
    model_class: ModelClass | None = None
    """FlagEmbedding's family name. None tells it by the last part of the model's name; one that
    FlagEmbedding's table doesn't hold means "encoder-only-base"."""
    device: str | None = None
    """One torch device such as "cuda:1" or "cpu"; None picks cuda, then mps, then cpu."""
    dtype: DType = "auto"
    """Precision of the weights. "auto" is float32 on a CPU, elsewhere bfloat16 where the device
    has it and float16 where not."""
    trust_remote_code: bool = False
    """Run model code that comes with the checkpoint."""
    compute_score_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Keywords for FlagEmbedding's `compute_score`, such as `{"cutoff_layers": [28]}`,
    `{"compress_ratio": 2, "compress_layers": [24, 40]}` or `prompt`."""

    @field_validator("compute_score_kwargs")
    @classmethod
    def _check_compute_score_kwargs(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        if "normalize" in kwargs:
            msg = "compute_score_kwargs can't set normalize: use the field of that name"
            raise ValueError(msg)
        return kwargs

    @property
    def family(self) -> ModelClass:
        """The `model_class` in use, looked up by the model's name if none was given."""
        return self.model_class or family_of(self.model)

    def _open(self) -> Any:
        """Load by FlagEmbedding, check what came, move it to its device and dtype."""
        # Imported late: they import torch.
        from langchain_rerank.cross_encoders import heads
        from langchain_rerank.cross_encoders.torch_model import hidden_bars

        _compute_alone_if_forked()
        flag_class = _flag_class(self.model, self.family)
        folder = find_folder(self.model, weights_wanted)
        device = self.device or best_device()
        dtype = torch_dtype(self.dtype, device)
        try:
            arguments = self._arguments(device, dtype, self._checked_max_length(folder))
            with (
                _loading.get(),
                hidden_bars(show_progress=self.show_progress),
                missing_weights() as missing,
            ):
                made = _tamed(flag_class, quiet=not self.show_progress)
                reranker = made(str(folder), **arguments)
            heads.check_weights(folder, reranker.model, missing)
            heads.check_tokenizer(folder, reranker.tokenizer, reranker.model.config.vocab_size)
            reranker.model.to(device=device, dtype=dtype).eval()
        except ModelLoadError:
            raise
        # SystemExit: FlagEmbedding leaves the process where it can't import a model's code.
        except (Exception, SystemExit) as error:
            reason = f"as {self.family} on {device}: {error}"
            other = "If it is of another family, set model_class."
            raise load_error(self.model, f"{reason}\n{other}") from error
        _guard_forward(reranker.model)
        return reranker

    def _checked_max_length(self, folder: Path) -> int:
        """Refuse what FlagEmbedding would score by half of what a checkpoint asks for."""
        limit = asked = None
        if self.family == "encoder-only-base":
            checkpoint = read_checkpoint(self.model, folder, trusted=self.trust_remote_code)
            limit = checkpoint.token_limit
            more = checkpoint.layers or checkpoint.prompt or checkpoint.template is not None
            if more or checkpoint.task != "sequence-classification":
                asked = "modules, prompt or chat template, which FlagEmbedding would leave out"
        elif self.family == "decoder-only-base" and "prompt" not in self.compute_score_kwargs:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            if config.get("model_type") != "gemma":
                asked = (
                    f"model_type {config.get('model_type')!r}, and no prompt is given in "
                    "compute_score_kwargs: FlagEmbedding would ask it BGE-Gemma's question"
                )
        if asked is not None:
            msg = f"its files name {asked}. Use TorchCrossEncoder."
            raise ValueError(msg)
        return self._pair_limit(limit, _MAX_LENGTH)

    def _arguments(self, device: str, dtype: Any, max_length: int) -> dict[str, Any]:
        import torch

        from langchain_rerank.cross_encoders.torch_model import default_batch_tokens

        budget = self.batch_tokens or default_batch_tokens(device)
        instructions = {
            "query_instruction_for_rerank": self.query_instruction,
            "passage_instruction_for_rerank": self.passage_instruction,
        }
        return {
            "devices": device,
            "batch_size": max(1, budget // max_length),
            "max_length": max_length,
            "query_max_length": query_limit(max_length),
            "trust_remote_code": self.trust_remote_code,
            "use_bf16": dtype == torch.bfloat16,
            # Two of the families warn unless one half precision is asked for; on a CPU all of them
            # ignore float16, so asking for it there keeps float32 and the peace.
            "use_fp16": dtype == torch.float16 or (device == "cpu" and dtype == torch.float32),
            # Their own defaults are "A: " and "B: ".
            **{name: text for name, text in instructions.items() if text is not None},
        }

    def _logits(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float64]:
        """Score through FlagEmbedding, which puts instructions and prompt around the texts."""
        _compute_alone_if_forked()
        reranker, most = self._loaded, self._loaded.max_length
        tokenizer = reranker.tokenizer
        pairs = self._short_queries(tokenizer, pairs, most)
        pairs = [(query, tokenization.start_of(tokenizer, text, most)) for query, text in pairs]
        logits = reranker.compute_score(pairs, **self.compute_score_kwargs)
        if np.shape(logits) != (len(pairs),):
            msg = (
                f"'{self.model}' gave scores of {len(logits)} layers, expected those of one: "
                f"name one that it has in compute_score_kwargs, got {self.compute_score_kwargs}"
            )
            raise ScoringError(msg)
        return np.asarray(logits, float)


def _compute_alone_if_forked() -> None:
    """Threads that share an operation don't come along to a forked child: it would hang."""
    import torch

    if os.getpid() != _PROCESS:
        torch.set_num_threads(1)


def _flag_class(model: str, family: ModelClass) -> Any:
    """Import FlagEmbedding's class for a family, or say beside which transformers it runs."""
    import transformers

    name, (major, minor) = _CLASSES[family]
    below = f"transformers<{major}.{minor}"
    other = "take TorchCrossEncoder, which runs encoders and BGE-Gemma anywhere"
    if family in ONLY_HERE:
        other = "choose another model; TorchCrossEncoder runs encoders and BGE-Gemma anywhere"
    refusal = ModelLoadError(
        f"could not load '{model}' as {family}: FlagEmbedding needs {below} for it, found "
        f"{transformers.__version__}. In an environment of its own, run: pip install "
        f'langchain-rerank FlagEmbedding "{below}"; or {other}.'
    )
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    # The other families fail at the import, which a later FlagEmbedding may have mended.
    if family in ONLY_HERE and version >= (major, minor):
        raise refusal
    try:
        import FlagEmbedding
    except ImportError as error:
        raise refusal from error
    return getattr(FlagEmbedding, name)


def _tamed(flag_class: Any, *, quiet: bool) -> Any:
    """Take off a class its finalizer, which prints errors at interpreter exit, and its bars."""
    import torch

    changed: dict[str, Any] = {"__del__": lambda _: None}
    if quiet:
        score = inspect.unwrap(flag_class.compute_score_single_gpu)
        bars = {"tqdm": lambda rows, **_: rows, "trange": lambda *span, **_: range(*span)}
        silent = FunctionType(score.__code__, score.__globals__ | bars, argdefs=score.__defaults__)
        changed[score.__name__] = torch.no_grad()(silent)
    return type(flag_class.__name__, (flag_class,), changed)


@contextmanager
def missing_weights() -> Iterator[list[str]]:
    """Collect the weights that transformers makes up in this thread: FlagEmbedding asks nobody.

    Two of its loaders fall back to a fresh head under a bare `except`.
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


def _guard_forward(model: Any) -> None:
    """End a call that was given up at its next batch, and errors as a `ScoringError`.

    FlagEmbedding takes every RuntimeError for a lack of memory, and loses it over smaller batches.
    """
    import torch

    unguarded = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        check_cancelled()
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
