"""The ranking policy: which documents to score, what to do with the scores, what to return."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import Runnable, RunnableConfig, run_in_executor
from langchain_core.runnables.config import get_config_list, merge_configs
from pydantic import ConfigDict, Field, field_validator

from langchain_rerank.cross_encoders.flag_embedding import DEFAULT_MODEL, FlagEmbeddingCrossEncoder
from langchain_rerank.errors import ScoringError
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    from langchain_core.callbacks import Callbacks

logger = logging.getLogger(__name__)

Pairs = list[tuple[str, str]]


class RerankInput(TypedDict):
    """What `Reranker.as_runnable()` takes."""

    query: str
    documents: Sequence[Document]


class Reranker(BaseDocumentCompressor):
    """Keep the documents that a cross encoder scores highest, best first.

    Returns copies whose metadata gain `relevance_score` (float; higher is better, 0–1 unless the
    cross encoder gives logits) and `retrieval_rank` (int; the document's place in the input, from
    1). Ids, texts, other metadata and the caller's own documents stay as they were. Documents of
    equal score keep their order; a NaN score goes last.

    Example:
        >>> from langchain_core.documents import Document
        >>> from langchain_rerank import Reranker
        >>> from langchain_rerank.offline import offline_reranker
        >>> reranker = Reranker(model=offline_reranker(), top_n=1)
        >>> documents = [
        ...     Document("Berlin is well known for its museums."),
        ...     Document("Berlin had a population of 3,520,031 registered inhabitants."),
        ... ]
        >>> best = reranker.compress_documents(documents, "How many people live in Berlin?")
        >>> best[0].page_content
        'Berlin had a population of 3,520,031 registered inhabitants.'
        >>> best[0].metadata["retrieval_rank"]
        2
    """

    model_config = ConfigDict(
        arbitrary_types_allowed=True, extra="forbid", protected_namespaces=(), validate_default=True
    )

    model: str | BaseCrossEncoder = DEFAULT_MODEL
    """A model's name or path, from which a `FlagEmbeddingCrossEncoder` is built, or any
    `BaseCrossEncoder`."""
    top_n: int | None = Field(default=5, gt=0)
    """How many documents to keep; None keeps all."""
    score_threshold: float | None = None
    """Drop documents that score below; applied before `top_n`. A fitting value depends on the
    model and on the data."""
    rank_fields: tuple[str, ...] = ()
    """Metadata fields put before the text that is scored, a line each, such as `("title",)`."""
    deduplicate: bool = True
    """Keep one document per id and one per identical text: the one that came first."""
    on_error: Literal["raise", "keep_order"] = "raise"
    """When scoring fails: "raise", or "keep_order" to log the error and return the documents in
    the order they came, cut to `top_n`, without scores."""

    @field_validator("model")
    @classmethod
    def _build_cross_encoder(cls, model: str | BaseCrossEncoder) -> BaseCrossEncoder:
        return FlagEmbeddingCrossEncoder(model=model) if isinstance(model, str) else model

    @property
    def cross_encoder(self) -> BaseCrossEncoder:
        """The cross encoder that scores."""
        return cast("BaseCrossEncoder", self.model)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Rerank documents.

        Args:
            documents: The candidates, in first-stage order.
            query: What they are ranked for.
            callbacks: Reranking is a run of its own under these.

        Returns:
            Copies of at most `top_n` of `documents`, best first.

        Raises:
            ValueError: The query is blank.
            TypeError: The query or a document's text is not a str.
            ScoringError: The cross encoder gave a wrong number of scores, or failed.
            ModelLoadError: The model could not be loaded.
        """
        config: RunnableConfig = {"callbacks": callbacks}
        return self.as_runnable().invoke({"query": query, "documents": documents}, config)

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Rerank documents without blocking the event loop; see `compress_documents`."""
        config: RunnableConfig = {"callbacks": callbacks}
        return await self.as_runnable().ainvoke({"query": query, "documents": documents}, config)

    def as_runnable(self) -> Runnable[RerankInput, list[Document]]:
        """Reranking as a step of an LCEL chain.

        Returns:
            Takes `{"query": str, "documents": list[Document]}`, gives documents. Its `batch`
            scores the pairs of all queries in one pass.
        """
        return _RerankRunnable(self)


class _RerankRunnable(Runnable[RerankInput, list[Document]]):
    """The one path by which a `Reranker` runs: a traced batch, of one or of many queries."""

    name = "Reranker"

    def __init__(self, reranker: Reranker) -> None:
        self._reranker = reranker

    def invoke(
        self, input: RerankInput, config: RunnableConfig | None = None, **_: Any
    ) -> list[Document]:
        return self.batch([input], config)[0]

    async def ainvoke(
        self, input: RerankInput, config: RunnableConfig | None = None, **_: Any
    ) -> list[Document]:
        return (await self.abatch([input], config))[0]

    def batch(
        self,
        inputs: list[RerankInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **_: Any,
    ) -> list[list[Document]]:
        configs = self._traced(inputs, config)
        return self._batch_with_config(
            self._rerank, inputs, configs, return_exceptions=return_exceptions
        )

    async def abatch(
        self,
        inputs: list[RerankInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **_: Any,
    ) -> list[list[Document]]:
        configs = self._traced(inputs, config)
        return await self._abatch_with_config(
            self._arerank, inputs, configs, return_exceptions=return_exceptions
        )

    def _traced(
        self, inputs: list[RerankInput], config: RunnableConfig | list[RunnableConfig] | None
    ) -> list[RunnableConfig]:
        """Name the model and count the documents in each run's metadata."""
        model = getattr(self._reranker.model, "model", type(self._reranker.model).__name__)
        return [
            merge_configs(
                one, {"metadata": {"model": str(model), "documents_in": len(given["documents"])}}
            )
            for one, given in zip(get_config_list(config, len(inputs)), inputs, strict=True)
        ]

    def _rerank(self, inputs: list[RerankInput]) -> list[list[Document] | Exception]:
        questions = [_prepare(self._reranker, given) for given in inputs]
        scores: list[float] | Exception = []
        if pairs := _pairs(questions):
            try:
                scores = _checked(self._reranker.cross_encoder.score(pairs), pairs)
            except Exception as error:  # noqa: BLE001  # handed on for `on_error` to decide
                scores = error
        return _finish(self._reranker, questions, scores)

    async def _arerank(self, inputs: list[RerankInput]) -> list[list[Document] | Exception]:
        questions = [_prepare(self._reranker, given) for given in inputs]
        scores: list[float] | Exception = []
        if pairs := _pairs(questions):
            try:
                found = await run_in_executor(None, self._reranker.cross_encoder.score, pairs)
                scores = _checked(found, pairs)
            except Exception as error:  # noqa: BLE001  # handed on for `on_error` to decide
                scores = error
        return _finish(self._reranker, questions, scores)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A document to score, its first-stage rank from 1, and its pair of texts."""

    document: Document
    rank: int
    pair: tuple[str, str]


def check_query(query: str) -> None:
    """Raise `TypeError` for what is not a str, `ValueError` for a blank one."""
    if not isinstance(query, str):
        msg = f"query must be a str, got {type(query).__name__}"
        raise TypeError(msg)
    if not query.strip():
        msg = f"query must hold text, got {query!r}"
        raise ValueError(msg)


def _prepare(reranker: Reranker, given: RerankInput) -> list[_Candidate] | Exception:
    """Choose the documents to score; an input that is wrong gives its error."""
    try:
        check_query(given["query"])
        candidates = []
        for rank, document in enumerate(given["documents"], start=1):
            check_text(document, rank - 1)
            fields = (document.metadata.get(name) for name in reranker.rank_fields)
            lines = [str(value) for value in fields if value not in (None, "")]
            text = "\n".join([*lines, document.page_content])
            pair = (well_formed(given["query"]), well_formed(text))
            candidates.append(_Candidate(document, rank, pair))
    except (TypeError, ValueError) as error:
        return error
    return _first_of_each(candidates) if reranker.deduplicate else candidates


def check_text(document: Document, position: int) -> None:
    """Raise `TypeError` for a document whose text is not a str."""
    if not isinstance(document.page_content, str):
        kind = type(document.page_content).__name__
        msg = f"page_content of document {position} must be a str, got {kind}"
        raise TypeError(msg)


def _first_of_each(candidates: list[_Candidate]) -> list[_Candidate]:
    """Drop every candidate whose id or text an earlier one has."""
    seen: set[tuple[str, str]] = set()
    kept = []
    for candidate in candidates:
        document = candidate.document
        keys = {("text", document.page_content)}
        if document.id:
            keys.add(("id", document.id))
        if seen.isdisjoint(keys):
            kept.append(candidate)
            seen |= keys
    return kept


def _pairs(questions: list[list[_Candidate] | Exception]) -> Pairs:
    return [
        candidate.pair
        for candidates in questions
        if not isinstance(candidates, Exception)
        for candidate in candidates
    ]


def _checked(scores: Sequence[float], pairs: Pairs) -> list[float]:
    """Refuse scores that can't be matched with their pairs."""
    if len(scores) != len(pairs):
        msg = f"the cross encoder gave {len(scores)} scores for {len(pairs)} pairs"
        raise ScoringError(msg)
    return [float(score) for score in scores]


def _finish(
    reranker: Reranker,
    questions: list[list[_Candidate] | Exception],
    scores: list[float] | Exception,
) -> list[list[Document] | Exception]:
    """Turn scores into documents, or an error into what `on_error` says."""
    if isinstance(scores, Exception) and reranker.on_error == "keep_order":
        logger.error("reranking failed, keeping first-stage order", exc_info=scores)
    elif isinstance(scores, list) and any(map(math.isnan, scores)):
        logger.warning(
            "%d of %d scores are NaN; ranked last", sum(map(math.isnan, scores)), len(scores)
        )
    finished: list[list[Document] | Exception] = []
    start = 0
    for candidates in questions:
        if isinstance(candidates, Exception):
            finished.append(candidates)
        elif not candidates:
            finished.append([])
        elif not isinstance(scores, Exception):
            finished.append(_ranked(reranker, candidates, scores[start : start + len(candidates)]))
            start += len(candidates)
        elif reranker.on_error == "keep_order":
            finished.append([_copy(candidate) for candidate in candidates[: reranker.top_n]])
        else:
            finished.append(scores)
    return finished


def _ranked(
    reranker: Reranker, candidates: list[_Candidate], scores: list[float]
) -> list[Document]:
    """Sort by score, NaN last and ties in first-stage order; apply threshold and `top_n`."""
    scored = list(zip(scores, candidates, strict=True))
    if reranker.score_threshold is not None:
        scored = [entry for entry in scored if entry[0] >= reranker.score_threshold]
    scored.sort(key=lambda entry: (1, 0.0) if math.isnan(entry[0]) else (0, -entry[0]))
    return [_copy(candidate, score) for score, candidate in scored[: reranker.top_n]]


def _copy(candidate: _Candidate, score: float | None = None) -> Document:
    """Copy a document with its rank and score; a score from elsewhere does not survive."""
    metadata = {**candidate.document.metadata, "retrieval_rank": candidate.rank}
    metadata.pop("relevance_score", None)
    if score is not None:
        metadata["relevance_score"] = score
    return candidate.document.model_copy(update={"metadata": metadata})
