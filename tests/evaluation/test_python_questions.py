"""The labelled questions about the Python reference: complete, and true of this Python's topics."""

from __future__ import annotations

import re
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from langchain_rerank.corpus import python_reference
from langchain_rerank.evaluation import load_beir

FOLDER = Path(__file__).parents[2] / "notebooks" / "python_questions"
# Shorter runs of words can be the only way to say a thing.
QUOTE_WORDS = 8


@pytest.fixture(scope="module")
def dataset():
    return load_beir(FOLDER, load_corpus=False)


def runs(text, size=QUOTE_WORDS):
    tokens = re.findall(r"\w+", text.lower())
    return {tuple(tokens[at : at + size]) for at in range(len(tokens) - size + 1)}


def paragraphs(text):
    """Return the paragraphs that are long enough for a repeat to be no accident."""
    squeezed = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    return {part for part in squeezed if len(part) >= 80}


def test_every_question_has_a_full_answer_in_this_pythons_reference(dataset):
    graded = dataset.qrels.values()
    lines = (FOLDER / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    distinct = {" ".join(re.findall(r"\w+", text.lower())) for text in dataset.queries.values()}
    assert len(dataset.queries) == len(lines) == len(distinct) >= 60
    assert {grade for grades in graded for grade in grades.values()} == {1, 2}
    assert all(2 in grades.values() for grades in graded)
    named = {topic for grades in graded for topic in grades}
    assert named <= {chunk.metadata["topic"] for chunk in python_reference()} <= set(topics)
    assert len({topic for grades in graded for topic in grades if grades[topic] == 2}) >= 45


def test_a_topic_that_holds_another_is_graded_with_it(dataset):
    parts = {topic: paragraphs(text) for topic, text in topics.items()}
    holders = {
        topic: {other for other in parts if other != topic and parts[topic] <= parts[other]}
        for topic in parts
        if parts[topic]
    }
    assert "compound" in holders["try"]
    for query, grades in dataset.qrels.items():
        for topic in grades:
            missing = holders.get(topic, set()) - set(grades)
            assert not missing, f"{query}: {topic} is graded, its text is in {missing} as well"


def test_questions_quote_no_sentence_of_the_reference(dataset):
    said = set().union(*map(runs, topics.values()))
    for query, text in dataset.queries.items():
        assert runs(text).isdisjoint(said), query
