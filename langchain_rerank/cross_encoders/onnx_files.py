"""Where a model's files lie, and which of its ONNX graphs suits this processor."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_rerank.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Iterable

WEIGHTS = ("*.safetensors", "*.bin")
_GRAPHS = ("model*.onnx", "onnx/model*.onnx")
_REST = ("*.json", "*.txt", "*.model")

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


def graph_in(folder: Path) -> Path | None:
    """Find the graph to run among the files of a folder."""
    files = (path for pattern in _GRAPHS for path in folder.glob(pattern))
    name = best_graph((path.relative_to(folder).as_posix() for path in files), processor())
    return None if name is None else folder / name


def model_folder(model: str) -> Path:
    """Return the folder of a model; one on the hub is downloaded, as far as it is needed.

    Raises:
        ModelLoadError: There is no such folder or repository, or neither graph nor weights in it.
    """
    folder = Path(model) if Path(model).is_dir() else _snapshot(model)
    if graph_in(folder) is None and not any(any(folder.glob(weights)) for weights in WEIGHTS):
        msg = (
            f"could not load '{model}': found neither an ONNX graph in int8 or float32 "
            f"({', '.join(_GRAPHS)}) nor weights ({', '.join(WEIGHTS)}) in {folder}. Expected a "
            "folder or a repository on the Hugging Face hub that holds one of them, with its "
            "tokenizer.json."
        )
        raise ModelLoadError(msg)
    return folder


def _snapshot(repository: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    try:
        files = [file.rfilename for file in HfApi().model_info(repository).siblings or ()]
        return Path(snapshot_download(repository, allow_patterns=wanted_files(files)))
    # The hub's client raises its own errors, requests', httpx's and ValueError.
    except Exception as error:  # noqa: BLE001  # without a network, an earlier download will do
        try:
            return Path(snapshot_download(repository, local_files_only=True))
        except Exception:  # noqa: BLE001  # says only that there was no download
            msg = (
                f"could not load '{repository}': there is no folder of that name here, and the "
                f"Hugging Face hub gave no repository: {error}"
            )
            raise ModelLoadError(msg) from error


def wanted_files(names: Iterable[str]) -> list[str]:
    """Choose what to download: one graph, or the weights where there is none, and the rest."""
    names = list(names)
    graph = best_graph(names, processor())
    if graph is not None:
        # Beside a large graph lies its data, named model.onnx_data or model.onnx.data.
        return [*_REST, graph, f"{graph}_data", f"{graph}.data"]
    safe = any(name.endswith(".safetensors") and "/" not in name for name in names)
    return [*_REST, "*.safetensors" if safe else "*.bin"]
