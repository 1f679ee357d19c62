"""The reranker: a document compressor that runs the ranking policy over any cross encoder."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence, Sized
from typing import TYPE_CHECKING, Any, Literal, cast

from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import get_config_list, merge_configs
from pydantic import ConfigDict, Field, field_validator
from typing_extensions import TypedDict

from langchain_rerank.cross_encoders.base import DEFAULT_MODEL
from langchain_rerank.cross_encoders.torch import TorchCrossEncoder
from langchain_rerank.ranking import Candidate, candidates, ranked, with_scores
from langchain_rerank.scoring import ascore_pairs, score_pairs

if TYPE_CHECKING:
    from langchain_core.callbacks import Callbacks

logger = logging.getLogger(__name__)


class RerankInput(TypedDict):
    """What `Reranker.as_runnable()` takes."""

    query: str
    documents: Sequence[Document]


class Reranker(BaseDocumentCompressor):
    """Keep the documents that a cross encoder scores highest, best first.

    Returns copies whose metadata gain `relevance_score` (float; higher is better, 0–1 unless the
    cross encoder gives logits) and `retrieval_rank` (int; the document's place in the input, from
    1). With a `first_stage_weight` they are in the order of a third number, `fused_score` (float;
    comparable within one query only). Ids, texts, other metadata and the caller's own documents
    stay as they were. Documents of equal score keep their order; a NaN score goes last.

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
        arbitrary_types_allowed=True,
        extra="forbid",
        protected_namespaces=(),
        validate_assignment=True,
        validate_default=True,
    )

    model: str | BaseCrossEncoder = DEFAULT_MODEL
    """A model's name or path, from which a `TorchCrossEncoder` is built, or any
    `BaseCrossEncoder`."""
    top_n: int | None = Field(default=5, gt=0)
    """How many documents to keep; None keeps all."""
    score_threshold: float | None = None
    """Drop documents whose `relevance_score` is below; applied before `top_n`. A fitting value
    depends on the model and on the data."""
    rank_fields: tuple[str, ...] = ()
    """Metadata fields put before the text that is scored, a line each, such as `("title",)`."""
    first_stage_weight: float = Field(default=0, ge=0, le=1, allow_inf_nan=False)
    """How much the order in which the documents come counts: 0 for not at all, 1 for it alone.
    Where the first stage is about as good as the cross encoder, a mix can beat both; where it is
    much worse, a mix costs quality. A fitting value depends on both and on the data."""
    deduplicate: bool = True
    """Keep one document per id and one per identical scored text: the one that came first."""
    on_error: Literal["raise", "keep_order"] = "raise"
    """When scoring fails, loading the model included: "raise", or "keep_order" to log the error
    and return the documents in the order they came, cut to `top_n`, without scores."""

    @field_validator("model")
    @classmethod
    def _build_cross_encoder(cls, model: str | BaseCrossEncoder) -> BaseCrossEncoder:
        return TorchCrossEncoder(model=model) if isinstance(model, str) else model

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
            ScoringError: The cross encoder failed, or gave a wrong number of scores.
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
        outcomes = self._batch_with_config(
            self._rerank, inputs, configs, return_exceptions=return_exceptions
        )
        return _unless_stopped(outcomes)

    async def abatch(
        self,
        inputs: list[RerankInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **_: Any,
    ) -> list[list[Document]]:
        configs = self._traced(inputs, config)
        outcomes = await self._abatch_with_config(
            self._arerank, inputs, configs, return_exceptions=return_exceptions
        )
        return _unless_stopped(outcomes)

    def _traced(
        self, inputs: list[RerankInput], config: RunnableConfig | list[RunnableConfig] | None
    ) -> list[RunnableConfig]:
        """Name the model and count the documents in each run's metadata."""
        model = self._reranker.cross_encoder
        names = (getattr(model, field, None) for field in ("model", "model_name"))
        name = next((name for name in names if isinstance(name, str)), type(model).__name__)
        return [
            merge_configs(
                one,
                {"metadata": {"model": name, "documents_in": _count(given)}},
            )
            for one, given in zip(get_config_list(config, len(inputs)), inputs, strict=True)
        ]

    def _rerank(self, inputs: list[RerankInput]) -> list[list[Document] | Exception]:
        questions = [self._candidates(given) for given in inputs]
        try:
            scores = score_pairs(self._reranker.cross_encoder, _pairs(questions))
        except Exception as error:  # noqa: BLE001  # it becomes each query's own outcome
            return self._failed(questions, error)
        return self._finish(questions, scores)

    async def _arerank(self, inputs: list[RerankInput]) -> list[list[Document] | Exception]:
        questions = [self._candidates(given) for given in inputs]
        try:
            scores = await ascore_pairs(self._reranker.cross_encoder, _pairs(questions))
        except Exception as error:  # noqa: BLE001  # it becomes each query's own outcome
            return self._failed(questions, error)
        return self._finish(questions, scores)

    def _candidates(self, given: RerankInput) -> list[Candidate] | Exception:
        """Choose what to score for one query; an input that is wrong gives its error."""
        if not isinstance(given, dict):
            msg = f"expected a dict with 'query' and 'documents', got {type(given).__name__}"
            return TypeError(msg)
        try:
            return candidates(
                given["documents"],
                given["query"],
                rank_fields=self._reranker.rank_fields,
                deduplicate=self._reranker.deduplicate,
            )
        except KeyError as error:
            msg = f"expected a dict with 'query' and 'documents', lacks {error}"
            return ValueError(msg)
        except (TypeError, ValueError) as error:
            return error

    def _finish(
        self, questions: list[list[Candidate] | Exception], scores: list[float]
    ) -> list[list[Document] | Exception]:
        """Give each query its documents, or the error in its input."""
        if nans := sum(map(math.isnan, scores)):
            logger.warning("%d of %d scores are NaN, the worst of all", nans, len(scores))
        reranker = self._reranker
        finished: list[list[Document] | Exception] = []
        start = 0
        for found in questions:
            if isinstance(found, Exception):
                finished.append(found)
                continue
            own = scores[start : start + len(found)]
            start += len(found)
            finished.append(
                ranked(
                    found,
                    own,
                    top_n=reranker.top_n,
                    score_threshold=reranker.score_threshold,
                    first_stage_weight=reranker.first_stage_weight,
                )
            )
        return finished

    def _failed(
        self, questions: list[list[Candidate] | Exception], error: Exception
    ) -> list[list[Document] | Exception]:
        """Give each query what `on_error` says after scoring failed, or the error in its input."""
        reranker = self._reranker
        keep_order = reranker.on_error == "keep_order"
        if keep_order:
            logger.error("reranking failed, keeping first-stage order", exc_info=error)
        return [
            found
            if isinstance(found, Exception)
            else [with_scores(one, None) for one in found[: reranker.top_n]]
            if keep_order or not found
            else error
            for found in questions
        ]


def _pairs(questions: list[list[Candidate] | Exception]) -> list[tuple[str, str]]:
    """Line up the pairs of all queries that have candidates."""
    return [
        candidate.pair
        for found in questions
        if not isinstance(found, Exception)
        for candidate in found
    ]


def _unless_stopped(outcomes: list[list[Document]]) -> list[list[Document]]:
    """Raise a cancellation or Ctrl-C, which LangChain's batches return like a query's error."""
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
            raise outcome
    return outcomes


def _count(given: RerankInput) -> int | None:
    """How many documents came, where that can be told without using them up."""
    documents = given.get("documents") if isinstance(given, dict) else None
    return len(documents) if isinstance(documents, Sized) else None
