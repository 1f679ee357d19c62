"""What the bench scores: real questions, data sets, synthetic pairs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from transformers import AutoTokenizer

from langchain_rerank import TorchCrossEncoder
from langchain_rerank.bench.inputs import BenchQuery, python_queries, with_candidates, with_words
from langchain_rerank.bench.synthetic import synthetic_checkpoint, synthetic_queries
from langchain_rerank.bench.systems import Models
from langchain_rerank.bench.tasks import Size, dataset_task

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of four passages and three queries, with the run of a first stage."""
    texts = {"a": "apples", "b": "bread", "c": "cake", "d": "dates"}
    corpus = [{"_id": key, "title": "", "text": text} for key, text in texts.items()]
    queries = [{"_id": str(n), "text": f"query {n}"} for n in range(3)]
    for name, lines in (("corpus", corpus), ("queries", queries)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "qrels").mkdir()
    grades = "".join(f"{n}\ta\t1\n" for n in range(3))
    (tmp_path / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{grades}")
    (tmp_path / "runs").mkdir()
    lines = [f"{n} Q0 {doc} 1 {9 - i} x" for n in range(3) for i, doc in enumerate("dcb")]
    (tmp_path / "runs" / "bm25.trec").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_python_queries_have_different_passages_and_are_the_same_every_time():
    first, second = python_queries(2, 50)
    assert len(set(first.passages)) == len(set(second.passages)) == 50
    assert first.passages != second.passages
    assert first.query != second.query
    assert python_queries(2, 50) == [first, second]
    assert first.pairs[7] == (first.query, first.passages[7])


def test_a_data_set_gives_the_best_of_its_run_in_order(folder):
    task = dataset_task(Models("any"), Size(queries=2, candidates=2), folder, run=None, qrels=None)
    assert task.queries == [
        BenchQuery("query 0", ("dates", "cake")),
        BenchQuery("query 1", ("dates", "cake")),
    ]
    assert task.judged is None
    judged = dataset_task(Models("any"), Size(), folder, run=None, qrels="test").judged
    assert judged is not None
    assert judged[0].qrels == {str(n): {"a": 1} for n in range(3)}
    assert list(judged[1]["0"]) == ["d", "c", "b"]


def test_without_a_run_passages_are_drawn_but_nothing_can_be_judged(folder):
    (folder / "runs" / "bm25.trec").unlink()
    task = dataset_task(Models("any"), Size(queries=1), folder, run=None, qrels=None)
    assert sorted(task.queries[0].passages) == ["apples", "bread", "cake", "dates"]
    with pytest.raises(ValueError, match="give --run"):
        dataset_task(Models("any"), Size(), folder, run=None, qrels="test")


def test_a_run_of_another_corpus_is_an_error(folder):
    run = folder / "other.trec"
    run.write_text("0 Q0 unknown 1 1.0 x\n")
    with pytest.raises(ValueError, match="no document of the corpus for query '0'"):
        dataset_task(Models("any"), Size(), folder, run=run, qrels=None)


def test_candidates_outside_the_corpus_do_not_cost_places(folder):
    run = folder / "other.trec"
    run.write_text("2 Q0 unknown 1 9 x\n2 Q0 b 2 8 x\n2 Q0 a 3 7 x\n2 Q0 c 4 6 x\n")
    task = dataset_task(Models("any"), Size(candidates=2), folder, run=run, qrels=None)
    assert task.queries == [BenchQuery("query 2", ("bread", "apples"))]
    run.write_text("other Q0 a 1 1.0 x\n")
    with pytest.raises(ValueError, match="answers none of the 3 judged queries"):
        dataset_task(Models("any"), Size(), folder, run=run, qrels=None)


def test_growing_inputs_have_the_size_asked():
    queries = [BenchQuery("q", ("one two three", "four")), BenchQuery("r", ("five six",))]
    many = with_candidates(queries, 7)
    assert many.query == "q"
    assert len(many.passages) == 7
    assert set(many.passages) == {"one two three", "four", "five six"}
    long = with_words(queries, 10)
    assert [len(passage.split()) for passage in long.passages] == [10, 10]


def test_synthetic_pairs_have_the_tokens_asked_and_can_be_scored():
    folder = synthetic_checkpoint("tiny")
    (query,) = synthetic_queries("tiny", 1, 5, 64)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for pair in query.pairs:
        tokens = tokenizer(*pair)["input_ids"]
        assert len(tokens) == 64
        assert tokenizer.unk_token_id not in tokens
    scores = TorchCrossEncoder(model=folder, device="cpu").score(query.pairs)
    assert len(set(scores)) == 5
    with pytest.raises(ValueError, match="expected one of the shapes v2-m3, tiny"):
        synthetic_checkpoint("huge")
