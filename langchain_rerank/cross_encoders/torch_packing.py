"""Linear layers whose weights oneDNN has laid out once for the processor at hand."""

from __future__ import annotations

import logging
import platform

import torch
from torch import nn

logger = logging.getLogger(__name__)


class PackedLinear(nn.Module):
    """A linear layer on a CPU, computed by oneDNN on weights in its own layout, as Inductor does.

    PyTorch multiplies float32 matrices by MKL, which leaves the wide vector units of AMD's
    processors unused. The weight is no parameter: `state_dict` and `to` don't see it.
    """

    def __init__(self, linear: nn.Linear) -> None:
        """Take over a layer's weights; the layer itself can be dropped."""
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)  # noqa: SLF001  # has no public name
        self.bias = None if linear.bias is None else linear.bias.detach()

    @property
    def weight(self) -> torch.Tensor:
        """The weights, laid out anew for models that look at them."""
        weight: torch.Tensor = self._weight.to_dense()
        return weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Multiply by the weights and add the bias; shape (..., inputs) to (..., outputs)."""
        linear = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001  # has no public name
        outputs: torch.Tensor = linear(inputs, self._weight, self.bias, "none", [], "")
        return outputs


def pack_linear_layers(model: nn.Module) -> bool:
    """Put a `PackedLinear` in the place of each float32 linear layer of a model on the CPU.

    Returns:
        Whether it was done. If not, as this torch can't, the model is as it was.
    """
    layers = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and child.weight.dtype == torch.float32
    ]
    if not layers or not _works():
        return False
    packed: dict[nn.Linear, PackedLinear] = {}  # a layer that stands in two places stays one
    for parent, name, child in layers:
        if child not in packed:
            packed[child] = PackedLinear(child)
            # Else every weight would be held twice until the last is packed.
            del child.weight
        setattr(parent, name, packed[child])
    return True


def _works() -> bool:
    """Try it on a small layer: the operators are not part of PyTorch's public interface."""
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        return False
    # Not initialised at random, which would move on the caller's sequence of random numbers.
    linear = nn.Linear(32, 48, device="meta")
    linear.weight = nn.Parameter(torch.linspace(-1, 1, 32 * 48).reshape(48, 32))
    linear.bias = nn.Parameter(torch.full((48,), 0.5))
    inputs = torch.linspace(-1, 1, 96).reshape(3, 32)
    try:
        with torch.inference_mode():
            # Another order of summing rounds differently.
            works = torch.allclose(PackedLinear(linear)(inputs), linear(inputs), atol=1e-3)
    except (AttributeError, RuntimeError):
        works = False
    if not works:
        logger.info("linear layers stay as they are, oneDNN's can't be used here")
    return works
