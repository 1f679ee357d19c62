"""An agent's search results, reranked and cut to the best few before its model reads them."""

from __future__ import annotations

import json
import logging
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.messages import ToolMessage
from langchain_text_splitters import RecursiveCharacterTextSplitter

from langchain_rerank.chain import format_documents
from langchain_rerank.compressor import Reranker
from langchain_rerank.errors import require

if TYPE_CHECKING or find_spec("langchain"):
    from langchain.agents.middleware import AgentMiddleware
else:
    # So that all of the package can be imported and listed.
    AgentMiddleware = object

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from langchain.agents.middleware.types import ToolCallRequest
    from langgraph.types import Command

logger = logging.getLogger(__name__)

# What search APIs call the text and the address of a result.
_TEXTS = ("page_content", "content", "snippet", "text", "body", "description")
_ADDRESSES = ("source", "url", "link", "href")


class RerankMiddleware(AgentMiddleware):
    """Rerank what an agent's search tools return, and show its model only the best.

    Acts on each tool message whose artifact is a list of Documents, as tools made with
    `response_format="content_and_artifact"` and `create_retriever_tool` leave it, or from which
    `documents` reads some. Content and artifact become the kept documents, with the metadata that
    `Reranker` adds. Error messages, commands, and what holds no documents or was called without a
    query pass untouched.

    Example:
        >>> from langchain.agents import create_agent
        >>> from langchain_core.language_models import FakeListChatModel
        >>> from langchain_rerank import RerankMiddleware
        >>> from langchain_rerank.offline import offline_reranker
        >>> model = FakeListChatModel(responses=["…"])  # or "openai:gpt-4.1"
        >>> agent = create_agent(model, middleware=[RerankMiddleware(offline_reranker())])
    """

    def __init__(  # noqa: PLR0913  # what an agent's tools differ in
        self,
        reranker: str | Path | BaseCrossEncoder | BaseDocumentCompressor,
        *,
        tools: Sequence[str] | None = None,
        query: str | Callable[[ToolCallRequest], str | None] = "query",
        documents: Callable[[ToolMessage], Iterable[Any]] | None = None,
        render: Callable[[Sequence[Document]], str] | None = None,
        max_chars: int | None = None,
        on_error: Literal["keep", "raise"] = "keep",
    ) -> None:
        """Store and check the settings.

        Args:
            reranker: A model's name or path, a cross encoder, of which the best 5 documents are
                kept, or a `Reranker` or another document compressor.
            tools: Names of the tools to act on; None acts on all.
            query: The tool's argument to rank by, or failing that the only str argument that it
                requires; or a function of the request.
            documents: Reads them from a tool message: Documents, texts, or objects as search APIs
                give them, such as `json_documents`. None takes the artifact's Documents.
            render: Makes the content for the model; None takes numbered tags that a text can't
                close, as in `create_rag_chain`.
            max_chars: Cut longer documents into passages of at most so many characters, at
                paragraphs, lines and words, and rank and keep these.
            on_error: When reading, reranking or rendering fails: "keep" the tool's own message and
                log the error, or "raise".

        Raises:
            MissingDependencyError: The extra `agents` is not installed.
            ValueError: An argument is of another kind or out of range; the message names it.
        """
        require("langchain", install="langchain-rerank[agents]", purpose="RerankMiddleware")
        super().__init__()
        for wrong, msg in (
            (isinstance(tools, str), f"tools must be a sequence of names, got {tools!r}"),
            (documents and not callable(documents), f"documents is no function: {documents!r}"),
            (render and not callable(render), f"render is no function: {render!r}"),
            (on_error not in ("keep", "raise"), f"on_error must be keep or raise: {on_error!r}"),
            (max_chars is not None and max_chars <= 0, f"max_chars must be > 0, got {max_chars}"),
        ):
            if wrong:
                raise ValueError(msg)
        self._compressor: BaseDocumentCompressor = (
            reranker if isinstance(reranker, BaseDocumentCompressor) else Reranker(model=reranker)
        )
        self._names = None if tools is None else frozenset(tools)
        self._query = query
        self._documents = documents or _artifact
        self._render = render or format_documents
        self._max_chars = max_chars
        self._on_error = on_error

    @property
    def name(self) -> str:
        """Tells apart two of them in one agent, each for tools of its own."""
        return "RerankMiddleware" + ("" if self._names is None else str(sorted(self._names)))

    def wrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]],
    ) -> ToolMessage | Command[Any]:
        """Call the tool and rerank what it found."""
        result = handler(request)
        with self._errors_logged(request):
            if isinstance(result, ToolMessage) and (found := self._found(request, result)):
                return self._told(result, self._compressor.compress_documents(*found))
        return result

    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]],
    ) -> ToolMessage | Command[Any]:
        """Call the tool and rerank what it found without blocking the event loop."""
        result = await handler(request)
        with self._errors_logged(request):
            if isinstance(result, ToolMessage) and (found := self._found(request, result)):
                return self._told(result, await self._compressor.acompress_documents(*found))
        return result

    def _found(
        self, request: ToolCallRequest, result: ToolMessage
    ) -> tuple[list[Document], str] | None:
        """What to rank and by which query, where there is such."""
        call = request.tool_call
        if result.status == "error" or (
            self._names is not None and call["name"] not in self._names
        ):
            return None
        whole = [_document(one) for one in self._documents(result)]
        documents = [part for one in whole for part in _cut(one, self._max_chars)]
        query = self._query(request) if callable(self._query) else _argument(request, self._query)
        if documents and query and query.strip():
            return documents, query
        if documents and self._names is not None:
            logger.warning("tool %r was called without a query: set query=…", call["name"])
        return None

    def _told(self, message: ToolMessage, kept: Sequence[Document]) -> ToolMessage:
        """The message with what was kept in the place of the texts that were found."""
        blocks = message.content if isinstance(message.content, list) else []
        others = [one for one in blocks if isinstance(one, dict) and one.get("type") != "text"]
        text = self._render(kept) if kept else "None of the documents found is relevant."
        content = [{"type": "text", "text": text}, *others] if others else text
        return message.model_copy(update={"content": content, "artifact": list(kept)})

    @contextmanager
    def _errors_logged(self, request: ToolCallRequest) -> Iterator[None]:
        try:
            yield
        except Exception:
            if self._on_error == "raise":
                raise
            name = request.tool_call["name"]
            logger.warning(
                "Reranking what tool %r found failed; it stays as it is", name, exc_info=True
            )


def json_documents(message: ToolMessage) -> list[Any]:
    """Read what search APIs and MCP servers return: a JSON list of texts or objects.

    It may stand alone, as a content block an entry or, of objects, inside of objects (the list of
    those with content or most text is taken). An object's title and content, snippet, text, body or
    description are the document, its url, link or href the `source`, its `metadata` and other
    fields metadata. What is no such JSON holds no documents, and so do lists inside of objects
    whose entries hold no text, such as tags and addresses of images.
    """
    blocks = message.content if isinstance(message.content, list) else [message.content]
    texts = [one if isinstance(one, str) else one.get("text") for one in blocks]
    entries = [_parsed(text) for text in texts if isinstance(text, str)]
    if len(entries) > 1:
        return entries
    if entries and isinstance(entries[0], list):
        return entries[0] if all(isinstance(one, str | dict) for one in entries[0]) else []
    return max(_lists(*entries), key=_richness, default=[])


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _lists(*values: Any) -> Iterator[list[dict[str, Any]]]:
    """Find the lists of objects, with a text some of them, in parsed JSON, inside of objects."""
    for value in values:
        if isinstance(value, list) and all(isinstance(one, dict) for one in value):
            if any(map(_text, value)):
                yield value
        elif isinstance(value, dict):
            yield from _lists(*value.values())


def _richness(found: list[dict[str, Any]]) -> tuple[int, int]:
    """Tell a list of results, with content, from one of images, with descriptions."""
    named = [(one, name) for one in found if (name := _text(one))]
    size = sum(len(one[name]) for one, name in named)
    return -min(_TEXTS.index(name) for _, name in named), size


def _text(found: dict[str, Any]) -> str | None:
    """Name the field of an object that holds its text."""
    return next((one for one in _TEXTS if isinstance(found.get(one), str) and found[one]), None)


def _artifact(message: ToolMessage) -> list[Document]:
    found = message.artifact if isinstance(message.artifact, list) else []
    return found if all(isinstance(one, Document) for one in found) else []


def _argument(request: ToolCallRequest, name: str) -> str | None:
    given = request.tool_call["args"]
    texts = {key: value for key, value in given.items() if isinstance(value, str)}
    if not texts.get(name) and len(texts) > 1 and request.tool is not None:
        required = request.tool.get_input_jsonschema().get("required", ())
        texts = {key: value for key, value in texts.items() if key in required}
    return texts.get(name) or (next(iter(texts.values())) if len(texts) == 1 else None)


def _document(found: Any) -> Document:
    if isinstance(found, Document):
        return found
    if isinstance(found, str):
        return Document(found)
    if not isinstance(found, dict):
        msg = f"documents must give Documents, texts or objects, got {type(found).__name__}"
        raise TypeError(msg)
    rest = {key: value for key, value in found.items() if value not in (None, "")}
    if isinstance(rest.get("metadata"), dict):
        rest = {**rest.pop("metadata"), **rest}
    name = _text(found)
    text = rest.pop(name) if name else json.dumps(found, ensure_ascii=False)
    if sources := [rest[name] for name in _ADDRESSES if name in rest]:
        rest["source"] = sources[0]
    title = [str(rest["title"])] if "title" in rest else []
    return Document("\n".join([*title, text]), metadata=rest)


def _cut(document: Document, max_chars: int | None) -> list[Document]:
    if max_chars is None or len(document.page_content) <= max_chars:
        return [document]
    splitter = RecursiveCharacterTextSplitter(
        chunk_size=max_chars, chunk_overlap=0, add_start_index=True
    )
    return splitter.split_documents([document])
