"""Loading a reranker by FlagEmbedding: which family, which precision, and is it whole."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from langchain_rerank.cross_encoders import flag_patches
from langchain_rerank.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Sequence

ModelClass = Literal[
    "encoder-only-base", "decoder-only-base", "decoder-only-layerwise", "decoder-only-lightweight"
]

# The first version of transformers under which FlagEmbedding's own modelling code of a family
# fails, or worse, scores wrongly; found with FlagEmbedding 1.4.2.
_BROKEN_SINCE = {"decoder-only-layerwise": (4, 54), "decoder-only-lightweight": (4, 48)}

_loading = threading.Lock()


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
        with (
            _loading,
            flag_patches.quiet(model, show_progress=show_progress),
            flag_patches.loading_report() as missing,
        ):
            reranker = flag_patches.reranker_class(model_class)(model, devices=device, **arguments)
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
        flag_patches.guard_forward(reranker.model)
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
