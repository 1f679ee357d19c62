"""Loading a reranker by FlagEmbedding; the only file that imports it."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from langchain_rerank.errors import ModelLoadError, ScoringError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ModelClass = Literal[
    "encoder-only-base", "decoder-only-base", "decoder-only-layerwise", "decoder-only-lightweight"
]

# The first version of transformers under which FlagEmbedding's own modelling code of a family
# fails, or worse, scores wrongly; found with FlagEmbedding 1.4.2.
_BROKEN_SINCE = {"decoder-only-layerwise": (4, 54), "decoder-only-lightweight": (4, 48)}

_loading = threading.Lock()
_show_progress: ContextVar[bool] = ContextVar("show_progress", default=True)


def best_device() -> str:
    """Pick "cuda", "mps" or "cpu", the first that there is."""
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


def look_up_model_class(model: str) -> ModelClass:
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


def load_reranker(
    model: str,
    model_class: ModelClass,
    device: str,
    dtype: str,
    *,
    show_progress: bool,
    **arguments: Any,
) -> Any:
    """Load by FlagEmbedding, check what came, move it to its device and dtype.

    Args:
        model: Name on the hub, or path of a folder.
        model_class: FlagEmbedding's family name.
        device: One torch device.
        dtype: "auto", or the name of a torch dtype.
        show_progress: Whether to show transformers' bars.
        **arguments: For FlagEmbedding's class.

    Returns:
        A FlagEmbedding reranker, with `model`, `tokenizer` and `compute_score`.

    Raises:
        ModelLoadError: The model is missing, damaged or not a reranker.
    """
    import torch

    _check_transformers(model, model_class)
    wanted = _torch_dtype(dtype, device)
    if model_class != "encoder-only-base":
        # Two of the families warn unless one half precision is asked for; on a CPU all of them
        # ignore float16, so asking for it there keeps float32 and the peace.
        arguments["use_bf16"] = wanted == torch.bfloat16
        arguments["use_fp16"] = wanted != torch.bfloat16 and (
            device == "cpu" or wanted == torch.float16
        )
    try:
        with _loading, _quiet(model, show_progress=show_progress), _loading_report() as missing:
            reranker = _reranker_class(model_class)(model, devices=device, **arguments)
        _check_loaded(reranker, model_class, missing)
        reranker.use_fp16 = wanted == torch.float16
        reranker.model.to(device=device, dtype=wanted).eval()
    # SystemExit: FlagEmbedding leaves the process where it can't import a model's code.
    except (Exception, SystemExit) as error:
        nowhere = "" if Path(model).exists() else " There is no folder of that name here."
        msg = (
            f"could not load '{model}' as {model_class} on {device}: {error}\n"
            "Expected the name of a reranker on the Hugging Face hub, or a folder that holds its "
            f"config.json, weights and tokenizer.{nowhere} If it is of another family, set "
            "model_class."
        )
        raise ModelLoadError(msg) from error
    if model_class != "encoder-only-base":
        _guard_forward(reranker.model)
    return reranker


def _check_transformers(model: str, model_class: ModelClass) -> None:
    import transformers

    found = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    broken = _BROKEN_SINCE.get(model_class)
    if broken is not None and found >= broken:
        below = f"transformers<{broken[0]}.{broken[1]}"
        msg = (
            f"could not load '{model}' as {model_class}: FlagEmbedding's code for this family "
            f"needs {below}, found {transformers.__version__}. In an environment of its own, run: "
            f'pip install langchain-rerank "{below}"; or choose a model of another family.'
        )
        raise ModelLoadError(msg)


@contextmanager
def progress_shown(show_progress: bool) -> Iterator[None]:  # noqa: FBT001  # the only argument
    """Show or hide FlagEmbedding's own bars in this thread."""
    token = _show_progress.set(show_progress)
    try:
        yield
    finally:
        _show_progress.reset(token)


def _check_loaded(reranker: Any, model_class: ModelClass, missing: Sequence[str]) -> None:
    """Refuse a model that would score at random, and one that gives no single score a pair."""
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
def _quiet(model: str, *, show_progress: bool) -> Iterator[None]:
    """Hide transformers' bars, but not while a download may run, which can take minutes."""
    from transformers.utils import logging as transformers_logging

    hide = (
        not show_progress
        and Path(model).exists()
        and transformers_logging.is_progress_bar_enabled()
    )
    if hide:
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # theirs
    try:
        yield
    finally:
        if hide:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]  # theirs


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
