"""Agents on a scripted chat model, with search tools, and what such a tool told the model."""

from __future__ import annotations

from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import tool

from langchain_rerank import Reranker, RerankMiddleware
from tests.fakes import ScriptedChatModel, WordOverlapCrossEncoder

TEXTS = ["berlin has museums", "people eat soup", "many people live in berlin", "paris is large"]
DOCUMENTS = [Document(text, metadata={"source": f"page {n}"}) for n, text in enumerate(TEXTS)]
QUERY = "people live in berlin"
BEST = [TEXTS[2], TEXTS[0]]
ASKED = {"messages": [("human", "How many people live in Berlin?")]}


def keeping(top_n: int = 2, **settings) -> RerankMiddleware:
    reranker = Reranker(model=WordOverlapCrossEncoder(), top_n=top_n)
    return RerankMiddleware(reranker, **settings)


def search_tool(documents=DOCUMENTS, content="all"):
    @tool(response_format="content_and_artifact")
    def search(query: str):
        """Search."""
        return content, documents

    return search


def call(name="search", **arguments):
    return {"name": name, "args": arguments or {"query": QUERY}, "id": f"{name} {arguments}"}


def agent(tools, *middleware, calls=(), **settings):
    script = [AIMessage("", tool_calls=list(calls) or [call()]), AIMessage("Many [1].")] * 2
    model = ScriptedChatModel(messages=iter(script))
    return create_agent(model, tools, middleware=middleware, **settings)


def told(result) -> list[ToolMessage]:
    return [message for message in result["messages"] if isinstance(message, ToolMessage)]


def texts(message: ToolMessage) -> list[str]:
    return [document.page_content for document in message.artifact]


async def every_way(make_agent):
    """The tool messages of invoke, ainvoke, stream and astream, each of an agent of its own."""
    yield told(make_agent().invoke(ASKED))
    yield told(await make_agent().ainvoke(ASKED))
    yield told(list(make_agent().stream(ASKED, stream_mode="values"))[-1])
    async for state in make_agent().astream(ASKED, stream_mode="values"):
        last = state
    yield told(last)
