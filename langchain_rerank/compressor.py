"""The reranker: a document compressor that runs the ranking policy over any cross encoder."""

import logging
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from langchain_core.callbacks import Callbacks
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from langchain_rerank.cross_encoders import from_name
from langchain_rerank.cross_encoders.base import DEFAULT_MODEL
from langchain_rerank.errors import RerankError
from langchain_rerank.ranking import Candidate, candidates, ranked, with_scores
from langchain_rerank.scoring import ascore_pairs, check_instruction, score_pairs

logger = logging.getLogger(__name__)


def _built(model: object) -> object:
    return from_name(os.fspath(model)) if isinstance(model, str | Path) else model


class Reranker(BaseDocumentCompressor):
    """Keep the documents that a cross encoder scores highest, best first.

    Returns copies whose metadata gain `relevance_score` (float; higher is better, 0–1 unless the
    cross encoder gives logits) and `retrieval_rank` (int; the document's place in the input, from
    1). With a `first_stage_weight` they are in the order of a third number, `fused_score` (float;
    comparable within one query only). Ids, texts, other metadata and the caller's own documents
    stay as they were. Documents of equal score keep their order; a NaN score goes last. A score
    that is NaN or infinite, which JSON can't hold, is left out of the metadata.

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
    )

    model: Annotated[BaseCrossEncoder, BeforeValidator(_built)] = Field(
        default_factory=lambda: from_name(DEFAULT_MODEL)
    )
    """Any `BaseCrossEncoder`, or a model's name or path (str or Path), from which one is built."""
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
    instruction: str | None = None
    """What to look for, for models that take an instruction; None leaves the model's own. For a
    model that takes none it is a ValueError."""

    @model_validator(mode="after")
    def _check_instruction(self) -> Self:
        check_instruction(self.model, self.instruction)
        return self

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Rerank documents, given in first-stage order, in a run of its own under `callbacks`.

        Raises:
            ValueError: The query is blank, or the model takes no `instruction`.
            TypeError: The query or a document's text is not a str.
            ScoringError: The cross encoder failed, or gave a wrong number of scores.
            ModelLoadError: The model could not be loaded.
        """
        given = {"query": query, "documents": documents}
        return self.as_runnable().invoke(given, self._config(documents, callbacks))

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Rerank documents without blocking the event loop; see `compress_documents`."""
        given = {"query": query, "documents": documents}
        return await self.as_runnable().ainvoke(given, self._config(documents, callbacks))

    def as_runnable(self) -> Runnable[dict[str, Any], list[Document]]:
        """Reranking as a step of an LCEL chain.

        Takes `{"query": str, "documents": list[Document]}`, and an `"instruction"` for this call if
        wanted; gives documents.
        """
        return RunnableLambda(self._rerank, self._arerank, name="Reranker")

    def _config(self, documents: Sequence[Document], callbacks: Callbacks | None) -> RunnableConfig:
        """Name model, scale of the scores and number of documents in the run's metadata."""
        names = (getattr(self.model, field, None) for field in ("model", "model_name"))
        name = next((name for name in names if isinstance(name, str)), type(self.model).__name__)
        metadata = {"model": name, "documents_in": len(documents)}
        if scale := getattr(self.model, "score_scale", None):
            metadata["score_scale"] = scale
        return {"callbacks": callbacks, "metadata": metadata}

    def candidates(self, documents: Iterable[Document], query: str) -> list[Candidate]:
        """Choose what to score: `ranking.candidates` by this reranker's fields."""
        fields = self.rank_fields
        return candidates(documents, query, rank_fields=fields, deduplicate=self.deduplicate)

    def _rerank(self, given: dict[str, Any]) -> list[Document]:
        found, instruction = self._chosen(given)
        try:
            scores = score_pairs(self.model, [one.pair for one in found], instruction)
        except RerankError as error:
            return self._unscored(found, error)
        return self._ranked(found, scores)

    async def _arerank(self, given: dict[str, Any]) -> list[Document]:
        found, instruction = self._chosen(given)
        try:
            scores = await ascore_pairs(self.model, [one.pair for one in found], instruction)
        except RerankError as error:
            return self._unscored(found, error)
        return self._ranked(found, scores)

    def _chosen(self, given: dict[str, Any]) -> tuple[list[Candidate], str | None]:
        if not isinstance(given, dict) or {"query", "documents"} - given.keys():
            came = sorted(given) if isinstance(given, dict) else type(given).__name__
            msg = f"expected a dict with 'query' and 'documents', got {came}"
            raise TypeError(msg)
        instruction = given.get("instruction")
        found = self.candidates(given["documents"], given["query"])
        return found, self.instruction if instruction is None else instruction

    def _ranked(self, found: list[Candidate], scores: list[float]) -> list[Document]:
        if odd := sum(not math.isfinite(score) for score in scores):
            message = "%d of %d scores are NaN, the worst of all, or infinite: not in the metadata"
            logger.warning(message, odd, len(scores))
        return ranked(
            found,
            scores,
            top_n=self.top_n,
            score_threshold=self.score_threshold,
            first_stage_weight=self.first_stage_weight,
        )

    def _unscored(self, found: list[Candidate], error: RerankError) -> list[Document]:
        if self.on_error == "raise":
            raise error
        logger.error("reranking failed, keeping first-stage order", exc_info=error)
        return [with_scores(one, None) for one in found[: self.top_n]]
