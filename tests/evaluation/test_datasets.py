"""Data sets from BEIR folders, ir_datasets and lists, and what is wrong with bad ones."""

from __future__ import annotations

from collections import namedtuple

import ir_datasets
import pytest
from langchain_core.documents import Document

from langchain_rerank.chroma import document_id
from langchain_rerank.evaluation import Dataset, load_beir, load_ir_dataset

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
    assert dataset.documents == [
        Document("A city.", id="d1", metadata={"title": "Berlin"}),
        Document("A river.", id="d2"),
        Document("", id="d3"),
    ]
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


def test_a_corpus_can_be_left_out_or_be_a_part(folder):
    (folder / "qrels/test.tsv").write_text(HEADER + "q1\td1\t1\nq1\telsewhere\t3\n")
    expected = {"q1": {"d1": 1, "elsewhere": 3}}

    part = load_beir(folder, partial_corpus=True)
    assert part.subset(["q1"]).qrels == part.qrels == expected
    with pytest.raises(ValueError, match=r"test\.tsv, line 3: .*'elsewhere'.*partial_corpus=True"):
        load_beir(folder)
    (folder / "corpus.jsonl").unlink()
    dataset = load_beir(folder, load_corpus=False)
    assert dataset.qrels == expected
    with pytest.raises(ValueError, match="without a corpus"):
        _ = dataset.documents


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("corpus", '{"_id": "d1", "text": "a"}\n{"_id"', "line 2: expected a JSON object"),
        ("corpus", "[1]\n", "line 1: expected a JSON object, got a list"),
        ("corpus", "NaN", "line 1: expected a JSON object, got a float"),
        ("corpus", '{"_id": "d", "text": "\0"}', "line 1: expected a JSON object"),
        ("corpus", '{"_id": "d", "text": ' + DEEP + "}", "line 1: expected a JSON object"),
        ("corpus", '{"_id": "d", "text": ' + "9" * 5000 + "}", "line 1: expected a JSON object"),
        ("corpus", '{"_id": "d1"}\n', r"line 1: expected the field 'text'.*\['_id'\]"),
        ("corpus", '\n{"text": "a"}\n', "line 2: expected the field '_id'"),
        ("corpus", '{"_id": 1.5, "text": "a"}\n', "line 1: expected a string.*'_id', got float"),
        ("corpus", '{"_id": "", "text": "a"}\n', "line 1: expected an id"),
        ("corpus", r'{"_id": "d\u0000", "text": "a"}', r"line 1: .*without NUL.*'d.x00'"),
        ("corpus", r'{"_id": "d\ud800", "text": "a"}', "line 1: .*lone surrogates"),
        ("corpus", '{"_id": "d", "title": 5, "text": "a"}\n', "line 1: .*'title', got int"),
        ("corpus", FILES["corpus.jsonl"] + '{"_id": "d1", "text": "b"}', "line 4: the id 'd1'"),
        ("corpus", "", "got an empty file"),
        ("corpus", b'{"_id": "\xff"}', "line 1: expected UTF-8"),
        ("queries", '{"_id": "q1", "text": " "}\n', "line 1: query 'q1' must hold text"),
        ("queries", '{"_id": "q1", "text": null}\n', "line 1: .*'text', got NoneType"),
        ("queries", FILES["queries.jsonl"] * 2, "line 4: the id 'q1'"),
        ("qrels", HEADER, "got a file without any"),
        ("qrels", HEADER + "q1\td1\t1\nq9\td1\t1\n", "line 3: the query 'q9' is not in"),
        ("qrels", HEADER + "q1\td9\t1\n", "line 2: .*names the document 'd9'"),
        ("qrels", HEADER + "q1\td1\t1.5\n", "line 2: expected a whole number.*'1.5'"),
        ("qrels", "query\tdoc\tgrade\n", "line 1: expected a whole number.*'grade'"),
        ("qrels", "q1\td1\t" + "9" * 5000, "line 1: expected a whole number"),
        ("qrels", f"q1\td1\t{2**62}\n", "line 1: grade of document 'd1' .*at most 1,000,000"),
        ("qrels", "q1\td1\t\n", "line 1: expected query id.* got 2 columns"),
        ("qrels", "q1\td1\t1\textra\tmore\n", "line 1: .*got 5 columns"),
        ("qrels", "q1\td1\t1\n\nq1\td1\t0\t\n", "line 3: .*'d1' is judged twice.* 1 .* 0 here"),
    ],
)
def test_a_bad_line_is_one_error_that_names_it(folder, name, content, message):
    path = folder / ("qrels/test.tsv" if name == "qrels" else f"{name}.jsonl")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(ValueError, match=message) as error:
        load_beir(folder)

    assert str(path) in str(error.value)


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
        ({"qrels": {"q1": {"d4": 1}}}, ValueError, "query 'q1' names the document 'd4'"),
        ({"qrels": {"q1": {"d1": 1.0}}}, TypeError, "'d1' for query 'q1' must be an int, got fl"),
        ({"qrels": {"q1": {"d1": 2**62}}}, ValueError, "at most 1,000,000"),
        ({"qrels": {"q1": {"d1": -(2**70)}}}, ValueError, "at most 1,000,000"),
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


def test_a_split_parts_the_queries_at_random_and_the_same_each_time():
    hundred = Dataset.from_questions([(f"Question {i}?", [f"d{i}"]) for i in range(100)])
    first, second = hundred.split(0.3, seed=1)

    assert (len(first.qrels), len(second.qrels)) == (30, 70)
    assert first.queries | second.queries == hundred.queries
    assert first.qrels | second.qrels == hundred.qrels
    assert list(first.qrels) == sorted(first.qrels, key=int) != list(hundred.qrels)[:30]
    assert hundred.split(0.3, seed=1) == (first, second)
    assert hundred.split(0.3, seed=2)[0] != first
    for fraction in (0, 1, 0.001, -0.5, 1.5):
        with pytest.raises(ValueError, match=f"both parts.* got {fraction}"):
            hundred.split(fraction)


def test_subsets_and_judged_queries():
    dataset = Dataset(QUERIES, {"q2": {}, "q1": {"d1": 0}}, {"d1": Document("x", id="d1")})

    assert dataset.judged() == dataset.subset(["q1"])
    assert (dataset.judged().qrels, dataset.judged().corpus) == ({"q1": {"d1": 0}}, dataset.corpus)
    with pytest.raises(ValueError, match="'q3', which is none"):
        dataset.subset(["q3"])
    with pytest.raises(ValueError, match=r"no query of Dataset\(.* has a judgment"):
        Dataset(QUERIES, {"q2": {}}).judged()


class FieldedDoc(namedtuple("FieldedDoc", "doc_id title body")):  # noqa: PYI024, SLOT002  # as ir_datasets'
    def default_text(self):
        return f"{self.title} {self.body}"


class Docs(ir_datasets.formats.BaseDocs):
    def __init__(self, *docs):
        self.docs = docs

    def docs_iter(self):
        return iter(self.docs)


@pytest.fixture
def register(tmp_path):
    """Registers a data set of local files and of documents; returns its id."""
    queries = tmp_path / "queries.tsv"
    queries.write_text("q1\tWhich city?\nq2\tWhich river?\nq3\tWhich unjudged?\n")
    name = f"local-{tmp_path.name}"

    def registered(*docs, qrels="q2 0 d2 2\nq2 0 d1 0\nq1 0 d1 1\n"):
        (tmp_path / "qrels").write_text(qrels)
        files = {"queries_tsv": str(queries), "qrels_trec": str(tmp_path / "qrels")}
        parts = [ir_datasets.create_dataset(**files), Docs(*docs)]
        ir_datasets.registry.register(name, ir_datasets.datasets.base.Dataset(*parts))
        return name

    yield registered
    ir_datasets.registry._registered.pop(name, None)


def test_an_ir_dataset_becomes_judged_queries_and_documents_with_their_titles(register):
    titled = namedtuple("TitledDoc", "doc_id text title")  # noqa: PYI024  # as ir_datasets'
    docs = [titled("d1", "A city.", "Berlin"), titled("d2", "A river.", "")]
    name = register(*docs, FieldedDoc("d3", "Spree", "Another river."))

    dataset = load_ir_dataset(name)

    assert (dataset.queries, dataset.qrels, dataset.name) == (QUERIES, QRELS, name)
    assert dataset.documents == [
        Document("A city.", id="d1", metadata={"title": "Berlin"}),
        Document("A river.", id="d2"),
        Document("Spree Another river.", id="d3"),
    ]
    assert load_ir_dataset(name, load_corpus=False).corpus is None


def test_ir_datasets_that_can_not_be_used_are_refused(register):
    with pytest.raises(ValueError, match="'d1' is judged twice for query 'q1'"):
        load_ir_dataset(register(qrels="q1 0 d1 1\nq1 0 d1 2\n"))
    with pytest.raises(ValueError, match=r"expected an id that ir_datasets knows.*'no/such'"):
        load_ir_dataset("no/such")
    with pytest.raises(ValueError, match="ir_datasets has no queries for 'beir'"):
        load_ir_dataset("beir")
