"""What FlagEmbedding has no option for, changed from the outside, and checks that it lacks.

Each change is as narrow as it can be: one thread, one instance, or a switch that is off for
everyone else in the process. All that is touched of other packages, and why:

- `PreTrainedModel.from_pretrained`, while one loads: FlagEmbedding asks nobody which weights were
  missing and so initialised at random.
- `tqdm` and `trange` in the module of a FlagEmbedding class: its bars have no argument.
- `__del__` in a subclass: prints at interpreter exit.
- `forward` of one model: FlagEmbedding takes every RuntimeError for a lack of memory.
"""

from __future__ import annotations

import json
import sys
import threading
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from langchain_rerank.cancellation import check_cancelled
from langchain_rerank.cross_encoders.checkpoint import read_checkpoint
from langchain_rerank.errors import ScoringError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from langchain_rerank.cross_encoders.flag_embedding import FlagEmbeddingCrossEncoder

# FlagEmbedding's own default.
_MAX_LENGTH = 512

_show_progress: ContextVar[bool] = ContextVar("show_progress", default=True)


@contextmanager
def progress_shown(show_progress: bool) -> Iterator[None]:  # noqa: FBT001  # the only argument
    """Show or hide FlagEmbedding's own bars in this thread."""
    token = _show_progress.set(show_progress)
    try:
        yield
    finally:
        _show_progress.reset(token)


@contextmanager
def loading_report() -> Iterator[list[str]]:
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
def quiet(*, show_progress: bool) -> Iterator[None]:
    """Hide transformers' bar over the weights."""
    from transformers.utils import logging as transformers_logging

    hide = not show_progress and transformers_logging.is_progress_bar_enabled()
    if hide:
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # theirs
    try:
        yield
    finally:
        if hide:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]  # theirs


def guard_forward(model: Any) -> None:
    """End a call that was given up at its next batch, and others' errors with their cause.

    FlagEmbedding takes every RuntimeError for a lack of memory, answers it with ever smaller
    batches, down to none, and loses the cause. A `ScoringError` is not one, so it passes: for a
    failure that has nothing to do with memory, and for a lack that no smaller batch can cure.
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


def tamed(flag_class: Any) -> Any:
    """Return FlagEmbedding's class without finalizer and with bars that switch.

    The finalizer stops a pool of processes, which one device never starts, and moves the weights
    to the CPU; at interpreter exit it prints errors. The bars have no argument; they are switched
    by a context variable, which leaves direct users of FlagEmbedding in the same process theirs.
    """
    module = sys.modules[flag_class.__module__]
    for name in ("tqdm", "trange"):
        bar = getattr(module, name, None)
        if bar is not None and not hasattr(bar, "switched"):
            setattr(module, name, _switched(bar))
    return type(flag_class.__name__, (flag_class,), {"__del__": lambda _: None})


def _switched(bar: Any) -> Any:
    def show(*args: Any, **kwargs: Any) -> Any:
        return bar(
            *args, **{**kwargs, "disable": kwargs.get("disable") or not _show_progress.get()}
        )

    show.switched = True  # type: ignore[attr-defined]  # marks the wrapper, so it wraps once
    return show


def checked_max_length(settings: FlagEmbeddingCrossEncoder, folder: Path) -> int:
    """Refuse what FlagEmbedding would score in silence by half of what the checkpoint asks for."""
    limit: int | None = None
    if settings.family == "encoder-only-base":
        trust = settings.trust_remote_code
        checkpoint = read_checkpoint(settings.model, folder, trust_remote_code=trust)
        limit = checkpoint.token_limit
        more = checkpoint.layers or checkpoint.prompt or checkpoint.template is not None
        if more or checkpoint.task != "sequence-classification":
            msg = (
                "FlagEmbedding would leave out its modules, prompt or chat template; use "
                "TorchCrossEncoder."
            )
            raise ValueError(msg)
    elif settings.family == "decoder-only-base" and "prompt" not in settings.compute_score_kwargs:
        config = folder / "config.json"
        kind = json.loads(config.read_text(encoding="utf-8")).get("model_type")
        if kind != "gemma":
            msg = (
                f"{config} says model_type {kind!r}, and FlagEmbedding would ask it BGE-Gemma's "
                "question. Use TorchCrossEncoder, or give in compute_score_kwargs the prompt that "
                "it was trained on."
            )
            raise ValueError(msg)
    max_length = settings.max_length or min(_MAX_LENGTH, limit or _MAX_LENGTH)
    if limit is not None and max_length > limit:
        msg = f"max_length={max_length} is over the {limit} tokens that it reads."
        raise ValueError(msg)
    return max_length


def check_loaded(reranker: Any, missing: Sequence[str]) -> None:
    """Refuse a model that would score at random."""
    invented = [name for name, _ in reranker.model.named_parameters() if name in set(missing)]
    if invented:
        msg = f"the checkpoint lacks weights of a reranker, among them {', '.join(invented[:3])}."
        raise ValueError(msg)
    if not reranker.tokenizer.is_fast:
        msg = f"it has no fast tokenizer, only {type(reranker.tokenizer).__name__}."
        raise ValueError(msg)
    # Without tokenizer files transformers makes up a tokenizer to which every word is unknown.
    vocabulary, words = reranker.model.config.vocab_size, len(reranker.tokenizer)
    if words < vocabulary // 2:
        msg = f"its tokenizer knows {words} tokens, the model {vocabulary}: files are missing."
        raise ValueError(msg)
