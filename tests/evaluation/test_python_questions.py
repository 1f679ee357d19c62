"""The labelled questions about the Python reference: complete, and true of this Python's topics."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
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


def runs(text, size):
    tokens = re.findall(r"\w+", text.lower())
    return {tuple(tokens[at : at + size]) for at in range(len(tokens) - size + 1)}


def paragraphs(text):
    """Return the paragraphs that are long enough for a repeat to be no accident."""
    squeezed = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    return {part for part in squeezed if len(part) >= 80}


def test_the_loader_reads_what_plain_json_and_csv_read_each_once(dataset):
    lines = (FOLDER / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    queries = {record["_id"]: record["text"] for record in map(json.loads, lines)}
    with (FOLDER / "qrels" / "test.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))

    assert dataset.queries == queries
    assert len(queries) == len(lines) >= 60
    texts = Counter(" ".join(re.findall(r"\w+", text.lower())) for text in queries.values())
    assert [text for text, times in texts.items() if times > 1 or not text] == []
    judged = [(query, one, grade) for query, g in dataset.qrels.items() for one, grade in g.items()]
    columns = ("query-id", "corpus-id", "score")
    assert Counter((q, one, str(grade)) for q, one, grade in judged) == Counter(
        tuple(row[column] for column in columns) for row in rows
    )


def test_every_question_has_a_full_answer_in_this_pythons_reference(dataset):
    graded = dataset.qrels.values()
    assert set(dataset.qrels) == set(dataset.queries)
    assert {grade for grades in graded for grade in grades.values()} == {1, 2}
    assert all(2 in grades.values() for grades in graded)
    named = {topic for grades in graded for topic in grades}
    assert named <= {chunk.metadata["topic"] for chunk in python_reference()} <= set(topics)
    best = {topic for grades in graded for topic in grades if grades[topic] == 2}
    assert len(best) >= 45


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
    said = set().union(*(runs(text, QUOTE_WORDS) for text in topics.values()))
    for query, text in dataset.queries.items():
        assert runs(text, QUOTE_WORDS).isdisjoint(said), query
