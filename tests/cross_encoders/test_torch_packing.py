"""Linear layers packed for oneDNN: the same numbers, and nothing else about the model changes."""

from __future__ import annotations

import platform

import pytest
import torch
from torch import nn

from langchain_rerank.cross_encoders.torch_packing import PackedLinear, pack_linear_layers

x86 = pytest.mark.skipif(
    platform.machine().lower() not in {"x86_64", "amd64"}
    or not torch.backends.mkldnn.is_available(),
    reason="only where oneDNN is, on x86",
)


class Twice(nn.Module):
    """A model whose two layers are one, as tied weights are, beside one without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(24, 24)
        self.block = nn.Sequential(self.first, nn.ReLU(), nn.Linear(24, 5, bias=False))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.block(self.first(inputs))


@x86
@torch.inference_mode()
def test_the_outputs_stay_the_same_for_any_shape() -> None:
    torch.manual_seed(0)
    model = Twice().eval()
    shapes = [(24,), (1, 24), (7, 24), (3, 5, 24), (2, 0, 24)]
    inputs = [torch.randn(shape) for shape in shapes]
    before = [model(one) for one in inputs]
    assert pack_linear_layers(model)
    after = [model(one) for one in inputs]
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert not any(type(module) is nn.Linear for module in model.modules())
    assert model.first is model.block[0]


@x86
def test_weights_can_still_be_read() -> None:
    linear = nn.Linear(17, 9)
    packed = PackedLinear(linear)
    assert torch.equal(packed.weight, linear.weight)
    assert torch.equal(packed.bias, linear.bias)


def test_other_dtypes_are_left_alone() -> None:
    model = Twice().to(torch.bfloat16)
    assert not pack_linear_layers(model)
    assert type(model.first) is nn.Linear


def test_a_torch_without_the_operator_keeps_the_plain_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    model = Twice()
    assert not pack_linear_layers(model)
    assert type(model.first) is nn.Linear
