"""From a checkpoint or a float32 graph to an int8 graph in the user's cache, once."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from langchain_rerank.cache import (
    cache_dir,
    check_folder,
    is_complete,
    make_folder,
    remove_folders,
)
from langchain_rerank.cross_encoders import batching, onnx_files, tokenization
from langchain_rerank.cross_encoders.checkpoint import RefusedError
from langchain_rerank.cross_encoders.onnx_quantize import quantize
from langchain_rerank.cross_encoders.tokenization import frame_of_checkpoint
from langchain_rerank.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx
    import torch
    from torch import nn

    from langchain_rerank.cross_encoders.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

GRAPH = "model.onnx"
_FILES = (GRAPH, f"{GRAPH}.data", "tokenizer.json", "tokenizer_config.json")
# Raise it with every change of what is written: a new recipe must never read an old folder.
_FORMAT = 2
_OPSET = 17
# A large model takes minutes; a holder that is still busy after this long hangs.
_LOCK_TIMEOUT_S = 3600
_SOURCE_SUFFIXES = {
    *(".json", ".safetensors", ".bin", ".pt", ".onnx", ".onnx_data", ".data"),
    *(".txt", ".model", ".jinja"),
}
_QUANTIZED_OPERATORS = {
    *("DequantizeLinear", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulNBits"),
    *("QAttention", "QLinearMatMul"),
}
# Their positions follow from the length of the input, which a trace takes for a constant.
_UNTRACEABLE_POSITIONS = {"dynamic", "longrope"}


def is_quantized(graph: Path) -> bool:
    """Tell whether a graph computes in integers already."""
    import onnx

    nodes = onnx.load(str(graph), load_external_data=False).graph.node
    return any(node.op_type in _QUANTIZED_OPERATORS for node in nodes)


def quantized_folder(checkpoint: Checkpoint, graph: Path | None, *, show_progress: bool) -> Path:
    """Return a folder of the cache with the int8 graph and the tokenizer of a model.

    What was made earlier of the same model, before its files changed, is removed.

    Args:
        checkpoint: What the model says of itself.
        graph: Its float32 graph; None exports the checkpoint.
        show_progress: Show a bar over the steps.

    Raises:
        ModelLoadError: The model can't be loaded, exported or quantized, the cache can't be
            written, or what lies in it is damaged.
    """
    name, key = _name_and_key(checkpoint, graph)
    target = cache_dir() / "onnx" / f"{name}-{key}"
    if not is_complete(target):
        logger.info("quantizing '%s' into %s, which is done once", checkpoint.folder, target)
        with tqdm(total=2, unit="step", disable=not show_progress) as bar:
            make_folder(
                target,
                lambda partial: _fill(partial, checkpoint, graph, bar),
                lock_timeout_s=_LOCK_TIMEOUT_S,
            )
        remove_folders(target.parent, f"{name}-", but=target)
    templates = {path.name for path in target.glob("*.jinja")}
    check_folder(target, sorted({*_FILES, *templates}))
    return target


def _name_and_key(checkpoint: Checkpoint, graph: Path | None) -> tuple[str, str]:
    """Name a model and hash its present state; the libraries' versions are not part of it."""
    folder = checkpoint.folder.resolve()
    # All commits of a repository of the hub are one model.
    model = folder.parents[1] if folder.parent.name == "snapshots" else folder
    identity = hashlib.sha256(f"{model} {onnx_files.processor()}".encode()).hexdigest()[:8]
    stats = {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in (*folder.glob("*"), *folder.glob("*/*"))
        if path.suffix in _SOURCE_SUFFIXES
    }
    answers = checkpoint.true_token, checkpoint.false_token
    state = (_FORMAT, str(folder), sorted(stats.items()), str(graph), answers)
    return f"{model.name[:40]}-{identity}", hashlib.sha256(repr(state).encode()).hexdigest()[:16]


def _fill(partial: Path, checkpoint: Checkpoint, graph: Path | None, bar: Any) -> None:
    try:
        bar.set_description("Exporting")
        if graph is None:
            model, weights = _export(checkpoint, partial)
        else:
            load_tokenizer(checkpoint.folder).save_pretrained(partial)
            model, weights = _read(graph)
        bar.update()
        bar.set_description("Quantizing")
        quantize(model, weights, checkpoint.config, partial / GRAPH)
        bar.update()
    except OSError:
        raise
    except RefusedError as error:
        msg = f"could not load '{checkpoint.folder}': {error}"
        raise ModelLoadError(msg) from error
    except Exception as error:
        msg = (
            f"could not turn '{checkpoint.folder}' into an int8 ONNX graph: "
            f"{type(error).__name__}: {error}\nUse TorchCrossEncoder for this model, or a "
            "repository that holds an int8 ONNX graph."
        )
        raise ModelLoadError(msg) from error


def load_tokenizer(folder: Path, features: Sequence[str] = ("input_ids",)) -> Any:
    """Load tokenizer.json, which needs neither config.json nor PyTorch, to give some features.

    Raises:
        ValueError: It is not there.
    """
    from transformers import PreTrainedTokenizerFast

    if not (folder / "tokenizer.json").is_file():
        msg = f"there is no tokenizer.json in {folder}."
        raise ValueError(msg)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.model_input_names = list(features)
    return tokenizer


def _read(graph: Path) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Read a float32 graph and take its matrices out, as `trace` leaves them out."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(graph))
    given = {value.name for value in model.graph.input}
    weights, rest = {}, []
    for tensor in model.graph.initializer:
        if len(tensor.dims) != 2 or tensor.data_type != onnx.TensorProto.FLOAT:  # noqa: PLR2004  # a matrix
            rest.append(tensor)
            continue
        weights[tensor.name] = numpy_helper.to_array(tensor)
        if tensor.name not in given:
            shape = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            model.graph.input.append(shape)
    del model.graph.initializer[:]
    model.graph.initializer.extend(rest)
    return model, weights


def _export(checkpoint: Checkpoint, partial: Path) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Trace a checkpoint; its tokenizer goes into `partial`."""
    import torch

    from langchain_rerank.cross_encoders import heads
    from langchain_rerank.cross_encoders.torch_model import hidden_bars

    _check(checkpoint)
    with hidden_bars(show_progress=False):
        tokenizer = heads.load_tokenizer(checkpoint)
        scorer = heads.build(checkpoint, tokenizer).float()
    tokenizer.save_pretrained(partial)
    if hasattr(scorer.model, "set_attn_implementation"):
        # The pattern that ONNX Runtime fuses.
        scorer.model.set_attn_implementation("eager")
    # Of two lengths, as a trace might take a mask without gaps for none.
    pairs = [("a query", "a passage"), ("another query", "a somewhat longer passage of words")]
    frame = frame_of_checkpoint(checkpoint, tokenizer, None)
    windows = tokenization.encode(tokenizer, pairs, 10**6 if frame else 64, frame)
    rows = batching.pad_batch(windows.features, [0, 1], tokenizer.pad_token_id)
    return trace(scorer, {name: torch.from_numpy(row) for name, row in rows.items()})


def _check(checkpoint: Checkpoint) -> None:
    config = checkpoint.config
    positions = config.get("rope_parameters") or config.get("rope_scaling") or {}
    # It may be one setting, or one for each kind of layer.
    kind = next((kind for kind in _UNTRACEABLE_POSITIONS if repr(kind) in repr(positions)), None)
    if kind is not None:
        msg = f"its positions ({kind}) depend on the length of the input. Use TorchCrossEncoder."
        raise RefusedError(msg)
    if checkpoint.float32_layers:
        msg = (
            f"it wants {', '.join(checkpoint.float32_layers)} computed in float32 "
            "(keep_in_fp32_modules). Use TorchCrossEncoder."
        )
        raise RefusedError(msg)


def trace(
    scorer: nn.Module, features: dict[str, torch.Tensor]
) -> tuple[onnx.ModelProto, dict[str, torch.Tensor]]:
    """Trace a model in float32, without a copy of its matrices.

    Args:
        scorer: Takes `features` by name and gives one logit a row. Its matrices are taken out.
        features: A batch, each of shape (rows, longest row).

    Returns:
        The graph, which takes the matrices as inputs after the features; and those, by name.
    """
    import onnx
    import torch
    from torch import nn

    matrices: dict[str, torch.Tensor] = {}
    places: dict[str, list[tuple[nn.Module, str]]] = {}
    names: dict[int, str] = {}
    for path, module in scorer.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.ndim == 2:  # noqa: PLR2004  # a matrix
                # One that stands in two places is one input.
                full = names.setdefault(id(parameter), f"{path}.{name}")
                matrices[full] = parameter.detach()
                places.setdefault(full, []).append((module, name))

    class Opened(nn.Module):
        """The model as a function of its features and matrices."""

        def __init__(self) -> None:
            super().__init__()
            self.scorer = scorer

        def forward(self, *given: torch.Tensor) -> torch.Tensor:
            for spots, matrix in zip(places.values(), given[len(features) :], strict=True):
                for module, name in spots:
                    # Past nn.Module, which takes nothing but parameters here.
                    module.__dict__[name] = matrix
            logits: torch.Tensor = self.scorer(**dict(zip(features, given, strict=False)))
            return logits

    for spots in places.values():
        for module, name in spots:
            delattr(module, name)
    axes = {name: {0: "batch", 1: "sequence"} for name in features}
    folder = tempfile.TemporaryDirectory()
    with folder, warnings.catch_warnings(), torch.inference_mode():
        # The tracer warns of each shape that it takes for constant, torch of its exporter's age:
        # the new one needs a further package, and its graphs don't fuse.
        warnings.simplefilter("ignore")
        file = Path(folder.name, GRAPH)
        torch.onnx.export(
            Opened().eval(),
            (*features.values(), *matrices.values()),
            file,
            dynamo=False,
            opset_version=_OPSET,
            input_names=[*features, *matrices],
            output_names=["logits"],
            dynamic_axes={**axes, "logits": {0: "batch"}},
        )
        return onnx.load(file), matrices
