"""First stage and reranker as one retriever."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, SupportsIndex

from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import Runnable, RunnableConfig, ensure_config
from langchain_core.runnables.config import patch_config, set_config_context
from langchain_core.runnables.utils import coro_with_context
from pydantic import ConfigDict, Field, model_validator

from langchain_rerank.compressor import Reranker
from langchain_rerank.first_stage import as_first_stage, with_fetch_k
from langchain_rerank.pipeline import default_k, keeping, rerankers_in
from langchain_rerank.ranking import candidates, check_question
from langchain_rerank.scoring import check_instruction
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    from langchain_core.vectorstores import VectorStore


class RerankRetriever(ContextualCompressionRetriever):
    """A first stage that fetches `fetch_k` candidates and a reranker that keeps the best `k`.

    Both numbers can be given per call, an `instruction` for the model too, and other keywords go to
    the first stage: `retriever.invoke(question, k=3, fetch_k=20, filter={"topic": "try"})`. They
    reach the store through whatever wraps it, or are a TypeError.

    Example:
        >>> from langchain_core.documents import Document
        >>> from langchain_core.vectorstores import InMemoryVectorStore
        >>> from langchain_rerank import Reranker, RerankRetriever
        >>> from langchain_rerank.offline import OfflineEmbeddings, offline_reranker
        >>> documents = [Document("Berlin has museums."), Document("Berlin has 3,520,031 people.")]
        >>> store = InMemoryVectorStore.from_documents(documents, OfflineEmbeddings())
        >>> retriever = RerankRetriever(
        ...     base_retriever=store.as_retriever(),
        ...     base_compressor=Reranker(model=offline_reranker()),
        ...     k=1,
        ... )
        >>> retriever.invoke("How many people live in Berlin?")[0].page_content
        'Berlin has 3,520,031 people.'
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    fetch_k: int = Field(default=100, gt=0)
    """How many candidates to take from the first stage."""
    k: int = Field(default_factory=default_k, gt=0)
    """How many documents to return; takes the place of the compressor's `top_n`, which it is unless
    given."""

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        check_depths(self.k, self.fetch_k)
        return self

    def invoke(
        self, input: str, config: RunnableConfig | None = None, **kwargs: Any
    ) -> list[Document]:
        """Retrieve and rerank documents.

        Args:
            input: The question.
            config: Reaches the first stage too, with what is configurable there.
            **kwargs: `k`, `fetch_k`, `instruction`, and keywords for the first stage.
        """
        config = ensure_config(config)
        return super().invoke(
            input, config, **{"run_id": config.get("run_id"), **kwargs}, within=config
        )

    async def ainvoke(
        self, input: str, config: RunnableConfig | None = None, **kwargs: Any
    ) -> list[Document]:
        """Retrieve and rerank documents without blocking the event loop; see `invoke`."""
        config = ensure_config(config)
        return await super().ainvoke(
            input, config, **{"run_id": config.get("run_id"), **kwargs}, within=config
        )

    def _get_relevant_documents(  # noqa: PLR0913  # what a call can say
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        fetch_k: int | None = None,
        instruction: str | None = None,
        within: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        query = _checked(query)
        k, fetch_k, compressor = self._settled(k, fetch_k, instruction)
        config = patch_config(within, callbacks=run_manager.get_child())
        first_stage = with_fetch_k(self.base_retriever, fetch_k, kwargs, config)
        # What LangChain's wrappers add to their config comes from the context.
        with set_config_context(config) as context:
            found = context.run(first_stage.invoke, query, config)
        found = _distinct(found, query, compressor)[:fetch_k]
        if not found:
            return []
        callbacks = run_manager.get_child()
        return list(compressor.compress_documents(found, query, callbacks=callbacks))[:k]

    async def _aget_relevant_documents(  # noqa: PLR0913  # as above
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        fetch_k: int | None = None,
        instruction: str | None = None,
        within: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        query = _checked(query)
        k, fetch_k, compressor = self._settled(k, fetch_k, instruction)
        config = patch_config(within, callbacks=run_manager.get_child())
        first_stage = with_fetch_k(self.base_retriever, fetch_k, kwargs, config)
        with set_config_context(config) as context:
            search = context.run(first_stage.ainvoke, query, config)
            found = await coro_with_context(search, context)
        found = _distinct(found, query, compressor)[:fetch_k]
        if not found:
            return []
        callbacks = run_manager.get_child()
        return list(await compressor.acompress_documents(found, query, callbacks=callbacks))[:k]

    def _settled(
        self, k: int | None, fetch_k: int | None, instruction: str | None
    ) -> tuple[int, int, BaseDocumentCompressor]:
        """Settle what one call asks: both depths, and the compressor set to them."""
        k = self.k if k is None else k
        fetch_k = self.fetch_k if fetch_k is None else fetch_k
        check_depths(k, fetch_k)
        rerankers = rerankers_in(self.base_compressor)
        if instruction is not None and not rerankers:
            kind = type(self.base_compressor).__name__
            msg = f"instruction is for a Reranker, and {kind} takes none: leave it out"
            raise ValueError(msg)
        for one in rerankers:
            check_instruction(one.model, instruction)
        return k, fetch_k, keeping(self.base_compressor, k, instruction)


def create_rerank_retriever(  # noqa: PLR0913  # all but the first have defaults
    source: VectorStore | Runnable[str, list[Document]],
    *,
    reranker: str | Path | BaseCrossEncoder | BaseDocumentCompressor | None = None,
    k: int | None = None,
    fetch_k: int = 100,
    search_kwargs: dict[str, Any] | None = None,
    hybrid: bool = False,
) -> RerankRetriever:
    """Put a reranker behind a first stage.

    Args:
        source: The first stage: any vector store, any retriever, or what LangChain makes of
            retrievers: with retries, fallbacks, query rewriting, branches …
        reranker: A model's name or path, a cross encoder, a `Reranker` or any other document
            compressor; None takes BAAI/bge-reranker-v2-m3.
        k: How many documents to return; None takes the reranker's `top_n`, which is 5 unless set,
            and if unset no more than `fetch_k`.
        fetch_k: How many candidates to rerank, at least `k`.
        search_kwargs: Keywords of every search of a vector store, such as `{"filter": {…}}`. A
            keyword given per call takes the place of the one of that name, as in LangChain.
        hybrid: Add BM25 over the store's documents, fused with the vector search by reciprocal
            rank before reranking. Needs a Chroma and `pip install "langchain-rerank[hybrid]"`.

    Returns:
        A retriever, whose `k`, `fetch_k` and first-stage keywords can also be given per call.

    Raises:
        ValueError: `k` or `fetch_k` is not positive, or `fetch_k < k`.
        TypeError: `source`, `reranker` or their options don't fit together.

    Example:
        >>> from langchain_core.documents import Document
        >>> from langchain_rerank import create_rerank_retriever, index_documents
        >>> from langchain_rerank.offline import OfflineEmbeddings, offline_reranker
        >>> documents = [Document("Berlin has museums."), Document("Berlin has 3,520,031 people.")]
        >>> store = index_documents(documents, OfflineEmbeddings(), collection_name="berlin")
        >>> retriever = create_rerank_retriever(store, reranker=offline_reranker(), k=1)
        >>> retriever.invoke("How many people live in Berlin?")[0].page_content
        'Berlin has 3,520,031 people.'
    """
    check_depths(1 if k is None else k, fetch_k)
    parts: dict[str, Any] = {
        "base_retriever": as_first_stage(source, search_kwargs, hybrid=hybrid),
        "base_compressor": _as_compressor(reranker),
        "fetch_k": fetch_k,
    }
    return RerankRetriever(**parts) if k is None else RerankRetriever(**parts, k=k)


def _as_compressor(
    reranker: str | Path | BaseCrossEncoder | BaseDocumentCompressor | None,
) -> BaseDocumentCompressor:
    if reranker is None:
        return Reranker()
    if isinstance(reranker, str | Path | BaseCrossEncoder):
        return Reranker(model=reranker)
    if isinstance(reranker, BaseDocumentCompressor):
        return reranker
    msg = (
        "reranker must be a model name or path, a BaseCrossEncoder or a BaseDocumentCompressor, "
        f"got {type(reranker).__name__}"
    )
    raise TypeError(msg)


def _distinct(
    found: list[Document], query: str, compressor: BaseDocumentCompressor
) -> list[Document]:
    """Drop repeated documents before the cut to `fetch_k`, by the first `Reranker`'s rule."""
    fields: tuple[str, ...] = ()
    deduplicate = True
    for reranker in rerankers_in(compressor)[:1]:
        fields, deduplicate = reranker.rank_fields, reranker.deduplicate
    chosen = candidates(found, query, rank_fields=fields, deduplicate=deduplicate)
    return [one.document for one in chosen]


def _checked(query: str) -> str:
    check_question(query)
    return well_formed(query)


def check_depths(k: int, fetch_k: int) -> None:
    """Raise `ValueError` unless 0 < k <= fetch_k, `TypeError` for what is no int."""
    for name, value in (("k", k), ("fetch_k", fetch_k)):
        if isinstance(value, bool) or not isinstance(value, SupportsIndex):
            msg = f"{name} must be an int, got {value!r}"
            raise TypeError(msg)
        if value <= 0:
            msg = f"{name} must be > 0, got {value}"
            raise ValueError(msg)
    if fetch_k < k:
        msg = f"fetch_k must be at least k, got fetch_k={fetch_k} with k={k}"
        raise ValueError(msg)
