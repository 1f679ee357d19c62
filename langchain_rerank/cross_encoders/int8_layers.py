"""A PyTorch model with int8 matrices, and the ONNX graph that computes with them in integers.

The weights are quantized before the export, which so handles a quarter of them.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Mapping

_OPSET = 17
# Rows or columns of a matrix that is worth it.
_SMALLEST = 8
_FLOAT = 1  # onnx.TensorProto.FLOAT


class _IntegerProduct(torch.autograd.Function):
    """`x @ (integers * scale)`; in ONNX with `x` in integers too, by one scale a call."""

    @staticmethod
    def forward(
        _: Any, x: torch.Tensor, integers: torch.Tensor, scale: torch.Tensor
    ) -> torch.Tensor:
        return x.float() @ (integers * scale)

    @staticmethod
    def symbolic(g: Any, x: Any, integers: Any, scale: Any) -> Any:
        quantized, x_scale, x_zero = g.op("DynamicQuantizeLinear", x, outputs=3)
        product = g.op("MatMulInteger", quantized, integers, x_zero)
        scales = g.op("Mul", x_scale, scale)
        return g.op("Mul", g.op("Cast", product, to_i=_FLOAT), scales)


class _Int8(nn.Module):
    """A matrix in int8, with a scale for each row of what it was in float."""

    integers: torch.Tensor
    scale: torch.Tensor

    def __init__(self, weight: torch.Tensor, largest: int) -> None:
        super().__init__()
        values = weight.detach().float()
        scale = values.abs().amax(1, keepdim=True).clamp_min(1e-30) / largest
        self.register_buffer("integers", (values / scale).round_().to(torch.int8))
        self.register_buffer("scale", scale)

    @property
    def weight(self) -> torch.Tensor:
        """In float, for what reads a layer's weights past its `forward`."""
        return self.integers * self.scale


class _Int8Linear(_Int8):
    def __init__(self, linear: nn.Linear, largest: int) -> None:
        super().__init__(linear.weight, largest)
        # As the product takes them.
        self.integers = self.integers.T.contiguous()
        self.scale = self.scale.flatten()
        self.bias = linear.bias

    @property
    def weight(self) -> torch.Tensor:
        return super().weight.T

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = _IntegerProduct.apply(x, self.integers, self.scale)  # type: ignore[no-untyped-call]  # theirs
        return product if self.bias is None else product + self.bias


class _Int8Embedding(_Int8):
    def __init__(self, embedding: nn.Embedding, largest: int) -> None:
        super().__init__(embedding.weight, largest)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.integers[ids] * self.scale[ids]


# Not their subclasses, which may compute something else.
_REPLACED: dict[type[nn.Module], Any] = {nn.Linear: _Int8Linear, nn.Embedding: _Int8Embedding}


def quantize(model: nn.Module, largest: int) -> None:
    """Turn a model's matrices to int8 in place, what else it has to float32.

    `largest` is the largest integer of a weight: 127, or less where sums would overflow.
    """
    # One that stands in two places is replaced by one.
    made: dict[int, nn.Module] = {}
    parents = [module for module in model.modules() if type(module) not in _REPLACED]
    for parent in parents:
        # By name, as children alone would leave out the second place.
        for name, child in list(parent._modules.items()):  # noqa: SLF001  # see above
            if child is None or (replace := _REPLACED.get(type(child))) is None:
                continue
            # A head of a few logits costs nothing in float.
            if min(child.get_parameter("weight").shape) < _SMALLEST:
                continue
            if id(child) not in made:
                made[id(child)] = replace(child, largest)
            setattr(parent, name, made[id(child)])
    model.float()


class _Positional(nn.Module):
    """A model whose named inputs are given in order, as the exporter does."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(**dict(zip(self.names, given, strict=True)))
        return logits


def export(model: nn.Module, features: Mapping[str, torch.Tensor], target: Path) -> None:
    """Write a model's graph, and beside it, as ".data", its weights, which are mapped into memory.

    The model takes `features`, each of shape (rows, longest row), and gives one logit a row.
    """
    import onnx

    axes = {name: {0: "batch", 1: "sequence"} for name in features}
    folder = TemporaryDirectory(dir=target.parent)
    with folder, warnings.catch_warnings(), torch.inference_mode():
        # The tracer warns of each shape that it takes for constant, torch of its exporter's age:
        # the new one needs a further package.
        warnings.simplefilter("ignore")
        file = Path(folder.name, target.name)
        torch.onnx.export(
            _Positional(model, list(features)).eval(),
            tuple(features.values()),
            file,
            dynamo=False,
            autograd_inlining=False,
            opset_version=_OPSET,
            input_names=list(features),
            output_names=["logits"],
            dynamic_axes={**axes, "logits": {0: "batch"}},
        )
        graph = onnx.load(file)
    onnx.save(graph, target, save_as_external_data=True, location=f"{target.name}.data")
