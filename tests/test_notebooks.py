"""Every notebook runs, says the same when it runs again, and the same as what is committed."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest

from tests.notebook_runner import client_for, made_on

pytestmark = pytest.mark.integration

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))
TIME_HEADING = re.compile(r"(^| )(ms|s|seconds|latency)$")
TIME = re.compile(r"\d[\d.,]* ?(ms|s|seconds)\b")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs_twice_and_shows_what_is_committed(name, tmp_path):
    folder = shutil.copytree(FOLDER, tmp_path / "notebooks")
    committed = nbformat.read(FOLDER / name, as_version=4)
    notebook = nbformat.read(folder / name, as_version=4)
    client = client_for(notebook, folder)
    runs = []
    # The second time in the same kernel, as by somebody who runs each cell twice.
    with client.setup_kernel():
        for _ in range(2):
            for position, cell in enumerate(notebook.cells):
                client.execute_cell(cell, position)
            assert warnings_in(notebook) == []
            runs.append(shown(notebook))
    assert runs[1] == runs[0]
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


def warnings_in(notebook):
    return [
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.output_type == "stream" and output.name == "stderr" and "Warning" in output.text
    ]


def shown(notebook):
    """What each output shows, by its type: tables and text without times, not pictures' bytes."""
    return [
        {kind: comparable(kind, content) for kind, content in sorted(output.data.items())}
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "data" in output
    ]


def comparable(kind, content):
    if kind == "text/html":
        tables = Tables()
        tables.feed(content)
        return tables.without_times()
    return TIME.sub("", content) if kind == "text/plain" else None


class Tables(HTMLParser):
    """Rows of cells, and the text around tables as a row of its own."""

    def __init__(self):
        super().__init__()
        self.rows = [[""]]
        self.styles = False

    def handle_starttag(self, tag, attrs):
        self.styles = tag == "style"
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.styles = False
        if tag == "table":
            self.rows.append([""])

    def handle_data(self, data):
        if not self.styles and self.rows[-1]:
            self.rows[-1][-1] += " ".join(data.split())

    def without_times(self):
        rows, timed = [], set()
        for row in self.rows:
            found = {i for i, cell in enumerate(row) if TIME_HEADING.search(cell)}
            # A heading, unless a cell of a longer text.
            if found and all(len(cell) < 40 for cell in row):
                timed = found
            elif len(row) < 2:
                timed = set()
            rows.append([TIME.sub("", cell) for i, cell in enumerate(row) if i not in timed])
        return rows
