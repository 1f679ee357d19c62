"""The labelled questions about the Python reference: complete, and true of this Python's topics."""

from __future__ import annotations

import re
from pathlib import Path
from pydoc_data.topics import topics

from langchain_rerank.corpus import python_reference
from langchain_rerank.evaluation import load_beir

FOLDER = Path(__file__).parents[2] / "notebooks" / "python_questions"
DATASET = load_beir(FOLDER, load_corpus=False)


def test_every_question_has_a_full_answer_in_this_pythons_reference():
    graded = DATASET.qrels.values()
    lines = (FOLDER / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    distinct = {" ".join(re.findall(r"\w+", text.lower())) for text in DATASET.queries.values()}
    assert len(DATASET.queries) == len(lines) == len(distinct) >= 60
    assert {grade for grades in graded for grade in grades.values()} == {1, 2}
    assert all(2 in grades.values() for grades in graded)
    named = {topic for grades in graded for topic in grades}
    assert named <= {chunk.metadata["topic"] for chunk in python_reference()} <= set(topics)
    assert len({topic for grades in graded for topic in grades if grades[topic] == 2}) >= 45


def test_a_topic_that_holds_another_is_graded_with_it():
    # Paragraphs that are long enough for a repeat to be no accident.
    parts = {
        topic: {
            one for part in re.split(r"\n\s*\n", text) if len(one := " ".join(part.split())) > 79
        }
        for topic, text in topics.items()
    }
    assert parts["try"] <= parts["compound"]
    for query, grades in DATASET.qrels.items():
        for topic in grades:
            holders = {one for one in parts if parts[topic] and parts[topic] <= parts[one]}
            assert holders <= {topic, *grades}, f"{query}: the text of {topic} is in others as well"


def test_questions_quote_no_sentence_of_the_reference():
    def runs(text, size=8):
        tokens = re.findall(r"\w+", text.lower())
        return {tuple(tokens[at : at + size]) for at in range(len(tokens) - size + 1)}

    # Shorter runs of words can be the only way to say a thing.
    said = set().union(*map(runs, topics.values()))
    for query, text in DATASET.queries.items():
        assert runs(text).isdisjoint(said), query
