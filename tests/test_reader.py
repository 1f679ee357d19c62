"""The extractive reader: sentences out of passages, by the scores of a cross encoder."""

from __future__ import annotations

import math

import pytest
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document

from langchain_rerank import ExtractiveReader, ScoringError
from langchain_rerank.reader import close_to_best, numbered_sentences
from tests.fakes import WordOverlapCrossEncoder

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
