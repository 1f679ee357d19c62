"""The model of a service: what it is called, how it is loaded, and what its raw scores mean."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from langchain_rerank.cross_encoders.base import LocalCrossEncoder
from langchain_rerank.cross_encoders.batching import sigmoid
from langchain_rerank.cross_encoders.torch import TorchCrossEncoder
from langchain_rerank.errors import ScoringError

if TYPE_CHECKING:
    from langchain_core.cross_encoders import BaseCrossEncoder


class ServedModel:
    """A cross encoder whose raw scores are logits wherever it can give them.

    TEI's clients choose between logits and 0–1 per request. No logit can be had from a score
    whose sigmoid has been rounded to 1, so one of this package's cross encoders is copied with
    `normalize=False` (the copy loads weights of its own, the given one stays unloaded), and the
    sigmoid comes last. The scores of any other cross encoder are passed on as they are.
    """

    def __init__(self, model: str | BaseCrossEncoder, name: str | None = None) -> None:
        """Store the settings; `load` loads."""
        if isinstance(model, str):
            model = TorchCrossEncoder(model=model)
        own_name = getattr(model, "model", None)
        if not isinstance(own_name, str):
            own_name = type(model).__name__
        # Replies need not tell where on this machine a folder is.
        self.name = name or (Path(own_name).name if Path(own_name).is_absolute() else own_name)
        self.local: LocalCrossEncoder | None = None
        """A cross encoder of this package, whose raw scores are logits."""
        self._normalize = isinstance(model, LocalCrossEncoder) and model.normalize
        if isinstance(model, LocalCrossEncoder):
            model = self.local = model.model_copy(update={"normalize": False})
        self.cross_encoder = model

    def load(self) -> None:
        """Load the weights, where there are any."""
        if self.local is not None:
            self.local.load()

    def scores(self, raw: list[float], *, logits: bool | None = None) -> list[float]:
        """Give the scores that the cross encoder, as it was set, gives in process.

        Args:
            raw: Of one request.
            logits: What a client asks for: True logits, False 0–1 of a model that has logits.

        Raises:
            ScoringError: One is NaN or infinite, which JSON can't hold and no order can place.
        """
        for position, score in enumerate(raw):
            if not math.isfinite(score):
                msg = f"'{self.name}' gave the score {score} for document {position}"
                raise ScoringError(msg)
        if not (self._normalize if logits is None else self.local is not None and not logits):
            return raw
        scores: list[float] = sigmoid(np.asarray(raw, dtype=np.float64)).tolist()
        return scores
