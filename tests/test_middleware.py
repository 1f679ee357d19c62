"""The middleware in real agents, whose chat model follows a script."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Annotated

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.messages import ToolMessage
from langchain_core.tools import InjectedToolCallId, ToolException, create_retriever_tool, tool
from langchain_core.vectorstores import InMemoryVectorStore
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from langchain_rerank import (
    Reranker,
    RerankMiddleware,
    ScoringError,
    create_rag_chain,
    create_rerank_retriever,
)
from tests.agents import (
    ASKED,
    BEST,
    DOCUMENTS,
    QUERY,
    TEXTS,
    agent,
    call,
    every_way,
    keeping,
    search_tool,
    texts,
    told,
)
from tests.fakes import (
    BrokenCrossEncoder,
    GatedCrossEncoder,
    RecordingRetriever,
    WordOverlapCrossEncoder,
)


async def test_the_model_reads_the_best_and_the_artifact_holds_them_every_way():
    async for [message] in every_way(lambda: agent([search_tool()], keeping())):
        assert texts(message) == BEST
        assert message.content == (
            f'<document index="1" source="page 2">\n{BEST[0]}\n</document>\n'
            f'<document index="2" source="page 0">\n{BEST[1]}\n</document>'
        )
        assert message.artifact[0].metadata == {
            "source": "page 2",
            "relevance_score": 1.0,
            "retrieval_rank": 3,
        }
        assert message.tool_call_id == call()["id"]
    assert "relevance_score" not in DOCUMENTS[2].metadata


def tutorial_tool():
    vector_store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    vector_store.add_documents(DOCUMENTS)

    @tool(response_format="content_and_artifact")
    def retrieve_context(query: str):
        """Retrieve information to help answer a query."""
        retrieved_docs = vector_store.similarity_search(query, k=4)
        serialized = "\n\n".join(
            (f"Source: {doc.metadata}\nContent: {doc.page_content}") for doc in retrieved_docs
        )
        return serialized, retrieved_docs

    return retrieve_context


def retriever_tool():
    retriever = RecordingRetriever(documents=DOCUMENTS)
    response_format = "content_and_artifact"
    return create_retriever_tool(retriever, "search", "Search.", response_format=response_format)


@pytest.mark.parametrize("make_tool", [tutorial_tool, retriever_tool])
async def test_langchains_own_rag_tools_work_as_they_are(make_tool):
    made = make_tool()
    one = call(made.name, query=QUERY)
    async for [message] in every_way(lambda: agent([made], keeping(), calls=[one])):
        assert texts(message) == BEST


async def test_parallel_calls_are_ranked_each_by_its_own_query():
    calls = [call(query=query) for query in (QUERY, "paris", "soup")]
    async for messages in every_way(lambda: agent([search_tool()], keeping(1), calls=calls)):
        assert [texts(message) for message in messages] == [[TEXTS[2]], [TEXTS[3]], [TEXTS[1]]]


def test_what_was_kept_outlives_the_run_in_a_checkpointer():
    remembering = agent([search_tool()], keeping(), checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}
    for _ in range(2):
        remembering.invoke(ASKED, thread)
    for message in told(remembering.get_state(thread).values):
        # LangGraph gives what an artifact held back as plain data.
        kept = [Document(**one) for one in message.artifact]
        assert [document.page_content for document in kept] == BEST
        assert kept[0].metadata["relevance_score"] == 1.0


async def test_reranking_is_traced_inside_of_the_tools_and_the_events_stream():
    events = [event async for event in agent([search_tool()], keeping()).astream_events(ASKED)]
    [reranked] = [
        event
        for event in events
        if event["event"] == "on_chain_end" and event["name"] == "Reranker"
    ]
    assert [document.page_content for document in reranked["data"]["output"]] == BEST
    assert reranked["metadata"]["langgraph_node"] == "tools"
    spoken = [event for event in events if event["event"] == "on_chat_model_stream"]
    assert "".join(event["data"]["chunk"].text for event in spoken) == "Many [1]."


async def test_the_event_loop_goes_on_while_it_scores():
    gated = GatedCrossEncoder()
    waiting = agent([search_tool()], RerankMiddleware(gated))
    result, _ = await asyncio.gather(waiting.ainvoke(ASKED), gated.gate.release())
    assert len(told(result)[0].artifact) == 4


def test_nothing_above_the_threshold_is_said_to_the_model():
    strict = Reranker(model=WordOverlapCrossEncoder(), score_threshold=2)
    [message] = told(agent([search_tool()], RerankMiddleware(strict)).invoke(ASKED))
    assert (message.content, message.artifact) == ("None of the documents found is relevant.", [])


@tool
def move(query: str, tool_call_id: Annotated[str, InjectedToolCallId]):
    """Give a command."""
    return Command(update={"messages": [ToolMessage("moved", tool_call_id=tool_call_id)]})


@tool(response_format="content_and_artifact")
def refuse(query: str):
    """Refuse."""
    raise ToolException


refuse.handle_tool_error = True


@pytest.mark.parametrize(
    ("made", "settings", "arguments"),
    [
        (move, {}, {"query": QUERY}),
        (refuse, {"documents": lambda message: TEXTS}, {"query": QUERY}),
        (search_tool(), {"tools": ["other"]}, {"query": QUERY}),
        (search_tool([]), {}, {"query": QUERY}),
        (search_tool(None), {}, {"query": QUERY}),
        (search_tool({"rows": DOCUMENTS}), {}, {"query": QUERY}),
        (search_tool([*DOCUMENTS, "text"]), {}, {"query": QUERY}),
        (search_tool(), {}, {"query": " "}),
        (search_tool(), {"query": lambda request: None}, {"query": QUERY}),
    ],
)
async def test_commands_errors_and_other_tools_pass_untouched(made, settings, arguments):
    calls = [call(made.name, **arguments)]
    [plain] = told(agent([made], calls=calls).invoke(ASKED))
    async for [message] in every_way(lambda: agent([made], keeping(**settings), calls=calls)):
        assert message.model_dump(exclude={"id"}) == plain.model_dump(exclude={"id"})


async def test_an_error_of_the_tool_reaches_the_caller_as_it_was():
    @tool
    def search(query: str):
        """Search."""
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await agent([search], keeping()).ainvoke(ASKED)


def broken(_):
    raise ScoringError


@pytest.mark.parametrize(
    "settings",
    [
        {"reranker": BrokenCrossEncoder()},
        {"documents": broken},
        {"query": broken},
        {"render": broken},
        {"documents": lambda _: [7]},
    ],
)
async def test_a_failure_keeps_the_tools_own_message_and_is_logged(settings, caplog):
    settings = {"reranker": WordOverlapCrossEncoder(), **settings}
    async for [message] in every_way(lambda: agent([search_tool()], RerankMiddleware(**settings))):
        assert (message.content, message.artifact) == ("all", DOCUMENTS)
        assert "tool 'search'" in caplog.text
        assert caplog.records[-1].exc_info
        caplog.clear()
    strict = RerankMiddleware(**settings, on_error="raise")
    with pytest.raises((ScoringError, TypeError)):
        agent([search_tool()], strict).invoke(ASKED)
    with pytest.raises((ScoringError, TypeError)):
        await agent([search_tool()], strict).ainvoke(ASKED)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tools": "search"}, "tools must be a sequence of names, got 'search'"),
        ({"on_error": "ignore"}, "on_error must be keep or raise: 'ignore'"),
        ({"max_chars": 0}, "max_chars must be > 0, got 0"),
        ({"documents": "results"}, "documents is no function: 'results'"),
        ({"render": 3}, "render is no function: 3"),
        ({"reranker": 3}, "instance of BaseCrossEncoder"),
    ],
)
def test_a_wrong_setting_says_what_was_expected(settings, message):
    with pytest.raises(ValueError, match=message):
        RerankMiddleware(**{"reranker": WordOverlapCrossEncoder(), **settings})


def test_without_langchain_the_error_names_the_extra():
    code = (
        "import sys; sys.modules['langchain'] = None\n"
        "from langchain_rerank import *\n"
        "try: RerankMiddleware('no-such/model')\n"
        "except MissingDependencyError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'Run: pip install "langchain-rerank[agents]"' in done.stdout


@pytest.mark.parametrize("query", ["", " \n", "\N{IDEOGRAPHIC SPACE}"])
@pytest.mark.parametrize("kind", ["retriever", "chain"])
async def test_a_blank_query_of_an_agents_model_is_told_to_it(kind, query):
    def search(query: str) -> str:
        """Search."""
        return create_rag_chain(None, retriever).invoke(query)["answer"]

    first_stage = RecordingRetriever(documents=DOCUMENTS)
    retriever = create_rerank_retriever(first_stage, reranker=WordOverlapCrossEncoder(), k=1)
    made = create_retriever_tool(retriever, "search", "S.") if kind == "retriever" else search
    async for blank, found in every_way(lambda: agent([made], calls=[call(query=query), call()])):
        assert "query must hold text" in blank.text
        assert TEXTS[2] in found.text
