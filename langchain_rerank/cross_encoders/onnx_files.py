"""Which of a model's files are needed, and which of its ONNX graphs suits this processor."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_rerank.cross_encoders.checkpoint import Checkpoint, read_checkpoint
from langchain_rerank.cross_encoders.hub import find_folder, weights_wanted
from langchain_rerank.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_WEIGHTS = ("*.safetensors", "*.bin")
_GRAPHS = ("model*.onnx", "onnx/model*.onnx")
# Tokenizers say 10**30 for "no limit".
_NO_LIMIT = 10**9
_REST = (".json", ".txt", ".model", ".jinja")

# How exporters mark their files: half precision and 4 bits are slow or less exact on a CPU.
_UNSUITED = {"fp16", "float16", "bf16", "o4", "q4", "q4f16", "q8f16", "bnb4"}
# Without VNNI, an x86 processor saturates on products of signed weights.
_PREFERRED = {
    "arm": ("arm64", "qint8", "int8", "quantized", "quint8", "uint8"),
    "x86-vnni": ("vnni", "avx512", "qint8", "int8", "quantized", "quint8", "uint8"),
    "x86": ("quint8", "uint8", "quantized", "qint8", "int8"),
}
_FOREIGN = {"arm": {"avx2", "avx512", "vnni"}, "x86-vnni": {"arm64"}, "x86": {"arm64"}}


def processor() -> str:
    """Name the kind of int8 arithmetic here: "arm", "x86-vnni" or "x86"."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return "arm"
    flags = Path("/proc/cpuinfo")
    found = flags.is_file() and re.search(r"\bavx(512)?_vnni\b", flags.read_text(encoding="utf-8"))
    return "x86-vnni" if found else "x86"


def best_graph(names: Iterable[str], kind: str) -> str | None:
    """Choose an ONNX graph by the names that exporters give: int8 before float32.

    Args:
        names: Paths of files, relative to the model's folder.
        kind: See `processor`.

    Returns:
        One of the names; None where no graph suits.
    """
    ranked = []
    for name in names:
        if not re.fullmatch(r"(onnx/)?model[^/]*\.onnx", name):
            continue
        marks = set(re.split(r"[_.-]", Path(name).stem.lower()))
        if marks & (_UNSUITED | _FOREIGN[kind]):
            continue
        preferred = [place for place, mark in enumerate(_PREFERRED[kind]) if mark in marks]
        plain = len(_PREFERRED[kind]) + (marks != {"model"})
        ranked.append((min(preferred, default=plain), len(name), name))
    return min(ranked)[-1] if ranked else None


def find_model(model: str) -> tuple[Checkpoint, Path | None]:
    """Find a model; one on the hub is downloaded, as far as it is needed.

    Returns:
        What its checkpoint says of itself, little without config.json, and the ONNX graph to run,
        None where its weights are to be exported.

    Raises:
        ModelLoadError: There is no such folder or repository, it has neither graph nor weights,
            or it asks for something that is not done.
    """
    folder = find_folder(model, settings_wanted)
    described = any((folder / name).is_file() for name in ("config.json", "modules.json"))
    checkpoint = read_checkpoint(model, folder) if described else _graph_alone(folder)
    # A published graph ends where the transformer does.
    whole = checkpoint.task == "sequence-classification" and not checkpoint.layers
    find_folder(model, graph_wanted if whole else weights_wanted)
    files = (path for pattern in _GRAPHS for path in folder.glob(pattern))
    names = [path.relative_to(folder).as_posix() for path in files if whole]
    graph = best_graph(names, processor())
    weighty = described and any(any(checkpoint.folder.glob(name)) for name in _WEIGHTS)
    if graph is None and not weighty:
        msg = (
            f"could not load '{model}': found neither an ONNX graph in int8 or float32 "
            f"({', '.join(_GRAPHS)}) nor a checkpoint (config.json with {' or '.join(_WEIGHTS)}) "
            f"in {folder}. Expected a folder or a repository on the Hugging Face hub that holds "
            "one of them, with its tokenizer.json."
        )
        raise ModelLoadError(msg)
    return checkpoint, None if graph is None else folder / graph


def _graph_alone(folder: Path) -> Checkpoint:
    settings = folder / "tokenizer_config.json"
    stated = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    limit = int(stated.get("model_max_length") or _NO_LIMIT)
    return Checkpoint(
        folder,
        "sequence-classification",
        token_limit=limit if limit < _NO_LIMIT else None,
    )


def settings_wanted(names: Sequence[str]) -> list[str]:
    """Choose what says what a model is: settings, tokenizer, chat template."""
    return [name for name in names if name.endswith(_REST)]


def graph_wanted(names: Sequence[str]) -> list[str]:
    """Choose what to download: one graph, or the weights where there is none."""
    graph = best_graph(names, processor())
    if graph is None:
        return weights_wanted(names)
    # Beside a large graph lies its data, named model.onnx_data or model.onnx.data.
    return [graph, f"{graph}_data", f"{graph}.data"]
