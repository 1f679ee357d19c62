"""A retriever with the keywords of one call."""

from __future__ import annotations

from typing import Any

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableConfig


class BoundRetriever(Runnable[str, list[Document]]):
    """Hands keywords to a retriever at every call, as `bind` does, but leaves callbacks alone.

    LangChain's `bind` adds the callbacks of the chain around it to those it is called with: in a
    chain, the first stage would be traced beside the retriever that it is a step of.
    """

    def __init__(self, retriever: Runnable[str, list[Document]], kwargs: dict[str, Any]) -> None:
        """Take what to call and the keywords to call it with."""
        self._retriever = retriever
        self._kwargs = kwargs

    def invoke(
        self, input: str, config: RunnableConfig | None = None, **kwargs: Any
    ) -> list[Document]:
        """Retrieve documents for a query."""
        return self._retriever.invoke(input, config, **{**self._kwargs, **kwargs})

    async def ainvoke(
        self, input: str, config: RunnableConfig | None = None, **kwargs: Any
    ) -> list[Document]:
        """Retrieve documents without blocking the event loop."""
        keywords = {**self._kwargs, **kwargs}
        if keywords and _inherits_async(self._retriever):
            return await super().ainvoke(input, config, **kwargs)
        return await self._retriever.ainvoke(input, config, **keywords)


def _inherits_async(retriever: Runnable[str, list[Document]]) -> bool:
    """Whether the async search is LangChain's, which takes no keywords; a thread then searches."""
    base = BaseRetriever._aget_relevant_documents  # noqa: SLF001  # the public ainvoke hides it
    own = getattr(type(retriever), "_aget_relevant_documents", None)
    return own is base
