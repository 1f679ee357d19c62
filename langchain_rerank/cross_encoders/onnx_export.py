"""Where a graph comes from: published, or made in int8 of a checkpoint, in the user's cache."""

from __future__ import annotations

import hashlib
import logging
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from langchain_rerank.cross_encoders import batching, tokenization
from langchain_rerank.cross_encoders.checkpoint import (
    Checkpoint,
    find_folder,
    load_error,
    read_checkpoint,
    require,
    token_limit,
    weights_wanted,
)
from langchain_rerank.cross_encoders.tokenization import frame_of_checkpoint
from langchain_rerank.files import cache_dir, make_folder, remove_folders

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)

_GRAPH = "model.onnx"
# Raise it with every change of what is written: a new recipe must never read an old folder.
_FORMAT = 4
# A large model takes minutes; a holder that is still busy after this long hangs.
_LOCK_TIMEOUT_S = 3600
_SETTINGS = (".json", ".txt", ".model", ".jinja")
_WEIGHTS = (".safetensors", ".bin")
_SOURCES = {*_SETTINGS, *_WEIGHTS}
# Their positions follow from the length of the input, which a trace takes for a constant.
_UNTRACEABLE_POSITIONS = ("dynamic", "longrope")
_INSTEAD = "A graph in int8 would score otherwise."

# Graphs in int8 by the names that exporters give them, the best first for each kind of processor.
# Without VNNI, an x86 processor saturates on products of signed weights.
_INT8_GRAPHS = {
    "arm": ("qint8_arm64", "int8", "quantized", "uint8"),
    "x86-vnni": ("qint8_avx512_vnni", "qint8_avx512", "int8", "quantized", "quint8_avx2", "uint8"),
    "x86": ("quint8_avx2", "uint8", "quantized", "int8", "qint8_avx512"),
}


def processor() -> str:
    """Name the kind of int8 arithmetic here: "arm", "x86-vnni" or "x86"."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return "arm"
    flags = Path("/proc/cpuinfo")
    found = flags.is_file() and re.search(r"\bavx(512)?_vnni\b", flags.read_text(encoding="utf-8"))
    return "x86-vnni" if found else "x86"


def best_graph(names: Sequence[str], kind: str) -> str | None:
    """Choose among a model's files a graph in int8; where there are no weights, one in float32."""
    stems = [f"model_{mark}" for mark in _INT8_GRAPHS[kind]]
    if not any(name.endswith(_WEIGHTS) for name in weights_wanted(names)):
        stems.append("model")
    wanted = (f"{folder}{stem}.onnx" for stem in stems for folder in ("", "onnx/"))
    return next((name for name in wanted if name in names), None)


def graph_wanted(names: Sequence[str]) -> list[str]:
    """Choose what to download: one graph, or the weights."""
    graph = best_graph(names, processor())
    if graph is None:
        return weights_wanted(names)
    # Beside a large graph lies its data, named model.onnx_data or model.onnx.data.
    return [graph, f"{graph}_data", f"{graph}.data"]


def find_model(model: str) -> tuple[Checkpoint, Path | None]:
    """Find a model; one on the hub is downloaded, as far as it is needed.

    Returns:
        What its checkpoint says of itself, little without config.json, and the ONNX graph to run,
        None where its weights are to be exported.
    """
    folder = find_folder(model, lambda names: [one for one in names if one.endswith(_SETTINGS)])
    described = any((folder / name).is_file() for name in ("config.json", "modules.json"))
    if described:
        checkpoint = read_checkpoint(model, folder)
    else:
        limit = token_limit(folder, {}, {})
        checkpoint = Checkpoint(folder, "sequence-classification", token_limit=limit)
    # A published graph ends where the transformer does.
    whole = checkpoint.task == "sequence-classification" and not checkpoint.layers
    find_folder(model, graph_wanted if whole else weights_wanted)
    files = [*folder.glob("*"), *folder.glob("onnx/*")] if whole else []
    graph = best_graph([file.relative_to(folder).as_posix() for file in files], processor())
    if graph is not None and (folder / "tokenizer.json").is_file():
        return checkpoint, folder / graph
    if described and any(file.suffix in _WEIGHTS for file in checkpoint.folder.iterdir()):
        return checkpoint, None
    graph_files = "an ONNX graph (model*.onnx or onnx/model*.onnx) with its tokenizer.json"
    weight_files = "weights (*.safetensors or *.bin) with their config.json"
    raise load_error(model, f"in {folder} is neither {graph_files} nor {weight_files}.")


def int8_graph(checkpoint: Checkpoint, *, show_progress: bool) -> Path:
    """Return an int8 graph of a checkpoint, beside a copy of its tokenizer.

    What was made earlier of the same model, before its files changed, is removed.

    Args:
        checkpoint: What the model says of itself.
        show_progress: Show a bar.

    Raises:
        ModelLoadError: The cache can't be written, or what lies in it is damaged. Whatever else is
            wrong with the model passes through as it is.
    """
    model, key = _name_and_key(checkpoint)

    def fill(folder: Path) -> None:
        logger.info("quantizing '%s' into %s, which is done once", checkpoint.folder, folder.parent)
        with tqdm(total=1, desc="Quantizing", unit="model", disable=not show_progress) as bar:
            _export(checkpoint, folder)
            bar.update()
        remove_folders(folder.parent, f"{model}-")

    target = cache_dir() / "onnx" / f"{model}-{key}"
    return make_folder(target, fill, lock_timeout_s=_LOCK_TIMEOUT_S) / _GRAPH


def _name_and_key(checkpoint: Checkpoint) -> tuple[str, str]:
    """Name a model and hash its present state; the libraries' versions are not part of it."""
    folder = checkpoint.folder.resolve()
    # All commits of a repository of the hub are one model.
    model = folder.parents[1] if folder.parent.name == "snapshots" else folder
    identity = hashlib.sha256(f"{model} {processor()}".encode()).hexdigest()[:8]
    stats = {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in (*folder.glob("*"), *folder.glob("*/*"))
        if path.suffix in _SOURCES
    }
    answers = checkpoint.true_token, checkpoint.false_token
    state = (_FORMAT, str(folder), sorted(stats.items()), answers)
    return f"{model.name[:40]}-{identity}", hashlib.sha256(repr(state).encode()).hexdigest()[:16]


def _export(checkpoint: Checkpoint, folder: Path) -> None:
    import torch

    from langchain_rerank.cross_encoders import heads, int8_layers
    from langchain_rerank.cross_encoders.torch_model import hidden_bars

    # One setting, or one for each kind of layer.
    config = checkpoint.config
    positions = repr(config.get("rope_parameters") or config.get("rope_scaling"))
    asked = [kind for kind in _UNTRACEABLE_POSITIONS if repr(kind) in positions]
    changing = f"asks for positions ({', '.join(asked)}) that depend on the length of the input"
    require(not asked, checkpoint.folder, changing, _INSTEAD)
    names = ", ".join(checkpoint.float32_layers)
    wide = f"wants {names} in float32 (keep_in_fp32_modules)"
    require(not names, checkpoint.folder, wide, _INSTEAD)
    with hidden_bars(show_progress=False):
        tokenizer = heads.load_tokenizer(checkpoint)
        scorer = heads.build(checkpoint, tokenizer)
    tokenizer.save_pretrained(folder)
    # Without VNNI, sums of full 8-bit products overflow.
    int8_layers.quantize(scorer, 64 if processor() == "x86" else 127)
    if hasattr(scorer.model, "set_attn_implementation"):
        # Others choose their way by the shapes that they are traced with.
        scorer.model.set_attn_implementation("eager")
    # Of two lengths, as a trace might take a mask without gaps for none.
    pairs = [("a query", "a passage"), ("another query", "a somewhat longer passage of words")]
    frame = frame_of_checkpoint(checkpoint, tokenizer, None)
    windows = tokenization.encode(tokenizer, pairs, 10**6 if frame else 64, frame)
    rows = batching.pad_batch(windows.features, [0, 1], tokenizer.pad_token_id)
    features = {name: torch.from_numpy(row) for name, row in rows.items()}
    int8_layers.export(scorer, features, folder / _GRAPH)
