"""First stage and reranker as one retriever."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, SupportsIndex, cast

from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForRetrieverRun,
    CallbackManager,
    CallbackManagerForRetrieverRun,
)
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import ensure_config, get_config_list, patch_config
from pydantic import ConfigDict, Field, model_validator

from langchain_rerank.compressor import Reranker
from langchain_rerank.first_stage import as_first_stage, with_fetch_k
from langchain_rerank.merged_batch import Steps, adrive, batch_steps, drive, results_or_error
from langchain_rerank.ranking import check_question
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.vectorstores import VectorStore


class RerankRetriever(ContextualCompressionRetriever):
    """A first stage that fetches `fetch_k` candidates and a reranker that keeps the best `k`.

    Both numbers can be given per call, and other keywords go to the first stage:
    `retriever.invoke(question, k=3, fetch_k=20, filter={"topic": "try"})`. `batch` and `abatch`
    retrieve concurrently and score the pairs of all questions in one pass.

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

    k: int = Field(default=5, gt=0)
    """How many documents to return; takes the place of the compressor's `top_n`."""
    fetch_k: int = Field(default=100, gt=0)
    """How many candidates to take from the first stage."""

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        check_depths(self.k, self.fetch_k)
        return self

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        fetch_k: int | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        check_question(query)
        query = well_formed(query)
        call = self._call(k, fetch_k, kwargs)
        found = call.first_stage.invoke(query, {"callbacks": run_manager.get_child()})
        if not found:
            return []
        kept = call.compressor.compress_documents(
            found[: call.fetch_k], query, callbacks=run_manager.get_child()
        )
        return list(kept)[: call.k]

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        fetch_k: int | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        check_question(query)
        query = well_formed(query)
        call = self._call(k, fetch_k, kwargs)
        found = await call.first_stage.ainvoke(query, {"callbacks": run_manager.get_child()})
        if not found:
            return []
        kept = await call.compressor.acompress_documents(
            found[: call.fetch_k], query, callbacks=run_manager.get_child()
        )
        return list(kept)[: call.k]

    def batch(
        self,
        inputs: list[str],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[list[Document]]:
        """Answer many queries: concurrent first stages, then one pass over all their pairs.

        Args:
            inputs: The queries.
            config: One for all, or one each; `max_concurrency` bounds the first stages.
            return_exceptions: Give a query's error in its place instead of raising the first.
            **kwargs: `k`, `fetch_k` and the first stage's keywords, as for `invoke`.
        """
        if not inputs or not isinstance(self.base_compressor, Reranker):
            return super().batch(inputs, config, return_exceptions=return_exceptions, **kwargs)
        call = self._call(kwargs.pop("k", None), kwargs.pop("fetch_k", None), kwargs)
        configs = get_config_list(config, len(inputs))
        runs = [
            CallbackManager.configure(**self._callbacks(one)).on_retriever_start(
                None, query, name=one.get("run_name") or self.get_name(), run_id=one.get("run_id")
            )
            for query, one in zip(inputs, configs, strict=True)
        ]
        try:
            outcomes = drive(self._steps(call, inputs, configs, runs))
        except BaseException as error:
            for run in runs:
                run.on_retriever_error(error)
            raise
        for run, outcome in zip(runs, outcomes, strict=True):
            if isinstance(outcome, Exception):
                run.on_retriever_error(outcome)
            else:
                run.on_retriever_end(outcome)
        return results_or_error(outcomes, return_exceptions=return_exceptions)

    async def abatch(
        self,
        inputs: list[str],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[list[Document]]:
        """Answer many queries without blocking the event loop; see `batch`."""
        if not inputs or not isinstance(self.base_compressor, Reranker):
            return await super().abatch(
                inputs, config, return_exceptions=return_exceptions, **kwargs
            )
        call = self._call(kwargs.pop("k", None), kwargs.pop("fetch_k", None), kwargs)
        configs = get_config_list(config, len(inputs))
        runs = [
            await AsyncCallbackManager.configure(**self._callbacks(one)).on_retriever_start(
                None, query, name=one.get("run_name") or self.get_name(), run_id=one.get("run_id")
            )
            for query, one in zip(inputs, configs, strict=True)
        ]
        try:
            outcomes = await adrive(self._steps(call, inputs, configs, runs))
        except BaseException as error:
            for run in runs:
                await run.on_retriever_error(error)
            raise
        for run, outcome in zip(runs, outcomes, strict=True):
            if isinstance(outcome, Exception):
                await run.on_retriever_error(outcome)
            else:
                await run.on_retriever_end(outcome)
        return results_or_error(outcomes, return_exceptions=return_exceptions)

    def _call(self, k: int | None, fetch_k: int | None, kwargs: dict[str, Any]) -> _Call:
        """Settle what one call asks of the two stages."""
        k = self.k if k is None else k
        fetch_k = self.fetch_k if fetch_k is None else fetch_k
        check_depths(k, fetch_k)
        compressor = self.base_compressor
        if "top_n" in type(compressor).model_fields:
            compressor = compressor.model_copy(update={"top_n": k})
        return _Call(k, fetch_k, with_fetch_k(self.base_retriever, fetch_k, kwargs), compressor)

    def _steps(
        self, call: _Call, queries: list[str], configs: list[RunnableConfig], runs: list[Any]
    ) -> Steps:
        children = [
            patch_config(config, callbacks=run.get_child())
            for config, run in zip(configs, runs, strict=True)
        ]
        reranker = cast("Reranker", call.compressor).as_runnable()
        return batch_steps(call.first_stage, reranker, call.fetch_k, queries, children)

    def _callbacks(self, config: RunnableConfig) -> dict[str, Any]:
        """Arguments by which a batch opens the same runs as `BaseRetriever.invoke`."""
        config = ensure_config(config)
        return {
            "inheritable_callbacks": config.get("callbacks"),
            "inheritable_tags": config.get("tags"),
            "local_tags": self.tags,
            "inheritable_metadata": {**config.get("metadata", {}), **self._get_ls_params()},
            "local_metadata": self.metadata,
        }


def create_rerank_retriever(  # noqa: PLR0913  # all but the first have defaults
    source: VectorStore | BaseRetriever,
    *,
    reranker: str | BaseCrossEncoder | BaseDocumentCompressor | None = None,
    k: int | None = None,
    fetch_k: int = 100,
    search_kwargs: dict[str, Any] | None = None,
    hybrid: bool = False,
) -> RerankRetriever:
    """Put a reranker behind a first stage.

    Args:
        source: The first stage: any vector store, or any retriever.
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
    compressor = _as_compressor(reranker)
    if k is None:
        k = getattr(compressor, "top_n", 5) or fetch_k
        if "top_n" not in compressor.model_fields_set:
            k = min(k, max(fetch_k, 1))
    check_depths(k, fetch_k)
    first_stage = as_first_stage(source, search_kwargs, hybrid=hybrid)
    return RerankRetriever(
        base_retriever=first_stage, base_compressor=compressor, k=k, fetch_k=fetch_k
    )


@dataclass(frozen=True, slots=True)
class _Call:
    """What one call asks: both depths, the first stage and the compressor, each set to them."""

    k: int
    fetch_k: int
    first_stage: Runnable[str, list[Document]]
    compressor: BaseDocumentCompressor


def _as_compressor(
    reranker: str | BaseCrossEncoder | BaseDocumentCompressor | None,
) -> BaseDocumentCompressor:
    if reranker is None:
        return Reranker()
    if isinstance(reranker, str | BaseCrossEncoder):
        return Reranker(model=reranker)
    if isinstance(reranker, BaseDocumentCompressor):
        return reranker
    msg = (
        "reranker must be a model name, a BaseCrossEncoder or a BaseDocumentCompressor, got "
        f"{type(reranker).__name__}"
    )
    raise TypeError(msg)


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
