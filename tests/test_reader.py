"""The extractive reader: sentences out of passages, by the scores of a cross encoder."""

from __future__ import annotations

import math

import pytest
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document

from langchain_rerank import (
    ExtractiveReader,
    Reranker,
    RerankRetriever,
    ScoringError,
    TorchCrossEncoder,
    create_rag_chain,
    create_rerank_retriever,
)
from langchain_rerank.chain import NO_ANSWER, NOTHING_FOUND
from langchain_rerank.reader import close_to_best, numbered_sentences
from tests.fakes import (
    BrokenCrossEncoder,
    RecordingChatModel,
    RecordingRetriever,
    WordOverlapCrossEncoder,
)

PASSAGES = [
    Document("Berlin has many\nmuseums.  [1]\n\nIts population, e.g. in 2015, was 3,520,031."),
    Document("Berlin has many museums. Dr. Smith lives in Berlin."),
]


@pytest.mark.parametrize(
    ("texts", "sentences"),
    [
        (
            [passage.page_content for passage in PASSAGES],
            {
                "Berlin has many museums.": 1,
                "Its population, e.g. in 2015, was 3,520,031.": 1,
                "Dr. Smith lives in Berlin.": 2,
            },
        ),
        (["It rains.[2]", "It rains. [3]"], {"It rains.": 1}),
        (["The ports are: [1, 443]."], {"The ports are: (1, 443).": 1}),
        ([" \n ", "The capital[2] is large."], {"The capital is large.": 2}),
        (["The value x[2] is the third."], {"The value x[2] is the third.": 1}),
        (["Torn \ud83d text.", "A NUL \x00."], {"Torn \ufffd text.": 1, "A NUL \x00.": 2}),
    ],
)
def test_sentences_are_valid_text_without_footnotes_and_name_their_first_passage(texts, sentences):
    assert numbered_sentences([Document(text) for text in texts], "en") == sentences


@pytest.mark.parametrize(
    ("scores", "limit", "best"),
    [
        ([0.0, 5.0, 4.5, 4.2, 4.1, -3.0], 3, [1, 2, 3]),
        ([0.0, 5.0, 3.9], 3, [1]),
        ([5.0, 5.0], 1, [0]),
        ([0.999, 0.9985, 0.99], 3, [0, 1]),
        ([1.0, 1.0, 0.0], 3, [0, 1]),
        ([0.0, 0.0], 3, [0, 1]),
        ([math.nan, 9.0, 8.5], 3, [1, 2]),
        ([math.nan, math.nan], 3, []),
    ],
)
def test_only_sentences_close_to_the_best_join_it_and_never_a_nan(scores, limit, best):
    assert close_to_best(scores, limit) == best


async def test_quotes_name_sentence_passage_and_score_sync_and_async():
    reader = ExtractiveReader(WordOverlapCrossEncoder())
    given = {"question": "where does dr. smith live: lives in berlin.", "context": PASSAGES}
    quotes = reader.invoke(given)
    assert quotes == [{"sentence": "Dr. Smith lives in Berlin.", "number": 2, "score": 5 / 8}]
    assert await reader.ainvoke(given) == quotes


BERLIN = [
    "Berlin is well known for its museums.",
    "Berlin had a population of 3,520,031 in 2015.",
    "The Spree flows through Berlin.",
    "In 1894 the Reichstag was finished.",
]
BOILING = "What is the boiling point of water?"


@pytest.mark.parametrize("normalize", [True, False])
def test_the_offline_model_says_where_no_document_answers(checkpoint, normalize):
    model = TorchCrossEncoder(model=checkpoint, normalize=normalize)
    found = RecordingRetriever(documents=[Document(text) for text in BERLIN])
    chain = create_rag_chain(None, create_rerank_retriever(found, reranker=model))
    result = chain.invoke("How many people live in Berlin?")
    assert (result["answer"], len(result["citations"])) == (f"{BERLIN[1]} [1]", 1)
    result = chain.invoke(BOILING)
    assert (result["answer"], result["citations"]) == (NO_ANSWER, [])
    # Only unless told otherwise, and only this model.
    anything = ExtractiveReader(model, score_threshold=-math.inf)
    for reader in (anything, ExtractiveReader(WordOverlapCrossEncoder())):
        assert create_rag_chain(reader, found).invoke(BOILING)["citations"]


class OneScore(BaseCrossEncoder):
    def score(self, text_pairs):
        return [0.5]


@pytest.mark.parametrize(
    ("cross_encoder", "message"),
    [(BrokenCrossEncoder(), "failed on 3 pairs"), (OneScore(), "gave 1 scores for 3 pairs")],
)
def test_a_failing_cross_encoder_is_an_error(cross_encoder, message):
    with pytest.raises(ScoringError, match=message):
        ExtractiveReader(cross_encoder).invoke({"question": "why", "context": PASSAGES})
    with pytest.raises(TypeError, match="must be a BaseCrossEncoder, got 'a-name'"):
        ExtractiveReader("a-name")
    with pytest.raises(ValueError, match="max_sentences must be > 0, got 0"):
        ExtractiveReader(cross_encoder, max_sentences=0)


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
    for _ in range(20):  # two threads would finish in either order
        order = [key for piece in reading.stream("why") for key in piece]
        assert order == ["question", "context", "answer", "citations"]


@pytest.mark.parametrize(
    ("texts", "score_threshold", "answer"),
    [
        (["The value x[2] is Berlin.[2]"], None, "The value x[2] is Berlin. [1]"),
        ([], None, NOTHING_FOUND),
        ([" "], None, NO_ANSWER),
        (["It rains.", "Berlin is large."], 0.51, NO_ANSWER),
        (["It rains.", "Berlin is large."], 0.5, "Berlin is large. [2]"),
    ],
)
async def test_where_no_sentence_answers_the_reader_says_so(texts, score_threshold, answer):
    reader = ExtractiveReader(WordOverlapCrossEncoder(), score_threshold=score_threshold)
    retriever = RecordingRetriever(documents=[Document(text) for text in texts])
    chain = create_rag_chain(reader, retriever)
    for result in (chain.invoke("Berlin why"), await chain.ainvoke("Berlin why")):
        assert (result["answer"], bool(result["citations"])) == (answer, "[" in answer)


def test_passages_below_the_rerankers_threshold_are_not_answered_from():
    llm = RecordingChatModel(responses=["never"])
    strict = Reranker(model=WordOverlapCrossEncoder(), score_threshold=0.5)
    first_stage = RecordingRetriever(documents=PASSAGES)
    retriever = create_rerank_retriever(first_stage, reranker=strict)
    for model in (llm, None):
        result = create_rag_chain(model, retriever).invoke("does water boil")
        assert (result["answer"], result["citations"]) == (NOTHING_FOUND, [])
    assert llm.prompts == []


def test_a_reader_searches_by_the_last_question_and_the_new_one():
    retriever = RecordingRetriever(documents=PASSAGES)
    create_rag_chain(ExtractiveReader(WordOverlapCrossEncoder()), retriever).invoke(
        {"question": "And Paris?", "chat_history": [("human", "Berlin?"), ("ai", "Large.")]}
    )
    assert retriever.queries == ["Berlin?\nAnd Paris?"]
