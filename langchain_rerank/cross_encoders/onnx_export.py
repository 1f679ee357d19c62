"""From a checkpoint or a float32 graph to a fused int8 graph in the user's cache, once."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import logging
import shutil
import warnings
from typing import TYPE_CHECKING, Any

from langchain_rerank.cache import cache_dir, check_folder, is_complete, make_folder
from langchain_rerank.cross_encoders import onnx_files
from langchain_rerank.cross_encoders.onnx_encoder import load_tokenizer
from langchain_rerank.errors import ModelLoadError, RerankError

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

GRAPH = "model.onnx"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
# Raise it with every change of what is written: a new recipe must never read an old folder.
_FORMAT = 1
_LIBRARIES = ("onnx", "onnxruntime", "torch", "transformers")
_OPSET = 17
# A large model takes minutes; a holder that is still busy after this long hangs.
_LOCK_TIMEOUT_S = 3600
_SOURCE_SUFFIXES = {".json", ".safetensors", ".bin", ".onnx", ".onnx_data", ".data", ".txt"}
_QUANTIZED_OPERATORS = {
    *("DequantizeLinear", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulNBits"),
    *("QAttention", "QLinearMatMul"),
}


def is_quantized(graph: Path) -> bool:
    """Tell whether a graph computes in integers already."""
    import onnx

    nodes = onnx.load(str(graph), load_external_data=False).graph.node
    return any(node.op_type in _QUANTIZED_OPERATORS for node in nodes)


def quantized_folder(
    folder: Path, graph: Path | None, *, max_length: int, show_progress: bool
) -> Path:
    """Return a folder of the cache with the int8 graph and the tokenizer of a model.

    Args:
        folder: The model's folder.
        graph: Its float32 graph; None exports its checkpoint.
        max_length: Tokens that the model must be able to read.
        show_progress: Show a bar over the steps.

    Raises:
        ModelLoadError: The model can't be loaded, exported or quantized, the cache can't be
            written, or what lies in it is damaged.
    """
    target = cache_dir() / "onnx" / f"{folder.resolve().name[:40]}-{_key(folder, graph)}"
    if not is_complete(target):
        logger.info("quantizing '%s' into %s, which is done once", folder, target)

        def fill(partial: Path) -> None:
            _fill(partial, folder, graph, max_length=max_length, show_progress=show_progress)

        make_folder(target, fill, lock_timeout_s=_LOCK_TIMEOUT_S)
    check_folder(target, (GRAPH, *_TOKENIZER_FILES))
    return target


def _key(folder: Path, graph: Path | None) -> str:
    """Hash all that the result depends on: the model's files, versions, processor, recipe."""
    files = [path for path in folder.iterdir() if path.suffix in _SOURCE_SUFFIXES]
    # A float32 graph's own data, where it lies in onnx/.
    files += [] if graph is None else graph.parent.glob(f"{graph.name}*")
    stats = {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}
    source = {
        # A snapshot of the hub is named by its commit.
        "folder": str(folder.resolve()),
        "files": sorted(stats.items()),
        "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "processor": onnx_files.processor(),
        "format": _FORMAT,
    }
    return hashlib.sha256(json.dumps(source).encode()).hexdigest()[:16]


def _fill(
    partial: Path, folder: Path, graph: Path | None, *, max_length: int, show_progress: bool
) -> None:
    from tqdm.auto import tqdm

    steps: list[tuple[str, Any]] = []
    work = partial / "work"
    work.mkdir()
    if graph is None:
        steps = [("Exporting", lambda: _export(folder, work / "float.onnx", partial, max_length))]
    else:
        steps = [("Copying", lambda: _copy_tokenizer(folder, partial))]
    steps += [
        ("Fusing", lambda: _fuse(graph or work / "float.onnx", work / "fused.onnx", folder)),
        ("Quantizing", lambda: _quantize(work / "fused.onnx", partial / GRAPH)),
    ]
    with tqdm(steps, unit="step", disable=not show_progress) as bar:
        for name, step in bar:
            bar.set_description(name)
            try:
                step()
            except (RerankError, OSError):
                raise
            except Exception as error:
                msg = (
                    f"could not turn '{folder}' into an int8 ONNX graph: {name} failed with "
                    f"{type(error).__name__}: {error}\nUse TorchCrossEncoder for this "
                    "model, or a repository that holds an int8 ONNX graph."
                )
                raise ModelLoadError(msg) from error
    shutil.rmtree(work)


def _copy_tokenizer(folder: Path, partial: Path) -> None:
    load_tokenizer(folder, ("input_ids",)).save_pretrained(partial)


def _export(folder: Path, graph: Path, partial: Path, max_length: int) -> None:
    """Trace the checkpoint in float32; its tokenizer goes into `partial`."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(partial)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    if hasattr(model, "set_attn_implementation"):
        # The pattern that ONNX Runtime fuses.
        model.set_attn_implementation("eager")
    model.config.return_dict = False
    encoded = tokenizer(["a query"] * 2, ["a passage of words"] * 2, return_tensors="pt")
    # In the order of the signature, as the tracer sorts them so before it names them.
    accepted = inspect.signature(model.forward).parameters
    features = {name: encoded[name] for name in accepted if name in encoded}
    axes = {name: {0: "batch", 1: "sequence"} for name in features}
    with warnings.catch_warnings(), torch.inference_mode():
        # The tracer warns of each shape that it takes for constant, torch of its exporter's age:
        # the new one needs a further package, and its graphs don't fuse.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (features,),
            str(graph),
            dynamo=False,
            opset_version=_OPSET,
            input_names=list(features),
            output_names=["logits"],
            dynamic_axes={**axes, "logits": {0: "batch"}},
        )


def _fuse(graph: Path, fused: Path, folder: Path) -> None:
    """Replace attention and GELU by ONNX Runtime's own operators."""
    from onnxruntime.quantization.quant_utils import (
        add_pre_process_metadata,
    )
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import (
        FusionOptions,
    )

    # The graph alone tells the number of heads only where it was exported without dynamic axes.
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    options = FusionOptions("bert")
    # Quantized, it would run in float32 again.
    options.enable_embed_layer_norm = False
    # Slow on a CPU; see OnnxEncoder.
    options.enable_skip_layer_norm = False
    options.enable_bias_skip_layer_norm = False
    model = optimizer.optimize_model(
        str(graph),
        model_type="bert",
        # 0 leaves a number to be guessed.
        num_heads=config.get("num_attention_heads", 0),
        hidden_size=config.get("hidden_size", 0),
        opt_level=0,
        optimization_options=options,
    )
    # Otherwise the quantizer advises on the root logger to preprocess the graph.
    add_pre_process_metadata(model.model)
    # Outside, as a protobuf file ends at 2 GB.
    model.save_model_to_file(str(fused), use_external_data_format=True)


def _quantize(fused: Path, target: Path) -> None:
    """Turn weights to int8; activations are scaled as they come."""
    import onnx
    from onnxruntime.quantization import (
        QuantType,
        quantize_dynamic,
    )

    quantize_dynamic(
        fused,
        target,
        weight_type=QuantType.QInt8,
        per_channel=True,
        # Without VNNI, sums of full 8-bit products overflow.
        reduce_range=onnx_files.processor() == "x86",
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT, "MatMulConstBOnly": True},
    )
