"""What every cross encoder of this package promises, run over each of them."""

from __future__ import annotations

import copy
import random

import pytest
from langchain_core.documents import Document

from tests.texts import BERLIN

ANSWER = "How many people live in Berlin? About 3.5 million people."
PASSAGES = [
    "Berlin had a population of 3,520,031 registered inhabitants in an area of 891.82 km2.",
    "Berlin is well known for its museums.",
    "How many people live here? Nobody knows. " * 5,
    "",
    "Berlin",
    "Der Hund schläft.",
]
PAIRS = [(BERLIN, passage) for passage in PASSAGES]
PAIRS += [("What are the museums?", PASSAGES[1]), ("lone \ud83d", PASSAGES[5]), PAIRS[0]]
ODD_TEXTS = {
    "empty": "",
    "blank": " \n\t",
    "lone surrogate": "Berlin \ud83d has \udc00 people",
    "NUL": "Berlin\x00 has\x00 people",
    "long": "people live in Berlin " * 15_000,
    "long without a space": "x" * 300_000,
    "emoji": "👩‍👩‍👧‍👦🇩🇪🏽",
    "right to left": "كم عدد سكان برلين؟ \u200fשלם",
    "Chinese": "柏林有多少人口",
    "combining marks": "Z̸̡̢a͑̕l̷g̵o" * 50,
    "control characters": "".join(map(chr, range(32))),
    "special tokens": "[SEP] [CLS] </s> <s> [PAD] [UNK]",
}


def test_one_float_a_pair_and_the_callers_list_stays_as_it_was(any_cross_encoder):
    assert any_cross_encoder.score([]) == []
    before = copy.deepcopy(PAIRS)
    scores = any_cross_encoder.score(PAIRS)
    assert isinstance(scores, list)
    assert [type(score) for score in scores] == [float] * len(PAIRS)
    assert scores[0] == pytest.approx(scores[-1], abs=1e-5), "equal pairs"
    assert before == PAIRS


def test_the_answer_scores_above_the_rest(any_cross_encoder):
    texts = ["The dog sleeps.", ANSWER, "Fish."]
    scores = any_cross_encoder.score([(BERLIN, text) for text in texts])
    assert max(scores) == scores[1]


def test_a_score_is_the_same_alone_and_in_any_company_and_order(any_cross_encoder):
    pairs = list(PAIRS)
    scores = {pair: any_cross_encoder.score([pair])[0] for pair in pairs}
    for seed in range(3):
        random.Random(seed).shuffle(pairs)  # noqa: S311  # the order is no secret
        expected = [scores[pair] for pair in pairs]
        assert any_cross_encoder.score(pairs) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ODD_TEXTS)
def test_odd_text_is_scored_on_both_sides(any_cross_encoder, name):
    text = ODD_TEXTS[name]
    pairs = [(BERLIN, text), (BERLIN, PASSAGES[0]), (text, PASSAGES[0])]
    scores = any_cross_encoder.score(pairs)
    assert all(abs(score) < 1e4 for score in scores), "NaN and infinity fail this too"
    assert scores[1] == pytest.approx(any_cross_encoder.score([pairs[1]])[0], abs=1e-5)


def test_what_is_not_a_pair_of_texts_is_named_by_position(our_cross_encoder):
    with pytest.raises(TypeError, match=r"passage of pair 1 .* NoneType"):
        our_cross_encoder.score([("q", "p"), ("q", None)])


async def test_it_serves_langchains_own_reranker(any_cross_encoder):
    from langchain_classic.retrievers.document_compressors import CrossEncoderReranker

    documents = [Document(text) for text in ("The dog sleeps.", "Fish swim.", ANSWER, "")]
    compressor = CrossEncoderReranker(model=any_cross_encoder, top_n=2)
    kept = await compressor.acompress_documents(documents, BERLIN)
    assert kept == compressor.compress_documents(documents, BERLIN)
    assert (len(kept), kept[0].page_content) == (2, ANSWER)
