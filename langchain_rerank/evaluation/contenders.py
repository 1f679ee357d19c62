"""The rerankers that a sweep compares: models, each run by one backend or more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from langchain_core.cross_encoders import BaseCrossEncoder

from langchain_rerank.compressor import Reranker
from langchain_rerank.cross_encoders.torch import TorchCrossEncoder
from langchain_rerank.cross_encoders.onnx import OnnxCrossEncoder

if TYPE_CHECKING:
    from langchain_rerank.cross_encoders.base import LocalCrossEncoder

Backend = Literal["torch", "onnx"]
Models = Sequence[str] | Mapping[str, str | BaseCrossEncoder | Reranker]
"""Names of models, or names for a report with a model's name, a cross encoder or a reranker."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A reranker under the name that a report shows."""

    name: str
    backend: Backend | None
    """None for a cross encoder or reranker that was handed over."""
    reranker: Reranker

    def close(self) -> None:
        """Free the weights, where the contender was built from a model's name."""
        if self.backend is not None and hasattr(self.reranker.cross_encoder, "close"):
            self.reranker.cross_encoder.close()


def build_cross_encoder(model: str, backend: str) -> LocalCrossEncoder:
    """Build the cross encoder that runs a model: "torch", or "onnx" in int8.

    Raises:
        ValueError: There is no such backend.
    """
    if backend not in get_args(Backend):
        msg = f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}"
        raise ValueError(msg)
    built = TorchCrossEncoder if backend == "torch" else OnnxCrossEncoder
    return built(model=model)


def contenders(models: Models, backends: Sequence[Backend]) -> list[Contender]:
    """List what to compare: models in their order, each with every backend.

    Args:
        models: See `sweep`.
        backends: Of models given by name; "torch" or "onnx".

    Raises:
        ValueError: There is none, a backend is unknown, or two models would have one name.
        TypeError: Either is a single str, or a model is of another type.
    """
    for name, value in (("models", models), ("backends", backends)):
        if isinstance(value, str):
            msg = f"{name} must be a sequence, got the single str {value!r}"
            raise TypeError(msg)
    named = dict(models) if isinstance(models, Mapping) else {_short(one): one for one in models}
    if len(named) < len(models):
        msg = f"the models {list(models)} don't have names of their own: give a mapping by name"
        raise ValueError(msg)
    if not named or not backends:
        msg = f"expected a model and a backend, got {list(models)} and {list(backends)}"
        raise ValueError(msg)
    return [contender for name, model in named.items() for contender in _of(name, model, backends)]


def _of(
    name: str, model: str | BaseCrossEncoder | Reranker, backends: Sequence[Backend]
) -> list[Contender]:
    if isinstance(model, Reranker):
        return [Contender(name, None, model)]
    if isinstance(model, BaseCrossEncoder):
        return [Contender(name, None, Reranker(model=model))]
    if isinstance(model, str):
        return [
            Contender(name, backend, Reranker(model=build_cross_encoder(model, backend)))
            for backend in dict.fromkeys(backends)
        ]
    msg = (
        f"model '{name}' must be a model's name, a BaseCrossEncoder or a Reranker, got "
        f"{type(model).__name__}"
    )
    raise TypeError(msg)


def _short(model: str) -> str:
    """Name a folder by its last part, a hub's model as the hub does."""
    if not isinstance(model, str):
        msg = (
            f"models must be names; to give a {type(model).__name__}, map a name of your own to it"
        )
        raise TypeError(msg)
    path = Path(model)
    return path.name if path.is_dir() else model
