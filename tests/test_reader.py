"""The extractive reader: sentences out of passages, by the scores of a cross encoder."""

from __future__ import annotations

import math

import pytest
from langchain.agents import create_agent
from langchain_classic.retrievers import ContextualCompressionRetriever, EnsembleRetriever
from langchain_classic.retrievers.document_compressors import DocumentCompressorPipeline
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.tools import create_retriever_tool

from langchain_rerank import (
    ExtractiveReader,
    RerankRetriever,
    ScoringError,
    create_rag_chain,
    create_rerank_retriever,
)
from langchain_rerank.chain import NOTHING_FOUND
from langchain_rerank.reader import close_to_best, numbered_sentences
from tests.fakes import RecordingRetriever, WordOverlapCrossEncoder

PASSAGES = [
    Document("Berlin has many\nmuseums.  [1]\n\nIts population, e.g. in 2015, was 3,520,031."),
    Document("Berlin has many museums. Dr. Smith lives in Berlin."),
]


def test_sentences_keep_abbreviations_lose_line_breaks_and_name_their_first_passage():
    assert numbered_sentences(PASSAGES, "en") == {
        "Berlin has many museums.": 1,
        "Its population, e.g. in 2015, was 3,520,031.": 1,
        "Dr. Smith lives in Berlin.": 2,
    }


@pytest.mark.parametrize(
    ("scores", "limit", "best"),
    [
        ([0.0, 5.0, 4.5, 4.2, 4.1, -3.0], 3, [1, 2, 3]),
        ([0.0, 5.0, 3.9], 3, [1]),
        ([5.0, 5.0], 1, [0]),
        ([0.999, 0.9985, 0.99], 3, [0, 1]),
        ([1.0, 1.0, 0.0], 3, [0, 1]),
        ([0.0, 0.0], 3, [0, 1]),
    ],
)
def test_only_sentences_close_to_the_best_join_it(scores, limit, best):
    assert close_to_best(scores, limit) == best


async def test_quotes_name_sentence_passage_and_score_sync_and_async():
    reader = ExtractiveReader(WordOverlapCrossEncoder())
    given = {"question": "where does dr. smith live: lives in berlin.", "context": PASSAGES}
    quotes = reader.invoke(given)
    assert quotes == [{"sentence": "Dr. Smith lives in Berlin.", "number": 2, "score": 5 / 8}]
    assert await reader.ainvoke(given) == quotes


def test_real_cross_encoder_finds_the_sentence(cross_encoder):
    quotes = ExtractiveReader(cross_encoder).invoke(
        {"question": "How many people live in Berlin?", "context": PASSAGES}
    )
    found = [(quote["sentence"], quote["number"]) for quote in quotes]
    assert found == [("Its population, e.g. in 2015, was 3,520,031.", 1)]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("It rains.[2]", ["It rains."]),
        ("[2] It rains. [3]", ["It rains."]),
        ("The capital[2] is large.", ["The capital is large."]),
        ("The value x[2] is the third.", ["The value x[2] is the third."]),
        ("Torn \ud83d text.", ["Torn \ufffd text."]),
        ("A NUL \x00 is a character.", ["A NUL \x00 is a character."]),
        (" \n ", []),
    ],
)
def test_sentences_lose_footnote_marks_and_keep_subscripts_and_are_valid_text(text, sentences):
    assert list(numbered_sentences([Document(text)], "en")) == sentences


class Scoring(BaseCrossEncoder):
    """Gives the scores, or raises the error, that it is made with."""

    def __init__(self, outcome):
        self.outcome = outcome

    def score(self, text_pairs):
        for texts in text_pairs:
            "".join(texts).encode()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@pytest.mark.parametrize(
    ("scores", "quoted"),
    [([math.nan, 0.2, 0.9], [0.9]), ([math.nan] * 3, []), ([9.0, math.nan, 8.5], [9.0, 8.5])],
)
def test_a_nan_score_is_never_quoted(scores, quoted):
    quotes = ExtractiveReader(Scoring(scores)).invoke(
        {"question": "torn \udc00", "context": PASSAGES}
    )
    assert [quote["score"] for quote in quotes] == quoted


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (KeyError("weights"), "Scoring failed on 3 pairs: KeyError"),
        ([0.5], "gave 1 scores for 3 pairs"),
        ([0.5] * 4, "gave 4 scores for 3 pairs"),
    ],
)
def test_a_failing_cross_encoder_is_an_error(outcome, message):
    with pytest.raises(ScoringError, match=message) as error:
        ExtractiveReader(Scoring(outcome)).invoke({"question": "why", "context": PASSAGES})
    assert error.value.__cause__ is (outcome if isinstance(outcome, Exception) else None)


def test_passages_without_a_sentence_are_not_scored():
    cross_encoder = WordOverlapCrossEncoder()
    given = {"question": "why", "context": [Document(" \n ")]}
    assert ExtractiveReader(cross_encoder).invoke(given) == []
    assert cross_encoder.calls == []


def test_max_sentences_must_be_positive():
    with pytest.raises(ValueError, match="max_sentences must be > 0, got 0"):
        ExtractiveReader(WordOverlapCrossEncoder(), max_sentences=0)


# In a chain


def reranked(*texts: str) -> RerankRetriever:
    first_stage = RecordingRetriever(documents=[Document(text) for text in texts])
    return create_rerank_retriever(first_stage, reranker=WordOverlapCrossEncoder(), k=2)


def test_a_reader_streams_the_citations_after_the_answer():
    reading = create_rag_chain(
        None, reranked("Paris is a city.", "It rains. 3,520,031 live in Berlin. Large.")
    )
    result = reading.invoke("people live in Berlin")
    assert result["answer"] == "3,520,031 live in Berlin. [1]"
    assert [citation["number"] for citation in result["citations"]] == [1]
    for _ in range(50):  # two threads would finish in either order
        order = [key for piece in reading.stream("why") for key in piece]
        assert order == ["question", "context", "answer", "citations"]


def test_brackets_in_a_quoted_sentence_are_no_citations():
    reading = create_rag_chain(
        None, reranked("The value x[2] is the best of all.[2]", "Something.", "More.")
    )
    result = reading.invoke("best value of all")
    assert result["answer"] == "The value x[2] is the best of all. [1]"
    assert [citation["number"] for citation in result["citations"]] == [1]


@pytest.mark.parametrize("texts", [[], [" "]])
def test_a_reader_that_finds_nothing_says_so(texts):
    result = create_rag_chain(None, reranked(*texts)).invoke("why")
    assert (result["answer"], result["citations"]) == (NOTHING_FOUND, [])


def test_a_reader_searches_by_the_last_question_and_the_new_one():
    retriever = RecordingRetriever(documents=PASSAGES)
    create_rag_chain(ExtractiveReader(WordOverlapCrossEncoder()), retriever).invoke(
        {"question": "And Paris?", "chat_history": [("human", "Berlin?"), ("ai", "Large.")]}
    )
    assert retriever.queries == ["Berlin?\nAnd Paris?"]


@pytest.mark.parametrize(
    "wrap",
    {
        "bind": lambda retriever: retriever.bind(k=1),
        "config": lambda retriever: retriever.with_config(tags=["a"]),
        "retry": lambda retriever: retriever.with_retry(),
        "fallbacks": lambda retriever: retriever.with_fallbacks([retriever]),
        "fields": lambda retriever: retriever.configurable_fields(k=ConfigurableField(id="k")),
        "alternatives": lambda retriever: retriever.configurable_alternatives(
            ConfigurableField(id="which"), other=retriever
        ),
        "many": lambda retriever: retriever.with_retry().with_config(tags=["a"]).with_retry(),
        "sequence": lambda retriever: RunnableLambda(str.strip) | retriever.with_retry(),
        "ensemble": lambda retriever: EnsembleRetriever(retrievers=[retriever], weights=[1]),
        "cascade": lambda retriever: ContextualCompressionRetriever(
            base_retriever=retriever, base_compressor=DocumentCompressorPipeline(transformers=[])
        ),
        "pipeline": lambda retriever: retriever.model_copy(
            update={
                "base_compressor": DocumentCompressorPipeline(
                    transformers=[retriever.base_compressor]
                )
            }
        ),
    }.items(),
    ids=lambda item: item[0],
)
async def test_the_cross_encoder_is_found_through_what_wraps_the_retriever(wrap):
    reading = create_rag_chain(None, wrap[1](reranked("It rains. People live in Berlin.")))
    assert reading.invoke("people live in Berlin")["answer"] == "People live in Berlin. [1]"
    assert (await reading.ainvoke("people live in Berlin"))["citations"]


@pytest.mark.parametrize("query", ["", " \n", "\N{IDEOGRAPHIC SPACE}"])
@pytest.mark.parametrize("kind", ["retriever", "chain"])
async def test_a_blank_query_of_an_agents_model_is_told_to_it(kind, query):
    class Agent(GenericFakeChatModel):
        def bind_tools(self, tools, **kwargs):
            return self

    def search(query: str) -> str:
        """Search."""
        return create_rag_chain(None, retriever).invoke(query)["answer"]

    retriever = reranked("Berlin has museums.")
    tool = create_retriever_tool(retriever, "search", "S.") if kind == "retriever" else search
    calls = [{"name": "search", "args": {"query": text}, "id": "1"} for text in (query, "museums")]

    def agent():
        messages = [*(AIMessage("", tool_calls=[call]) for call in calls), AIMessage("Done.")]
        return create_agent(Agent(messages=iter(messages)), [tool])

    asked = {"messages": [("human", "Search!")]}
    for result in (agent().invoke(asked), await agent().ainvoke(asked)):
        _, _, told, _, found, last = result["messages"]
        assert "query must hold text" in told.text
        assert "Berlin has museums." in found.text
        assert last.text == "Done."
