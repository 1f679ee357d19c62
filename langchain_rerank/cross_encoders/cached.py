"""Scores that outlive a call: a cache around any cross encoder."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from typing import TYPE_CHECKING, Any

from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.runnables import run_in_executor

from langchain_rerank.cross_encoders.base import LocalCrossEncoder
from langchain_rerank.cross_encoders.tokenization import check_pairs, one_a_pair
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    from langchain_core.stores import BaseStore

logger = logging.getLogger(__name__)


class CachedCrossEncoder(BaseCrossEncoder):
    """Scores each pair once, in the manner of LangChain's `CacheBackedEmbeddings`.

    Pairs whose score is in the store are not scored again, and a call whose pairs all are does
    not load the model. A damaged entry and NaN are scored again; a store that fails costs time, not
    the answer. Safe to call from any number of threads if the store is.

    Example:
        >>> from langchain_core.stores import InMemoryByteStore
        >>> from langchain_rerank import CachedCrossEncoder, TorchCrossEncoder
        >>> from langchain_rerank.offline import offline_reranker
        >>> store = InMemoryByteStore()
        >>> cached = CachedCrossEncoder(TorchCrossEncoder(model=offline_reranker()), store)
        >>> pair = ("How many people live in Berlin?", "Berlin has 3,520,031 people.")
        >>> cached.score([pair]) == cached.score([pair])
        True
        >>> len(list(store.yield_keys()))
        1
    """

    def __init__(
        self,
        cross_encoder: BaseCrossEncoder,
        store: BaseStore[str, bytes],
        *,
        namespace: str | None = None,
    ) -> None:
        """Store the settings; neither the model nor the store is touched.

        Args:
            cross_encoder: Scores what the store lacks.
            store: Any LangChain byte store, such as `LocalFileStore` or a Redis store.
            namespace: Tells apart the scores of different models and settings in one store. None
                makes it from one that holds a model in this process, as it was given: a checkpoint
                changed in place, or machines that settle `device` None or `dtype` "auto"
                differently, need namespaces of their own.

        Raises:
            ValueError: `namespace` is missing for another cross encoder, such as a remote one.
        """
        kind = type(cross_encoder).__name__
        if namespace is None:
            if not isinstance(cross_encoder, LocalCrossEncoder):
                msg = (
                    f"namespace must name the model and settings of {kind}, which can't be told "
                    "from the outside"
                )
                raise ValueError(msg)
            # The size of batches stays: in int8, neighbours share a scale.
            settings = cross_encoder.model_dump_json(exclude={"num_threads", "show_progress"})
            namespace = f"{kind}:{settings}"
        self._cross_encoder: Any = cross_encoder
        self._store = store
        self._namespace = namespace
        if hasattr(cross_encoder, "ascore"):
            # Only then: whoever finds it awaits it, and gives others a thread.
            self.ascore = self._ascore

    @property
    def model(self) -> str:
        """Name of the model, for traces."""
        return str(getattr(self._cross_encoder, "model", type(self._cross_encoder).__name__))

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """Score pairs, reading from the store what it has; see `BaseCrossEncoder.score`.

        Raises:
            TypeError: A text is not a str; the message names its position.
            ScoringError: The cross encoder gave a wrong number of scores; none was stored.
        """
        keys, known, missing = self._look_up(text_pairs)
        if missing:
            known |= self._keep(missing, self._cross_encoder.score(list(missing.values())))
        return [known[key] for key in keys]

    async def _ascore(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """Score pairs without blocking the event loop; see `score`."""
        keys, known, missing = await run_in_executor(None, self._look_up, text_pairs)
        if missing:
            scores = await self._cross_encoder.ascore(list(missing.values()))
            known |= await run_in_executor(None, self._keep, missing, scores)
        return [known[key] for key in keys]

    def load(self) -> None:
        """Load the cross encoder's weights now, if it holds any."""
        if hasattr(self._cross_encoder, "load"):
            self._cross_encoder.load()

    def close(self) -> None:
        """Free what the cross encoder holds; the store stays as it is."""
        if hasattr(self._cross_encoder, "close"):
            self._cross_encoder.close()

    def with_instruction(self, instruction: str) -> CachedCrossEncoder:
        """Copy this for an instruction, whose scores are kept apart in the same store.

        Raises:
            ValueError: The cross encoder takes none.
        """
        if not hasattr(self._cross_encoder, "with_instruction"):
            msg = f"{type(self._cross_encoder).__name__} takes no instruction"
            raise ValueError(msg)
        namespace = json.dumps([self._namespace, instruction])
        instructed = self._cross_encoder.with_instruction(instruction)
        return CachedCrossEncoder(instructed, self._store, namespace=namespace)

    def _look_up(
        self, text_pairs: list[tuple[str, str]]
    ) -> tuple[list[str], dict[str, float], dict[str, tuple[str, str]]]:
        """Give the pairs' keys, the scores that the store has, and the pairs that it lacks."""
        check_pairs(text_pairs)
        keys = [self._key(*pair) for pair in text_pairs]
        missing = dict(zip(keys, text_pairs, strict=True))
        known = {}
        try:
            entries = self._store.mget(list(missing))
        except Exception as error:  # noqa: BLE001  # any store's own
            logger.warning("the score cache can't be read, scoring anew: %r", error)
            entries = []
        for key, entry in zip(list(missing), entries, strict=False):
            if not math.isnan(score := _decode(entry)):
                known[key] = score
                del missing[key]
        return keys, known, missing

    def _keep(self, missing: dict[str, tuple[str, str]], scores: Any) -> dict[str, float]:
        """Store new scores, but NaN, which may be better next time."""
        new = dict(
            zip(missing, one_a_pair(self._cross_encoder, scores, list(missing)), strict=True)
        )
        try:
            # A list, as a number that is cut off would be another number.
            entries = {key: json.dumps([x]).encode() for key, x in new.items() if not math.isnan(x)}
            self._store.mset(list(entries.items()))
        except Exception as error:  # noqa: BLE001  # as above
            logger.warning("the score cache can't be written: %r", error)
        return new

    def _key(self, query: str, passage: str) -> str:
        parts = json.dumps([self._namespace, well_formed(query), well_formed(passage)])
        return hashlib.sha256(parts.encode()).hexdigest()


def _decode(entry: bytes | None) -> float:
    """Give the score of an entry, NaN if there is none or it is damaged."""
    try:
        (score,) = json.loads(entry or b"[]")
        return float(score)
    except (ValueError, TypeError):
        return math.nan
