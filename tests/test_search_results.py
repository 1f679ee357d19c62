"""What the middleware reads out of the messages of an agent's tools, and what it makes of it."""

from __future__ import annotations

import json

import pytest
from langchain_core.documents import Document
from langchain_core.tools import tool

from langchain_rerank.middleware import json_documents
from tests.agents import (
    ASKED,
    BEST,
    DOCUMENTS,
    QUERY,
    TEXTS,
    agent,
    call,
    keeping,
    search_tool,
    texts,
    told,
)

RESULTS = [
    {"title": "Soup", "url": "https://soup.example", "content": "people eat it", "score": 0.9},
    {"title": "Berlin", "url": "https://berlin.example", "content": "many people live here"},
]
BERLIN = "Berlin\nmany people live here"


@pytest.mark.parametrize(
    ("found", "best"),
    [
        (TEXTS, TEXTS[2]),
        (RESULTS, BERLIN),
        ({"query": "x", "images": ["a"] * 9, "results": RESULTS}, BERLIN),
        ({"organic": [{"title": "Z", "link": "v"}, RESULTS[1]]}, BERLIN),
        # Images with more entries and more text.
        ({"images": [{"url": "x", "description": "yes " * 9}] * 9, "results": RESULTS}, BERLIN),
        ({"web": {"results": [{"description": TEXTS[1]}, {"snippet": TEXTS[2]}]}}, TEXTS[2]),
        ([{"text": TEXTS[0], "title": None}, {"page_content": TEXTS[2], "text": ""}], TEXTS[2]),
        ([{"city": "Paris"}, {"city": "berlin people live"}], '{"city": "berlin people live"}'),
    ],
)
@pytest.mark.parametrize("shape", ["json", "block", "blocks"])
def test_json_of_search_apis_and_mcp_tools(found, best, shape):
    @tool
    def search(query: str):
        """Search."""
        if shape == "json":
            return json.dumps(found)
        entries = found if shape == "blocks" and isinstance(found, list) else [found]
        return [
            {"type": "text", "text": one if isinstance(one, str) else json.dumps(one)}
            for one in entries
        ]

    [message] = told(agent([search], keeping(1, documents=json_documents)).invoke(ASKED))
    assert texts(message) == [best]
    if "https" in str(found):
        assert message.content.startswith('<document index="1" source="https://berlin.example">')
        assert message.artifact[0].metadata["url"] == "https://berlin.example"


ORDER = '{"order": "A7", "total": 129.5, "tags": ["gift", "express"], "lines": [{"sku": 3}]}'
NOTHING = '{"query": "x", "images": ["https://a.example/1.png"], "results": []}'


@pytest.mark.parametrize(
    "content", ["plain text", "[]", "{}", "7", '{"n": [1, 2]}', "", ORDER, NOTHING]
)
def test_what_is_no_json_list_stays(content):
    search = search_tool(None, content)
    [message] = told(agent([search], keeping(documents=json_documents)).invoke(ASKED))
    assert (message.content, message.artifact) == (content, None)


@pytest.mark.parametrize(
    ("arguments", "reranked"),
    [
        ({"question": QUERY, "limit": 3}, True),
        ({"query": QUERY, "language": "en"}, True),
        ({"question": QUERY, "language": "en"}, False),
        ({"limit": 3}, False),
        ({"must": QUERY, "language": "en"}, True),
    ],
)
def test_the_query_is_the_argument_of_that_name_or_the_only_text(arguments, reranked, caplog):
    @tool(response_format="content_and_artifact")
    def search(query: str = "", question: str = "", language: str = "", limit: int = 3):
        """Search."""
        return "all", DOCUMENTS

    @tool("search", response_format="content_and_artifact")
    def requiring(must: str, language: str = ""):
        """Search."""
        return "all", DOCUMENTS

    made, calls = requiring if "must" in arguments else search, [call(**arguments)]
    [message] = told(agent([made], keeping(tools=["search"]), calls=calls).invoke(ASKED))
    assert (texts(message) == BEST) is reranked
    assert ("'search' was called without a query" in caplog.text) is not reranked


def test_fields_of_objects_are_kept_as_metadata():
    inner = {"source": "page 3", "lang": "de"}
    found = [{"page_content": TEXTS[2], "metadata": inner, "price": 0, "sale": False, "b": None}]
    search = search_tool(None, json.dumps(found))
    [message] = told(agent([search], keeping(documents=json_documents)).invoke(ASKED))
    metadata = message.artifact[0].metadata
    assert metadata | {"price": 0, "sale": False, **inner} == metadata
    assert not {"metadata", "b"} & metadata.keys()
    assert 'source="page 3"' in message.content


def test_functions_of_the_user_find_query_and_documents_and_render():
    settings = {
        "query": lambda request: request.state["messages"][0].text.lower().strip("?"),
        "documents": lambda message: [*TEXTS, Document("how many")],
        "render": lambda kept: " | ".join(one.page_content for one in kept),
    }

    @tool
    def search(topic: str, city: str):
        """Search."""
        return "found"

    calls = [call(topic="x", city="y")]
    [message] = told(agent([search], keeping(**settings), calls=calls).invoke(ASKED))
    assert message.content == f"{TEXTS[2]} | how many"


def test_long_documents_are_cut_and_the_best_passages_kept():
    long = Document(
        "\n\n".join([*["nothing of use here"] * 9, TEXTS[2]]), metadata={"source": "a"}, id="a"
    )
    middleware = keeping(1, max_chars=40)
    [message] = told(agent([search_tool([long, DOCUMENTS[0]])], middleware).invoke(ASKED))
    assert texts(message) == [TEXTS[2]]
    assert message.artifact[0].metadata["source"] == "a"
    assert message.artifact[0].metadata["start_index"] == long.page_content.index(TEXTS[2])


def test_blocks_that_are_no_text_stay_beside_what_was_kept():
    image = {"type": "image", "url": "https://example.org/a.png"}
    search = search_tool(content=[{"type": "text", "text": "all"}, image])
    [message] = told(agent([search], keeping(1)).invoke(ASKED))
    assert message.content[1] == image
    assert TEXTS[2] in message.text


def test_two_of_them_serve_different_tools_of_one_agent():
    @tool
    def web(query: str):
        """Search the web."""
        return json.dumps(RESULTS)

    both = keeping(2, tools=["search"]), keeping(1, tools=["web"], documents=json_documents)
    calls = [call(), call("web", query=QUERY)]
    messages = told(agent([search_tool(), web], *both, calls=calls).invoke(ASKED))
    assert [len(message.artifact) for message in messages] == [2, 1]
