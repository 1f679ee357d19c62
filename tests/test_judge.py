"""Judging generated questions by single keys, and the folder that it works on."""

from __future__ import annotations

import pytest
from langchain_core.documents import Document
from typer.testing import CliRunner

from langchain_rerank.cli import app
from langchain_rerank.evaluation import Dataset, load_beir, write_beir
from langchain_rerank.ui import save_labels

DATA = Dataset.from_questions(
    [("Which city?", ["a"]), ("Which \ud83d river?", {"b": 2, "a": 0}), ("What?", ["c"])],
    [
        Document("Berlin\tis a\ncity.", id="a", metadata={"title": "Berlin", "page": 1}),
        Document("The Spree \x00 flows.", id="b"),
        Document("¿Qué?", id="c"),
    ],
)


@pytest.fixture
def folder(tmp_path):
    write_beir(DATA, tmp_path / "made" / "here")
    return tmp_path / "made" / "here"


def judge(folder, keys):
    done = CliRunner().invoke(app, ["judge", str(folder)], input=keys)
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def test_a_data_set_is_read_as_it_was_written_or_stays_where_an_id_fits_no_column(folder):
    read = load_beir(folder)
    assert (read.queries, read.qrels) == (DATA.queries, DATA.qrels)
    assert [(one.id, one.page_content, one.metadata) for one in read.documents] == [
        ("a", "Berlin\tis a\ncity.", {"title": "Berlin"}),
        ("b", "The Spree \x00 flows.", {}),
        ("c", "¿Qué?", {}),
    ]
    for key in ("a\tb", "a\n", "a\x85b"):
        wrong = Dataset.from_questions([("Which?", [key])], [Document("text", id=key)])
        with pytest.raises(ValueError, match="without tabs and line breaks, got 'a"):
            write_beir(wrong, folder)
    assert load_beir(folder).queries == DATA.queries


def test_labels_join_a_data_set_whose_judgments_are_elsewhere(tmp_path):
    write_beir(DATA, tmp_path, qrels="dev")
    assert save_labels(tmp_path, "Who?", {"new": 1, "b": 0}, {"new": "You."}) == 1
    assert list(load_beir(tmp_path).qrels.values()) == [{"new": 1, "b": 0}]
    assert load_beir(tmp_path, "dev").qrels == DATA.qrels
    assert [one.id for one in load_beir(tmp_path).documents] == ["a", "b", "c", "new"]


def test_what_is_kept_is_evaluated_and_who_stopped_goes_on(folder):
    said = judge(folder, "xYq")
    assert "1 of 3: Which city? Berlin is a city." in said
    assert "1 questions kept, 0 left out, of 3" in said
    assert load_beir(folder, "judged").qrels == {"1": {"a": 1}}
    said = judge(folder, "ny")
    assert "Which city?" not in said
    assert "2 questions kept, 1 left out, of 3" in said
    assert load_beir(folder, "judged").qrels == {"1": {"a": 1}, "3": {"c": 1}}
    assert load_beir(folder, "dropped").qrels == {"2": {"b": 2, "a": 0}}
    assert "2 questions kept, 1 left out, of 3" in judge(folder, "")


def test_a_folder_that_is_none_ends_in_one_line(tmp_path):
    done = CliRunner().invoke(app, ["judge", str(tmp_path)])
    assert done.exit_code == 2
    assert "expected judgments in" in done.stderr
