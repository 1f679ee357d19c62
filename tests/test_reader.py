"""The extractive reader: sentences out of passages, by the scores of a cross encoder."""

from __future__ import annotations

import pytest
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document

from langchain_rerank import ExtractiveReader
from langchain_rerank.reader import best_positions, numbered_sentences
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
    assert best_positions(scores, limit) == best


async def test_answer_cites_each_sentence_sync_and_async():
    reader = ExtractiveReader(WordOverlapCrossEncoder())
    given = {"question": "where does dr. smith live: lives in berlin.", "context": PASSAGES}
    assert reader.invoke(given) == "Dr. Smith lives in Berlin. [2]"
    assert await reader.ainvoke(given) == reader.invoke(given)


def test_real_cross_encoder_finds_the_sentence(cross_encoder):
    reader = ExtractiveReader(cross_encoder)
    answer = reader.invoke({"question": "How many people live in Berlin?", "context": PASSAGES})
    assert answer == "Its population, e.g. in 2015, was 3,520,031. [1]"


def test_passages_without_a_sentence_give_no_answer():
    reader = ExtractiveReader(WordOverlapCrossEncoder())
    assert reader.invoke({"question": "why", "context": [Document(" \n ")]}) == ""


def test_the_cross_encoders_error_reaches_the_caller():
    class Broken(BaseCrossEncoder):
        def score(self, text_pairs):
            msg = "weights"
            raise KeyError(msg)

    with pytest.raises(KeyError, match="weights"):
        ExtractiveReader(Broken()).invoke({"question": "why", "context": PASSAGES})


def test_max_sentences_must_be_positive():
    with pytest.raises(ValueError, match="max_sentences must be > 0, got 0"):
        ExtractiveReader(WordOverlapCrossEncoder(), max_sentences=0)
