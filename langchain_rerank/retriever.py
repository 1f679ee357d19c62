"""First stage and reranker as one retriever."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, SupportsIndex

from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import DocumentCompressorPipeline
from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import Runnable, RunnableConfig, ensure_config
from langchain_core.runnables.config import patch_config, set_config_context
from langchain_core.runnables.utils import coro_with_context
from pydantic import ConfigDict, model_validator

from langchain_rerank.compressor import Reranker
from langchain_rerank.first_stage import as_first_stage, with_fetch_k, with_fields
from langchain_rerank.ranking import candidates, check_question

if TYPE_CHECKING:
    from langchain_core.vectorstores import VectorStore


class RerankRetriever(ContextualCompressionRetriever):
    """A first stage that fetches `fetch_k` candidates and a reranker that keeps the best `k`.

    Both numbers can be given per call, an `instruction` for the model too, and other keywords go to
    the first stage: `retriever.invoke(question, k=3, fetch_k=20, filter={"topic": "try"})`. They
    reach the store through whatever wraps it, or are a TypeError; so is a filter that the store
    drops.

    Example:
        >>> from langchain_core.documents import Document
        >>> from langchain_core.vectorstores import InMemoryVectorStore
        >>> from langchain_rerank import Reranker, RerankRetriever
        >>> from langchain_rerank.offline import OfflineEmbeddings, offline_reranker
        >>> documents = [Document("Berlin has museums."), Document("Berlin has 3,520,031 people.")]
        >>> store = InMemoryVectorStore.from_documents(documents, OfflineEmbeddings())
        >>> reranker = Reranker(model=offline_reranker())
        >>> first_stage = store.as_retriever()
        >>> retriever = RerankRetriever(base_retriever=first_stage, base_compressor=reranker, k=1)
        >>> retriever.invoke("How many people live in Berlin?")[0].page_content
        'Berlin has 3,520,031 people.'
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    fetch_k: int = 100
    """How many candidates to take from the first stage, at least `k`."""
    k: int | None = None
    """How many documents to return; None returns what the compressor keeps."""

    @model_validator(mode="after")
    def _check_depths(self) -> Self:
        check_depths(self.k, self.fetch_k)
        return self

    def invoke(
        self, input: str, config: RunnableConfig | None = None, **kwargs: Any
    ) -> list[Document]:
        """Retrieve and rerank; `config` and the keywords of the call reach the first stage too."""
        config = ensure_config(config)
        kwargs = {"run_id": config.get("run_id"), **kwargs, "config_of_call": config}
        return super().invoke(input, config, **kwargs)

    async def ainvoke(
        self, input: str, config: RunnableConfig | None = None, **kwargs: Any
    ) -> list[Document]:
        """Retrieve and rerank without blocking the event loop; see `invoke`."""
        config = ensure_config(config)
        kwargs = {"run_id": config.get("run_id"), **kwargs, "config_of_call": config}
        return await super().ainvoke(input, config, **kwargs)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **call: Any
    ) -> list[Document]:
        query = check_question(query)
        first_stage, compressor, k, fetch_k, config = self._settled(run_manager, **call)
        # What LangChain's wrappers add to their config comes from the context.
        with set_config_context(config) as context:
            found = context.run(first_stage.invoke, query, config)
        found = _distinct(found, query, compressor)[:fetch_k]
        callbacks = config["callbacks"]
        return [*compressor.compress_documents(found, query, callbacks)][:k] if found else []

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **call: Any
    ) -> list[Document]:
        query = check_question(query)
        first_stage, compressor, k, fetch_k, config = self._settled(run_manager, **call)
        with set_config_context(config) as context:
            search = context.run(first_stage.ainvoke, query, config)
            found = await coro_with_context(search, context)
        found = _distinct(found, query, compressor)[:fetch_k]
        callbacks = config["callbacks"]
        return [*await compressor.acompress_documents(found, query, callbacks)][:k] if found else []

    def _settled(
        self,
        run_manager: Any,
        *,
        config_of_call: RunnableConfig | None = None,
        k: int | None = None,
        fetch_k: int | None = None,
        instruction: str | None = None,
        **keywords: Any,
    ) -> tuple[Any, BaseDocumentCompressor, int | None, int, RunnableConfig]:
        """Settle what one call asks: the stages set to it, both depths, and the stages' config."""
        k = self.k if k is None else k
        fetch_k = self.fetch_k if fetch_k is None else fetch_k
        check_depths(k, fetch_k)
        compressor = _keeping(self.base_compressor, k, instruction)
        config = patch_config(config_of_call, callbacks=run_manager.get_child())
        first_stage = with_fetch_k(self.base_retriever, fetch_k, keywords, config)
        return first_stage, compressor, k, fetch_k, config


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
        k: How many documents to return; None returns what the reranker keeps, which for a
            `Reranker` is its `top_n`: 5 unless set.
        fetch_k: How many candidates to rerank, at least `k`. It takes the place of a depth that the
            first stage has of its own, such as `as_retriever(search_kwargs={"k": 20})`.
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
    if reranker is None:
        reranker = Reranker()
    elif isinstance(reranker, str | Path | BaseCrossEncoder):
        reranker = Reranker(model=reranker)
    elif not isinstance(reranker, BaseDocumentCompressor):
        msg = (
            "reranker must be a model name or path, a BaseCrossEncoder or a "
            f"BaseDocumentCompressor, got {type(reranker).__name__}"
        )
        raise TypeError(msg)
    first_stage = as_first_stage(source, search_kwargs, hybrid=hybrid)
    return RerankRetriever(
        base_retriever=first_stage, base_compressor=reranker, k=k, fetch_k=fetch_k
    )


def check_depths(k: int | None, fetch_k: int) -> None:
    """Raise `ValueError` unless 0 < k <= fetch_k, `TypeError` for what is no int."""
    for name, value in (("fetch_k", fetch_k), ("k", fetch_k if k is None else k)):
        if isinstance(value, bool) or not isinstance(value, SupportsIndex):
            msg = f"{name} must be an int, got {value!r}"
            raise TypeError(msg)
        if value <= 0:
            msg = f"{name} must be > 0, got {value}"
            raise ValueError(msg)
    if k is not None and fetch_k < k:
        msg = f"fetch_k must be at least k, got fetch_k={fetch_k} with k={k}"
        raise ValueError(msg)


def rerankers_in(compressor: object) -> list[Reranker]:
    """Find the `Reranker`s of a compressor: itself, or those of a pipeline."""
    return [step for step in _steps(compressor) if isinstance(step, Reranker)]


def _steps(compressor: object) -> list[Any]:
    """List the steps of a pipeline, and of pipelines in it; another compressor is its only one."""
    if isinstance(compressor, DocumentCompressorPipeline):
        return [step for one in compressor.transformers for step in _steps(one)]
    return [compressor]


def _keeping(compressor: Any, k: int | None, instruction: str | None) -> Any:
    """Copy a compressor so that it keeps `k` documents: of a pipeline the last step with a limit.

    Earlier steps keep what they kept, if that is enough for the last one.
    """
    if instruction is not None and not rerankers_in(compressor):
        kind = type(compressor).__name__
        msg = f"instruction is for a Reranker, and {kind} takes none: leave it out"
        raise ValueError(msg)
    steps, last = _steps(compressor), True
    for place, step in reversed(list(enumerate(steps))):
        # The fields by which LangChain's compressors say how many documents they keep at most.
        limits = {name: getattr(step, name, None) for name in ("top_n", "top_k", "k") if k}
        update = {name: k if last else max(own, k) for name, own in limits.items() if own}
        last = last and not update
        if instruction is not None and isinstance(step, Reranker):
            update["instruction"] = instruction
        steps[place] = with_fields(step, update)
    is_pipeline = isinstance(compressor, DocumentCompressorPipeline)
    return compressor.model_copy(update={"transformers": steps}) if is_pipeline else steps[0]


def _distinct(
    found: list[Document], query: str, compressor: BaseDocumentCompressor
) -> list[Document]:
    """Drop repeated documents before the cut to `fetch_k`, by the first `Reranker`'s rule."""
    choose = next((one.candidates for one in rerankers_in(compressor)), candidates)
    return [one.document for one in choose(found, query)]
