"""Data sets from BEIR folders, ir_datasets and lists, and what is wrong with bad ones."""

from __future__ import annotations

from typing import NamedTuple

import ir_datasets
import pytest
from langchain_core.documents import Document

from langchain_rerank.chroma import document_id
from langchain_rerank.evaluation.datasets import Dataset
from langchain_rerank.evaluation.loading import load_beir, load_ir_dataset

HEADER = "query-id\tcorpus-id\tscore\n"
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
}
QUERIES = {"q1": "Which city?", "q2": "Which river?"}
QRELS = {"q1": {"d1": 1}, "q2": {"d2": 2, "d1": 0}}


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "cities"
    for name, content in FILES.items():
        write(root / name, content)
    return root


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def test_a_beir_folder_becomes_judged_queries_and_documents(folder):
    dataset = load_beir(folder)

    assert dataset.queries == QUERIES
    assert dataset.qrels == QRELS
    assert list(dataset.qrels) == ["q2", "q1"]
    assert dataset.documents == [
        Document("A city.", id="d1", metadata={"title": "Berlin"}),
        Document("A river.", id="d2"),
        Document("", id="d3"),
    ]
    assert repr(dataset) == "Dataset('cities/test': 2 queries, 3 judgments, 3 documents)"


def test_judgments_can_be_named_or_a_path_in_either_layout(folder, tmp_path):
    write(folder / "qrels" / "dev.tsv", "\ufeff" + HEADER.replace("\n", "\r\n") + "q1\td3\t1\r\n")
    trec = tmp_path / "judged.txt"
    write(trec, "q1 0 d2 3\nq2 0 d1 -1\n")

    assert load_beir(folder, "dev").qrels == {"q1": {"d3": 1}}
    assert load_beir(folder, trec).qrels == {"q1": {"d2": 3}, "q2": {"d1": -1}}


def test_without_corpus_neither_its_file_nor_its_ids_are_asked_for(folder):
    (folder / "corpus.jsonl").unlink()
    write(folder / "qrels/test.tsv", HEADER + "q1\telsewhere\t1\n")

    dataset = load_beir(folder, load_corpus=False)

    assert dataset.qrels == {"q1": {"elsewhere": 1}}
    with pytest.raises(ValueError, match="without a corpus"):
        _ = dataset.documents


def test_a_partial_corpus_keeps_judgments_of_documents_it_lacks(folder):
    write(folder / "qrels/test.tsv", HEADER + "q1\td1\t1\nq1\telsewhere\t3\n")

    dataset = load_beir(folder, partial_corpus=True)

    assert dataset.qrels == {"q1": {"d1": 1, "elsewhere": 3}}
    assert dataset.subset(["q1"]).qrels == dataset.qrels
    with pytest.raises(ValueError, match=r"test\.tsv, line 3: .*'elsewhere'.*partial_corpus=True"):
        load_beir(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("corpus.jsonl", '{"_id": "d1", "text": "a"}\n{"_id"', "line 2: expected a JSON object"),
        ("corpus.jsonl", "[1]\n", "line 1: expected a JSON object, got a list"),
        ("corpus.jsonl", '{"_id": "d1"}\n', r"line 1: expected the field 'text'.*\['_id'\]"),
        ("corpus.jsonl", '\n{"text": "a"}\n', "line 2: expected the field '_id'"),
        ("corpus.jsonl", '{"_id": 1, "text": "a"}\n', "line 1: expected a string.*'_id', got int"),
        ("corpus.jsonl", '{"_id": "", "text": "a"}\n', "line 1: expected an id"),
        ("corpus.jsonl", '{"_id": "d", "title": 5, "text": "a"}\n', "line 1: .*'title', got int"),
        (
            "corpus.jsonl",
            FILES["corpus.jsonl"] + '{"_id": "d1", "text": "b"}\n',
            "line 4: the id 'd1' stands in an earlier line",
        ),
        ("corpus.jsonl", "", "got an empty file"),
        ("corpus.jsonl", b'{"_id": "\xff"}', "line 1: expected UTF-8"),
        ("queries.jsonl", '{"_id": "q1", "text": " "}\n', "line 1: query 'q1' must hold text"),
        ("queries.jsonl", '{"_id": "q1", "text": null}\n', "line 1: .*'text', got NoneType"),
        ("queries.jsonl", FILES["queries.jsonl"] * 2, "line 4: the id 'q1'"),
        ("queries.jsonl", "\n\n", "got an empty file"),
        ("qrels/test.tsv", HEADER, "got a file without any"),
        ("qrels/test.tsv", HEADER + "q1\td1\t1\nq9\td1\t1\n", "line 3: the query 'q9' is not in"),
        ("qrels/test.tsv", HEADER + "q1\td9\t1\n", "line 2: names the document 'd9'"),
        ("qrels/test.tsv", HEADER + "q1\td1\t1.5\n", "line 2: expected a whole number.*'1.5'"),
        ("qrels/test.tsv", "query\tdoc\tgrade\n", "line 1: expected a whole number.*'grade'"),
        ("qrels/test.tsv", HEADER + "q1\td1\n", "line 2: expected query id.* got 2 columns"),
    ],
)
def test_a_bad_line_is_one_error_that_names_it(folder, name, content, message):
    write(folder / name, content)

    with pytest.raises(ValueError, match=message) as error:
        load_beir(folder)

    assert str(folder / name) in str(error.value)


def test_missing_files_are_named_with_what_there_is(folder):
    with pytest.raises(ValueError, match=r"dev\.tsv.*qrels='dev'; there are: test"):
        load_beir(folder, "dev")
    (folder / "queries.jsonl").unlink()
    with pytest.raises(ValueError, match=r"no file .*queries\.jsonl"):
        load_beir(folder)
    with pytest.raises(ValueError, match="there are none"):
        load_beir(folder / "elsewhere")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"queries": {}}, ValueError, "queries must not be empty"),
        ({"qrels": {}}, ValueError, "qrels must not be empty"),
        ({"corpus": {}}, ValueError, "corpus must not be empty"),
        ({"queries": ["Which?"]}, TypeError, "queries must be a mapping by id, got list"),
        ({"queries": {**QUERIES, "q4": "\n"}}, ValueError, "query 'q4' must hold text"),
        ({"queries": {**QUERIES, "q4": 4}}, TypeError, "query 'q4' must be a str, got int"),
        ({"qrels": {"q4": {"d1": 1}}}, ValueError, "the query 'q4', which is not in queries"),
        ({"qrels": {"q1": {"d4": 1}}}, ValueError, "query 'q1' name the document 'd4'"),
        ({"qrels": {"q1": {"d1": 1.0}}}, TypeError, "'d1' for query 'q1' must be an int, got fl"),
        ({"corpus": {"d1": "A city."}}, TypeError, "document 0 must be a Document"),
        ({"corpus": {"d1": Document("x")}, "partial_corpus": True}, ValueError, "id 'd1'.*None"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, error, message):
    corpus = {key: Document(key, id=key) for key in ("d1", "d2")}

    with pytest.raises(error, match=message):
        Dataset(**{"queries": QUERIES, "qrels": QRELS, "corpus": corpus, **change})


def test_questions_from_lists_take_the_ids_that_the_index_gives():
    documents = [Document("A city.", metadata={"source": "a"}), Document("A river.", id="river")]
    before = [document.model_copy(deep=True) for document in documents]
    city = document_id(documents[0])

    dataset = Dataset.from_questions(
        [("Which city?", [city]), ("Which river?", {"river": 3, city: 0})], documents
    )

    assert dataset.queries == {"1": "Which city?", "2": "Which river?"}
    assert dataset.qrels == {"1": {city: 1}, "2": {"river": 3, city: 0}}
    assert [document.id for document in dataset.documents] == [city, "river"]
    assert documents == before


def test_questions_from_lists_are_checked():
    twins = [Document("one", id="a"), Document("two", id="a")]

    with pytest.raises(ValueError, match="document 1 has the id 'a'"):
        Dataset.from_questions([("Which?", ["a"])], twins)
    with pytest.raises(TypeError, match="question 2 must be a list or dict, got a str"):
        Dataset.from_questions([("Which?", ["a"]), ("Who?", "a")])
    with pytest.raises(ValueError, match="'elsewhere'"):
        Dataset.from_questions([("Which?", ["elsewhere"])], twins[:1])


@pytest.fixture
def hundred():
    return Dataset.from_questions([(f"Question {i}?", [f"d{i}"]) for i in range(100)], name="many")


def test_a_split_parts_the_queries_at_random_and_the_same_each_time(hundred):
    first, second = hundred.split(0.3, seed=1)

    assert (len(first.qrels), len(second.qrels)) == (30, 70)
    assert first.queries | second.queries == hundred.queries
    assert first.qrels | second.qrels == hundred.qrels
    assert list(first.qrels) == sorted(first.qrels, key=int)
    assert list(first.qrels) != list(hundred.qrels)[:30]
    assert hundred.split(0.3, seed=1) == (first, second)
    assert hundred.split(0.3, seed=2)[0] != first


@pytest.mark.parametrize("fraction", [0, 1, 0.001, -0.5, 1.5])
def test_a_split_leaves_no_part_empty(hundred, fraction):
    with pytest.raises(ValueError, match=f"both parts.* got {fraction}"):
        hundred.split(fraction)


def test_a_subset_holds_the_named_queries_and_the_whole_corpus(folder):
    dataset = load_beir(folder)

    part = dataset.subset(["q1"])

    assert (part.queries, part.qrels) == ({"q1": "Which city?"}, {"q1": {"d1": 1}})
    assert part.corpus == dataset.corpus
    with pytest.raises(ValueError, match="'q3', which is none"):
        dataset.subset(["q3"])


def test_judged_queries_are_those_with_a_grade_of_any_height():
    dataset = Dataset(QUERIES, {"q2": {}, "q1": {"d1": 0}})

    assert (dataset.judged().queries, dataset.judged().qrels) == (
        {"q1": "Which city?"},
        {"q1": {"d1": 0}},
    )
    with pytest.raises(ValueError, match=r"no query of Dataset\(2 queries.* has a judgment"):
        Dataset(QUERIES, {"q2": {}}).judged()


class TitledDoc(NamedTuple):
    doc_id: str
    text: str
    title: str


class FieldedDoc(NamedTuple):
    doc_id: str
    title: str
    body: str

    def default_text(self):
        return f"{self.title} {self.body}"


class Docs(ir_datasets.formats.BaseDocs):
    def __init__(self, *docs):
        self.docs = docs

    def docs_iter(self):
        return iter(self.docs)


@pytest.fixture
def register(tmp_path):
    """Register a data set of local files and, if given, of documents; returns its id."""
    write(tmp_path / "docs.tsv", "d1\tA city.\nd2\tA river.\n")
    write(tmp_path / "queries.tsv", "q1\tWhich city?\nq2\tWhich river?\nq3\tWhich unjudged?\n")
    name = f"local-{tmp_path.name}"

    def registered(*docs, qrels="q2 0 d2 2\nq2 0 d1 0\nq1 0 d1 1\n"):
        write(tmp_path / "qrels", qrels)
        files = {"queries_tsv": tmp_path / "queries.tsv", "qrels_trec": tmp_path / "qrels"}
        if not docs:
            files["docs_tsv"] = tmp_path / "docs.tsv"
        source = ir_datasets.create_dataset(**{key: str(path) for key, path in files.items()})
        parts = [source, Docs(*docs)] if docs else [source]
        ir_datasets.registry.register(name, ir_datasets.datasets.base.Dataset(*parts))
        return name

    yield registered
    ir_datasets.registry._registered.pop(name, None)


def test_an_ir_dataset_becomes_judged_queries_and_documents(register):
    name = register()

    dataset = load_ir_dataset(name)

    assert (dataset.queries, dataset.qrels, dataset.name) == (QUERIES, QRELS, name)
    assert dataset.documents == [Document("A city.", id="d1"), Document("A river.", id="d2")]
    assert load_ir_dataset(name, load_corpus=False).corpus is None


def test_titles_of_an_ir_dataset_stand_apart_where_it_keeps_them_apart(register):
    name = register(
        TitledDoc("d1", "A city.", "Berlin"),
        TitledDoc("d2", "A river.", ""),
        FieldedDoc("d3", "Spree", "Another river."),
    )

    assert load_ir_dataset(name).documents == [
        Document("A city.", id="d1", metadata={"title": "Berlin"}),
        Document("A river.", id="d2"),
        Document("Spree Another river.", id="d3"),
    ]


def test_ir_datasets_that_can_not_be_used_are_refused(register):
    name = register(qrels="q1 0 d1 1\nq1 0 d1 2\n")

    with pytest.raises(ValueError, match="judges 'd1' twice for query 'q1'"):
        load_ir_dataset(name)
    with pytest.raises(ValueError, match=r"expected an id that ir_datasets knows.*'no/such'"):
        load_ir_dataset("no/such")
    with pytest.raises(ValueError, match="ir_datasets has no queries for 'beir'"):
        load_ir_dataset("beir")
