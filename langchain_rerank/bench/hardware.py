"""What the machine can do: its name, and how fast it multiplies matrices."""

from __future__ import annotations

import importlib.metadata
import platform
import statistics
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PACKAGES = (
    "langchain-rerank",
    "torch",
    "transformers",
    "FlagEmbedding",
    "onnxruntime",
    "sentence-transformers",
    "optimum-onnx",
    "flashrank",
    "langchain-core",
    "langchain-community",
)
_SIDE = {"cpu": 2048, "cuda": 8192}
_RUNS = 10
_BERT_LIKE = {"bert", "roberta", "xlm-roberta", "electra", "camembert"}


def processor() -> str:
    """Name the processor, as the operating system does."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that are timed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit of the source tree that runs, marked where it was edited; None outside git."""
    try:
        # Installed into a folder of another repository, it is none of that one's files.
        _git("ls-files", "--error-unmatch", Path(__file__).name)
        return _git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments],  # noqa: S607  # the user's git
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return done.stdout.strip()


def peak_flops(device: str, dtype: str) -> float | None:
    """Measure the FLOP/s (for int8, OP/s) of multiplying square matrices.

    Args:
        device: A torch device.
        dtype: "float32", "bfloat16", "float16", or "int8" (ONNX Runtime, on the CPU).

    Returns:
        The median of ten runs; None where it can't be measured.
    """
    if device == "cpu" and dtype == "float16":
        return None  # no library here multiplies in it
    side = _SIDE[device.partition(":")[0]]
    try:
        multiply = _int8(side) if dtype == "int8" else _torch(side, device, dtype)
    except ImportError:
        return None
    # A GPU takes a moment to raise its clock.
    warm = time.perf_counter() + (0 if device == "cpu" else 1)
    multiply()
    while time.perf_counter() < warm:
        multiply()
    seconds = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        multiply()
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / statistics.median(seconds)


def _torch(side: int, device: str, dtype: str) -> Callable[[], None]:
    import torch

    from langchain_rerank.cross_encoders.torch_packing import pack_linear_layers

    kind = getattr(torch, dtype)
    layer = torch.nn.Sequential(torch.nn.Linear(side, side, bias=False)).to(device, kind)
    # The fastest there is, or float32 on AMD would look better used than it is.
    if device == "cpu":
        pack_linear_layers(layer)
    inputs = torch.randn(side, side).to(device, kind)

    def multiply() -> None:
        with torch.inference_mode():
            layer(inputs)
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    return multiply


def _int8(side: int) -> Callable[[], None]:
    import numpy as np
    import onnx
    import onnxruntime

    generator = np.random.default_rng(0)
    weights = generator.integers(-127, 127, (side, side), dtype=np.int8)
    inputs = generator.integers(0, 255, (side, side), dtype=np.uint8)
    make = onnx.helper
    graph = make.make_graph(
        [make.make_node("MatMulInteger", ["a", "b"], ["c"])],
        "matmul",
        [make.make_tensor_value_info("a", onnx.TensorProto.UINT8, [side, side])],
        [make.make_tensor_value_info("c", onnx.TensorProto.INT32, [side, side])],
        [onnx.numpy_helper.from_array(weights, "b")],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=9)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )

    def multiply() -> None:
        session.run(None, {"a": inputs})

    return multiply


def device_name(device: str) -> str:
    """Name what a torch device runs on."""
    if device == "cpu":
        return processor()
    import torch

    return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"


def pair_flops(lengths: Sequence[int], config: Any) -> float | None:
    """FLOPs that a BERT-like encoder needs for pairs, padding left out.

    Args:
        lengths: Tokens of each pair.
        config: The model's, as transformers has it.

    Returns:
        Those of the linear layers and of attention; embeddings, norms and the head are small.
        None for other architectures, whose layers are not of this form.
    """
    if config.model_type not in _BERT_LIKE:
        return None
    hidden, inner = config.hidden_size, config.intermediate_size
    linear = 8 * hidden**2 + 4 * hidden * inner
    attention = 4 * hidden
    return float(
        config.num_hidden_layers
        * sum(length * linear + length**2 * attention for length in lengths)
    )
