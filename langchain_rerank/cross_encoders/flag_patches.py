"""What FlagEmbedding has no option for, changed from the outside as narrowly as can be.

Its bars and its finalizer in a subclass; `forward` in one model; and, while one loads,
`PreTrainedModel.from_pretrained` in one thread.
"""

from __future__ import annotations

import inspect
import threading
from contextlib import contextmanager
from types import FunctionType
from typing import TYPE_CHECKING, Any

from langchain_rerank.cancellation import check_cancelled
from langchain_rerank.errors import ScoringError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def tamed(flag_class: Any, *, quiet: bool) -> Any:
    """Return FlagEmbedding's class without its finalizer and, if asked for, without bars.

    The finalizer moves the weights to the CPU, and prints errors at interpreter exit.
    """
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
    """Collect the weights that transformers makes up, which FlagEmbedding asks nobody about.

    Two of its loaders fall back to a fresh head under a bare `except`. So this asks beneath them,
    in this thread alone.
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


def check_loaded(reranker: Any, missing: Sequence[str]) -> None:
    """Refuse a model that would score at random."""
    invented = [name for name, _ in reranker.model.named_parameters() if name in set(missing)]
    # Without tokenizer files transformers makes up a tokenizer to which every word is unknown.
    vocabulary, words = reranker.model.config.vocab_size, len(reranker.tokenizer)
    if invented:
        msg = f"the checkpoint lacks weights of a reranker, among them {', '.join(invented[:3])}."
    elif not reranker.tokenizer.is_fast:
        msg = f"it has no fast tokenizer, only {type(reranker.tokenizer).__name__}."
    elif words < vocabulary // 2:
        msg = f"its tokenizer knows {words} tokens, the model {vocabulary}: files are missing."
    else:
        return
    raise ValueError(msg)


def guard_forward(model: Any) -> None:
    """End a call that was given up at its next batch, and others' errors with their cause.

    FlagEmbedding takes every RuntimeError for a lack of memory, answers with ever smaller batches,
    down to none, and loses the cause. A `ScoringError` is none, so it passes.
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
