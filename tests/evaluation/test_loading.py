"""Files: BEIR folders, ir_datasets and TREC runs, and what is wrong with bad ones."""

from __future__ import annotations

import math
from types import SimpleNamespace

import hypothesis
import ir_datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document

from langchain_rerank.evaluation import load_beir, load_ir_dataset, read_run, write_run
from langchain_rerank.evaluation.measures import ranking

HEADER = "query-id\tcorpus-id\tscore\n"
LINE = "q1 Q0 d1 1 2.5 tag\n"
FILES = {
    "corpus.jsonl": (
        '{"_id": "d1", "title": "Berlin", "text": "A city.", "metadata": {"url": "x"}}\n'
        '{"_id": "d2", "title": "", "text": "A river."}\n'
        '{"_id": "d3", "text": ""}\n'
    ),
    "queries.jsonl": (
        '{"_id": "q1", "text": "Which city?"}\n'
        '{"_id": "q2", "text": "Which river?", "metadata": {}}\n'
        '{"_id": "q3", "text": "Which unjudged?"}\n'
    ),
    "qrels/test.tsv": HEADER + "q2\td2\t2\nq2\td1\t0\nq1\td1\t1\n",
    "run.trec": LINE,
}
QUERIES = {"q1": "Which city?", "q2": "Which river?"}
QRELS = {"q1": {"d1": 1}, "q2": {"d2": 2, "d1": 0}}
DOCUMENTS = [
    Document("A city.", id="d1", metadata={"title": "Berlin"}),
    Document("A river.", id="d2"),
]
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "cities"
    (root / "qrels").mkdir(parents=True)
    for name, content in FILES.items():
        (root / name).write_text(content)
    return root


def test_a_beir_folder_becomes_judged_queries_and_documents(folder):
    dataset = load_beir(folder)
    assert (dataset.queries, dataset.qrels, list(dataset.qrels)) == (QUERIES, QRELS, ["q2", "q1"])
    assert dataset.documents == [*DOCUMENTS, Document("", id="d3")]
    assert repr(dataset) == "Dataset('cities/test', queries=2, judgments=3, documents=3)"


@pytest.mark.parametrize(
    ("qrels", "expected"),
    [
        ("\ufeff" + HEADER.replace("\n", "\r\n") + "q1\td3\t1\r\n", {"q1": {"d3": 1}}),
        ("q1 0 d2 3\nq2 0 d1 -1\n", {"q1": {"d2": 3}, "q2": {"d1": -1}}),
        ("q1\tQ0\td1\t1\t\nq1\tQ0\td2\t0\t\t\n", {"q1": {"d1": 1, "d2": 0}}),
        ("q1\td1\t1\nq1\td2\t0\nq1\td1\t1\n", {"q1": {"d1": 1, "d2": 0}}),
        ("q1\td1\t 1 \nq1\td2\t+0\n", {"q1": {"d1": 1, "d2": 0}}),
    ],
)
def test_judgments_of_either_layout_with_the_oddities_of_published_files(folder, qrels, expected):
    (folder / "qrels" / "odd.tsv").write_text(qrels, newline="")
    assert load_beir(folder, "odd").qrels == expected
    assert load_beir(folder, folder / "qrels" / "odd.tsv").qrels == expected


def test_a_corpus_can_be_left_out_or_be_a_part_and_missing_files_are_named(folder):
    (folder / "qrels/test.tsv").write_text(HEADER + "q1\td1\t1\nq1\telsewhere\t3\n")
    expected = {"q1": {"d1": 1, "elsewhere": 3}}
    assert load_beir(folder, partial_corpus=True).qrels == expected
    with pytest.raises(ValueError, match=r"test\.tsv, line 3: .*'elsewhere'.*partial_corpus=True"):
        load_beir(folder)
    (folder / "corpus.jsonl").unlink()
    assert load_beir(folder, load_corpus=False).qrels == expected
    with pytest.raises(ValueError, match=r"dev\.tsv.*qrels='dev'; there are: test"):
        load_beir(folder, "dev")
    with pytest.raises(ValueError, match=r"no file .*corpus\.jsonl"):
        load_beir(folder)
    with pytest.raises(ValueError, match="there are: none"):
        load_beir(folder / "elsewhere")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("corpus.jsonl", '{"_id": "d1", "text": "a"}\n{"_id"', "line 2: .*delimiter"),
        ("corpus.jsonl", "[1]\n", "line 1: expected a JSON object, got a list"),
        ("corpus.jsonl", '{"_id": "d", "text": "\0"}', "line 1: Invalid control"),
        ("corpus.jsonl", '{"_id": "d", "text": ' + DEEP + "}", "line 1: maximum recursion"),
        ("corpus.jsonl", '{"_id": "d", "text": ' + "9" * 5000 + "}", "line 1: Exceeds the limit"),
        ("corpus.jsonl", '{"_id": "d1"}\n', r"line 1: expected .*'text', got only \['_id'\]"),
        ("corpus.jsonl", '\n{"text": "a"}\n', "line 2: expected .*'_id', got only"),
        ("corpus.jsonl", '{"_id": 1.5, "text": "a"}\n', "line 1: .*string.*'_id', got float"),
        ("corpus.jsonl", '{"_id": "", "text": "a"}\n', "line 1: expected an id"),
        ("corpus.jsonl", r'{"_id": "d\ud800", "text": "a"}', "line 1: .*lone surrogates"),
        ("corpus.jsonl", '{"_id": "d", "title": 5, "text": "a"}\n', "line 1: .*'title', got int"),
        ("corpus.jsonl", FILES["corpus.jsonl"] * 2, "line 4: .*no earlier line has, got 'd1'"),
        ("corpus.jsonl", "", "got a file without any"),
        ("corpus.jsonl", b'{"_id": "\xff"}', "line 1: 'utf-8' codec"),
        ("queries.jsonl", '{"_id": "q1", "text": " "}\n', "line 1: query 'q1' must hold text"),
        ("queries.jsonl", '{"_id": "q1", "text": null}\n', "line 1: .*'text', got NoneType"),
        ("qrels/test.tsv", HEADER, "got a file without any"),
        ("qrels/test.tsv", HEADER + "q1\td1\t1\nq9\td1\t1\n", "line 3: the query 'q9' is not in"),
        ("qrels/test.tsv", HEADER + "q1\td9\t1\n", "line 2: .*names the document 'd9'"),
        ("qrels/test.tsv", HEADER + "q1\td1\t1.5\n", r"line 2: invalid literal.*'1\.5'"),
        ("qrels/test.tsv", "q1\td1\t" + "9" * 5000, "line 1: Exceeds the limit"),
        ("qrels/test.tsv", f"q1\td1\t{2**62}\n", "line 1: grade of document 'd1' .*at most 1,000"),
        ("qrels/test.tsv", "q1\td1\t\n", "line 1: expected query id.* got 2 columns"),
        ("qrels/test.tsv", "q1\td1\t1\te\tm\n", "line 1: .*got 5 columns"),
        ("qrels/test.tsv", "q1\td1\t1\n\nq1\td1\t0\t\n", "line 3: .*judged twice.*: 1, then 0"),
        ("run.trec", LINE + "q1 Q0 d2 2 1.5\n", "line 2: expected the 6 columns.* got 'q1 Q0 d2"),
        ("run.trec", LINE + "\nq1 Q0 d2 2 high tag\n", "line 3: could not convert .*'high'"),
        ("run.trec", LINE + "q1 Q0 d2 2 nan tag\n", "line 2: expected a number as score .*, got N"),
        ("run.trec", LINE * 2, "line 2: document 'd1' stands twice for query 'q1'"),
        ("run.trec", "\n \n", "expected results in TREC's format, got a file without any"),
        ("run.trec", b"q Q0 \xed\xa0\x80 1 1.0 t", "line 1: 'utf-8' codec"),
        ("run.trec", b"q Q0 d 1 \0 t", "line 1: could not convert"),
    ],
)
def test_a_bad_line_is_one_error_that_names_it(folder, name, content, message):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as error:
        read_run(path) if name == "run.trec" else load_beir(folder)
    assert str(path) in str(error.value)


class Doc(SimpleNamespace):
    def default_text(self):
        return f"{self.heading} {self.body}"


class Docs(ir_datasets.formats.BaseDocs):
    def docs_iter(self):
        yield Doc(doc_id="d1", text="A city.", title="Berlin")
        yield Doc(doc_id="d2", text="A river.", title="")
        yield Doc(doc_id="d3", heading="Spree", body="Another river.")


def test_an_ir_dataset_becomes_judged_queries_and_documents_with_their_titles(tmp_path):
    name, files = f"local-{tmp_path.name}", {}
    for part, content in (
        ("queries_tsv", "q1\tWhich city?\nq2\tWhich river?\nq3\tWhich unjudged?\n"),
        ("qrels_trec", "q2 0 d2 2\nq2 0 d1 0\nq1 0 d1 1\n"),
    ):
        (tmp_path / part).write_text(content)
        files[part] = str(tmp_path / part)
    parts = [ir_datasets.create_dataset(**files), Docs()]
    ir_datasets.registry.register(name, ir_datasets.datasets.base.Dataset(*parts))

    dataset = load_ir_dataset(name)

    assert (dataset.queries, dataset.qrels, dataset.name) == (QUERIES, QRELS, name)
    assert dataset.documents == [*DOCUMENTS[:2], Document("Spree Another river.", id="d3")]
    assert load_ir_dataset(name, load_corpus=False).corpus is None
    ir_datasets.registry._registered.pop(name)
    with pytest.raises(ValueError, match=r"expected an id that ir_datasets knows.*'no/such'"):
        load_ir_dataset("no/such")
    with pytest.raises(ValueError, match="ir_datasets has not all of 'beir'"):
        load_ir_dataset("beir")


words = st.text(min_size=1).filter(lambda text: text.split() == [text]).filter(str.isprintable)
results = st.dictionaries(words, st.floats(allow_nan=False), min_size=1)


@hypothesis.settings(max_examples=50)
@given(run=st.dictionaries(words, results, min_size=1), tag=words)
def test_a_run_reads_back_as_it_was_written_best_first(run, tag, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run.trec"
    write_run(path, run, tag=tag)
    back = read_run(path)
    assert (back, list(back)) == (run, list(run))
    assert [list(found) for found in back.values()] == [ranking(run[query]) for query in run]


def test_the_file_is_what_trec_eval_and_ir_measures_read(tmp_path):
    path = tmp_path / "run.trec"
    write_run(path, {"q2": {"low": -1.0, "high": 0.1 + 0.2}, "none": {}, "q1": {"only": 3}})
    assert path.read_text(encoding="utf-8") == (
        "q2 Q0 high 1 0.30000000000000004 langchain_rerank\n"
        "q2 Q0 low 2 -1.0 langchain_rerank\n"
        "q1 Q0 only 1 3.0 langchain_rerank\n"
    )
    path.write_bytes(b"\xef\xbb\xbfq1\tQ0\tx\0a\t1\t2.5\ttag\r\nq1 Q0 x\0b 2 inf t\n")
    assert read_run(path) == {"q1": {"x\0b": math.inf, "x\0a": 2.5}}


@pytest.mark.parametrize(
    ("run", "tag", "message"),
    [
        ({"q": {"ok": 2.0, "two words": 1.0}}, "t", "document id of one word.*'two words'"),
        ({"q": {"ok": 1.0}, "": {"d": 1.0}}, "t", "query id of one word"),
        ({"q": {"\ud800": 1.0}}, "t", "document id of one word of UTF-8"),
        ({"q": {"ok": 1.0}}, "a\u00a0b", "tag of one word"),
        ({}, "a b", "tag of one word"),
        ({"a b": {}}, "t", "query id of one word"),
        ({"q": {"ok": 1.0, "bad": math.nan}}, "t", "document 'bad', got NaN"),
    ],
)
def test_what_the_format_can_not_carry_leaves_the_old_file(tmp_path, run, tag, message):
    path = tmp_path / "run.trec"
    path.write_text(LINE)
    with pytest.raises(ValueError, match=message):
        write_run(path, run, tag=tag)
    assert path.read_text() == LINE
    assert list(tmp_path.iterdir()) == [path]
