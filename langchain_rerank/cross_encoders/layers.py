"""sentence-transformers' modules behind a transformer, as PyTorch modules of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from langchain_rerank.cross_encoders.checkpoint_files import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_rerank.cross_encoders.checkpoint import Layer

Features = dict[str, torch.Tensor]


def _weights(layer: Layer) -> Mapping[str, torch.Tensor]:
    safe, pickled = layer.folder / "model.safetensors", layer.folder / "pytorch_model.bin"
    if safe.is_file():
        from safetensors.torch import load_file

        return load_file(safe)
    if pickled.is_file():
        weights: Mapping[str, torch.Tensor] = torch.load(
            pickled, map_location="cpu", weights_only=True
        )
        return weights
    msg = f"there are no weights of its {layer.kind} module in {layer.folder}."
    raise RefusedError(msg)


def _load(module: nn.Module, layer: Layer) -> None:
    try:
        module.load_state_dict(dict(_weights(layer)))
    except RuntimeError as error:
        msg = f"the weights of its {layer.kind} module in {layer.folder} don't fit: {error}"
        raise RefusedError(msg) from error


def _pooling_modes(settings: Mapping[str, Any]) -> list[str]:
    """Read the modes as they are saved today, or in the older form of one flag each."""
    modes = settings.get("pooling_mode")
    if modes:
        return [modes] if isinstance(modes, str) else list(modes)
    flags = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}
    names = [
        name.removeprefix("pooling_mode_")
        for name, wanted in settings.items()
        if name.startswith("pooling_mode_") and wanted
    ]
    return [flags.get(name, name) for name in names]


class _Pooling(nn.Module):
    """Hidden states of a row to one vector: the first, the last, their mean or their maximum."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self._modes = _pooling_modes(layer.settings)
        if not self._modes or set(self._modes) - {"cls", "mean", "max", "lasttoken"}:
            msg = f"its Pooling module pools by {self._modes}; done are cls, mean, max, lasttoken."
            raise RefusedError(msg)

    def forward(self, features: Features) -> None:
        tokens, mask = features["token_embeddings"], features["attention_mask"]
        wide, rows = mask.unsqueeze(-1).to(tokens.dtype), torch.arange(mask.shape[0])
        pooled = []
        for mode in self._modes:
            if mode == "cls":
                pooled.append(tokens[:, 0])
            elif mode == "lasttoken":
                pooled.append(tokens[rows.to(mask.device), mask.sum(1) - 1])
            elif mode == "mean":
                total = (tokens * wide).sum(1, dtype=torch.float32)
                pooled.append((total / wide.sum(1, dtype=torch.float32)).to(tokens.dtype))
            else:
                pooled.append(tokens.masked_fill(wide == 0, -torch.inf).amax(1))
        features["sentence_embedding"] = torch.cat(pooled, dim=-1)


class _Dense(nn.Module):
    """A linear layer with an activation and, if it asks for it, a residual connection."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        settings = layer.settings
        sizes = settings["in_features"], settings["out_features"]
        self.linear = nn.Linear(*sizes, bias=settings.get("bias", True))
        self._residual = settings.get("use_residual", False)
        if self._residual and sizes[0] != sizes[1]:
            self.residual = nn.Linear(*sizes, bias=False)
        self._input = settings.get("module_input_name", "sentence_embedding")
        self._output = settings.get("module_output_name") or self._input
        _load(self, layer)
        self.activation = _activation(settings.get("activation_function", "torch.nn.Tanh"))
        if self._output == "scores" and sizes[1] != 1:
            msg = f"its Dense module gives {sizes[1]} scores a pair, a reranker gives one."
            raise RefusedError(msg)

    def forward(self, features: Features) -> None:
        given = features[self._input]
        output = self.activation(self.linear(given))
        if self._residual:
            output = output + (self.residual(given) if hasattr(self, "residual") else given)
        features[self._output] = output


class _LayerNorm(nn.Module):
    """Layer normalisation of the pooled vector."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(layer.settings["dimension"])
        _load(self, layer)

    def forward(self, features: Features) -> None:
        features["sentence_embedding"] = self.norm(features["sentence_embedding"])


def _activation(name: str | None) -> nn.Module:
    """One of PyTorch's own activations, by the dotted name that sentence-transformers saves."""
    if name is None:
        return nn.Identity()
    found = getattr(nn, name.rpartition(".")[2], None) if name.startswith("torch.") else None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        msg = f"its Dense module asks for the activation {name}; done are those of torch.nn."
        raise RefusedError(msg)
    module: nn.Module = found()
    return module


LAYER_TYPES: dict[str, type[nn.Module]] = {
    "Pooling": _Pooling,
    "Dense": _Dense,
    "LayerNorm": _LayerNorm,
}
