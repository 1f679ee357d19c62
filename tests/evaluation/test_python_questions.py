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
from langchain_rerank.evaluation.loading import load_beir

FOLDER = Path(__file__).parents[2] / "notebooks" / "python_questions"
# Shorter runs of words can be the only way to say a thing.
QUOTE_WORDS = 8


@pytest.fixture(scope="module")
def queries() -> dict[str, str]:
    """The queries as plain json reads them."""
    lines = (FOLDER / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    return {record["_id"]: record["text"] for record in map(json.loads, lines)}


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    """The judgments as plain csv reads them."""
    with (FOLDER / "qrels" / "test.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.fixture(scope="module")
def qrels(rows) -> dict[str, dict[str, int]]:
    grades: dict[str, dict[str, int]] = {}
    for row in rows:
        grades.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    return grades


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def paragraphs(text: str) -> set[str]:
    """Return the paragraphs that are long enough for a repeat to be no accident."""
    squeezed = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    return {part for part in squeezed if len(part) >= 80}


def test_ids_and_texts_come_once(queries):
    lines = (FOLDER / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(queries) == len(lines) >= 60
    texts = Counter(" ".join(words(text)) for text in queries.values())
    assert [text for text, times in texts.items() if times > 1 or not text] == []


def test_judgments_have_beirs_columns_and_come_once(rows):
    assert list(rows[0]) == ["query-id", "corpus-id", "score"]
    pairs = Counter((row["query-id"], row["corpus-id"]) for row in rows)
    assert [pair for pair, times in pairs.items() if times > 1] == []


def test_every_question_has_a_full_answer(queries, qrels):
    assert set(qrels) == set(queries)
    assert [query for query, grades in qrels.items() if 2 not in grades.values()] == []
    assert {grade for grades in qrels.values() for grade in grades.values()} == {1, 2}


def test_graded_topics_are_in_this_pythons_reference(qrels):
    graded = {topic for grades in qrels.values() for topic in grades}
    assert graded - set(topics) == set()
    assert graded - {chunk.metadata["topic"] for chunk in python_reference()} == set()


def test_full_answers_are_spread_over_the_reference(qrels):
    best = {topic for grades in qrels.values() for topic in grades if grades[topic] == 2}
    assert len(best) >= 45


def test_a_topic_that_holds_another_is_graded_with_it(qrels):
    parts = {topic: paragraphs(text) for topic, text in topics.items()}
    holders = {
        topic: {other for other in parts if other != topic and parts[topic] <= parts[other]}
        for topic in parts
        if parts[topic]
    }
    assert "compound" in holders["try"]
    for query, grades in qrels.items():
        for topic in grades:
            missing = holders.get(topic, set()) - set(grades)
            assert not missing, f"{query}: {topic} is graded, its text is in {missing} as well"


def test_questions_quote_no_sentence_of_the_reference(queries):
    runs = set()
    for text in topics.values():
        tokens = words(text)
        runs |= {tuple(tokens[at : at + QUOTE_WORDS]) for at in range(len(tokens))}
    for query, text in queries.items():
        tokens = words(text)
        for at in range(len(tokens) - QUOTE_WORDS + 1):
            run = tuple(tokens[at : at + QUOTE_WORDS])
            assert run not in runs, f"{query} quotes {' '.join(run)!r}"


def test_the_loader_reads_what_plain_json_and_csv_read(queries, qrels):
    dataset = load_beir(FOLDER, load_corpus=False)
    assert dict(dataset.queries) == queries
    assert {query: dict(grades) for query, grades in dataset.qrels.items()} == qrels
    assert dataset.corpus is None
