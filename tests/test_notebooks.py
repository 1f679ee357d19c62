"""Every notebook runs, and says the same as what is committed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import nbformat
import pytest

from langchain_rerank import index_documents
from langchain_rerank.corpus import python_reference
from tests.notebook_runner import client_for, made_on

pytestmark = pytest.mark.integration

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))
TIME_HEADING = re.compile(r"(^| )(ms|s|seconds|latency)$")
TIME = re.compile(r"\d[\d.,]* ?(ms|s|seconds)\b")


@pytest.fixture(scope="session")
def index(embeddings, tmp_path_factory):
    """What the first notebook to run would index for all of them; made once for the tests."""
    folder = tmp_path_factory.mktemp("index")
    index_documents(python_reference(), embeddings, persist_directory=folder)
    return folder


# All in one process, where tests are spread over several, as each would index.
@pytest.mark.xdist_group("notebooks")
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs_and_shows_what_is_committed(name, index, tmp_path):
    folder = shutil.copytree(FOLDER, tmp_path / "notebooks")
    shutil.copytree(index, folder / "index", dirs_exist_ok=True)
    committed = nbformat.read(FOLDER / name, as_version=4)
    notebook = nbformat.read(folder / name, as_version=4)
    client = client_for(notebook, folder)
    runs = []
    with client.setup_kernel():
        # The second time in the same kernel, as by somebody who runs each cell twice.
        for _ in range(2 if name == NOTEBOOKS[-1] else 1):
            for position, cell in enumerate(notebook.cells):
                client.execute_cell(cell, position)
            assert warnings_in(notebook) == []
            runs.append(shown(notebook))
    assert runs[-1] == runs[0]
    assert [list(one) for one in runs[0]] == [list(one) for one in shown(committed)]
    if committed.metadata.get("made_on") == made_on():
        assert runs[0] == shown(committed)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_committed_outputs_are_of_one_clean_run(name):
    text = (FOLDER / name).read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert [dict(cell.metadata) for cell in notebook.cells] == [{}] * len(notebook.cells)
    assert warnings_in(notebook) == []
    # Addresses in memory and paths of a machine would differ with each run.
    assert re.findall(r" at 0x[0-9a-f]{6,}|/home/|/root/|/tmp/|/Users/", text) == []


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def warnings_in(notebook):
    return [one.text for one in outputs(notebook) if "Warning" in one.get("text", "")]


def shown(notebook):
    """What each output shows, by its type: tables and text without times, not pictures' bytes."""
    return [
        {kind: comparable(kind, content) for kind, content in sorted(output.data.items())}
        for output in outputs(notebook)
        if "data" in output
    ]


def comparable(kind, content):
    if kind == "text/html":
        return [without_times(table) for table in re.split(r"(?=<table)|(?<=</table>)", content)]
    return TIME.sub("", content) if kind == "text/plain" else None


def without_times(html):
    """The cells of a table, or the text between tables, without what depends on the machine."""
    html = re.sub(r"<style.*?</style>", "", html, flags=re.DOTALL)
    rows = [
        [
            " ".join(re.sub(r"<[^>]*>", "", cell).split())
            for cell in re.split(r"<t[hd]\b[^>]*>", row)
        ]
        for row in re.split(r"<tr\b[^>]*>", html)
    ]
    headings = next((row for row in rows if any(map(TIME_HEADING.search, row[1:]))), [])
    timed = {i for i, heading in enumerate(headings) if TIME_HEADING.search(heading)}
    return [[TIME.sub("", cell) for i, cell in enumerate(row) if i not in timed] for row in rows]
