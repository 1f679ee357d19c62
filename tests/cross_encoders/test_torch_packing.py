"""Linear layers packed for oneDNN: the same numbers, and nothing else about the model changes."""

from __future__ import annotations

import platform

import pytest
import torch
from torch import nn

from langchain_rerank.cross_encoders.torch_packing import pack_linear_layers

x86 = platform.machine().lower() in {"x86_64", "amd64"} and torch.backends.mkldnn.is_available()


class Twice(nn.Module):
    """A model whose two layers are one, as tied weights are, beside one without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(24, 24)
        self.block = nn.Sequential(self.first, nn.ReLU(), nn.Linear(24, 5, bias=False))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.block(self.first(inputs))


@pytest.mark.skipif(not x86, reason="only where oneDNN is, on x86")
@torch.inference_mode()
def test_outputs_and_weights_stay_the_same_for_any_shape() -> None:
    torch.manual_seed(0)
    model = Twice().eval()
    inputs = [torch.randn(shape) for shape in [(24,), (1, 24), (7, 24), (3, 5, 24), (2, 0, 24)]]
    before = [*map(model, inputs), model.first.weight.clone(), model.first.bias]
    assert pack_linear_layers(model)
    after = [*map(model, inputs), model.first.weight, model.first.bias]
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    assert not any(type(module) is nn.Linear for module in model.modules())
    assert model.first is model.block[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_other_dtypes_and_a_torch_without_the_operator_keep_the_plain_layers(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    if dtype == torch.float32:
        monkeypatch.setattr(torch.ops, "mkldnn", object())
    model = Twice().to(dtype)
    assert not pack_linear_layers(model)
    assert type(model.first) is nn.Linear
