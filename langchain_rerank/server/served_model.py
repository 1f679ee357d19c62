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
from langchain_rerank.scoring import score_pairs

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
        """Store the settings; `load` loads.

        Args:
            model: A model's name or path, for a `TorchCrossEncoder`, or a cross encoder.
            name: What replies call it; None takes the model's own name, of a folder the last part.
        """
        if isinstance(model, str):
            model = TorchCrossEncoder(model=model)
        own_name = getattr(model, "model", None)
        if not isinstance(own_name, str):
            own_name = type(model).__name__
        # Replies need not tell where on this machine a folder is.
        self.name = name or (Path(own_name).name if Path(own_name).is_absolute() else own_name)
        self._normalize = isinstance(model, LocalCrossEncoder) and model.normalize
        self._local: LocalCrossEncoder | None = None
        if isinstance(model, LocalCrossEncoder):
            self._local = model = model.model_copy(update={"normalize": False})
        self._cross_encoder = model

    @property
    def has_logits(self) -> bool:
        """Tell whether raw scores are logits."""
        return self._local is not None

    def load(self) -> None:
        """Load the weights, where the cross encoder has a way to."""
        if self._local is not None:
            self._local.load()

    def close(self) -> None:
        """Free the weights."""
        if self._local is not None:
            self._local.close()

    def score(self, pairs: list[tuple[str, str]]) -> tuple[list[float], int | None]:
        """Score pairs.

        Returns:
            A raw score each, and the tokens that the model read; None if it does not count them.

        Raises:
            RerankError: The cross encoder failed or broke its contract.
        """
        before = self._local.tokens_scored if self._local is not None else 0
        scores = score_pairs(self._cross_encoder, pairs)
        # None for the decoder families as well, whose tokens are not counted.
        tokens = self._local.tokens_scored - before if self._local is not None else 0
        return scores, tokens or None

    def relevance_scores(self, raw: list[float]) -> list[float]:
        """Give the scores that the cross encoder, as it was set, gives in process.

        Raises:
            ScoringError: One is NaN or infinite, which JSON can't hold and no order can place.
        """
        return self._finite(raw, sigmoid_last=self._normalize)

    def tei_scores(self, raw: list[float], *, as_logits: bool) -> list[float]:
        """Give logits if asked, else 0–1 of a model that has logits, or its own scores.

        Raises:
            ScoringError: One is NaN or infinite.
        """
        return self._finite(raw, sigmoid_last=self.has_logits and not as_logits)

    def _finite(self, raw: list[float], *, sigmoid_last: bool) -> list[float]:
        for position, score in enumerate(raw):
            if not math.isfinite(score):
                msg = f"'{self.name}' gave the score {score} for document {position}"
                raise ScoringError(msg)
        if not sigmoid_last:
            return raw
        scores: list[float] = sigmoid(np.asarray(raw, dtype=np.float64)).tolist()
        return scores
