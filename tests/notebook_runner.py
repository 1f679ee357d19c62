"""Run notebooks and keep their outputs: `python -m tests.notebook_runner notebooks/*.ipynb`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
from nbclient import NotebookClient

from tests.bench.report import processor

if TYPE_CHECKING:
    from nbformat import NotebookNode


def client_for(notebook: NotebookNode, folder: Path) -> NotebookClient:
    """Return a client that runs a notebook's cells in this Python, from `folder`."""
    # Else a kernel that the user installed under the name "python3" may come first.
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    # No model hub is asked.
    os.environ["HF_HUB_OFFLINE"] = "1"
    place = {"metadata": {"path": str(folder)}}
    return NotebookClient(notebook, timeout=600, record_timing=False, resources=place)


def made_on() -> dict[str, str]:
    """Return what decides outputs besides the code.

    Each Python has its own text of the language reference, and processors differ in the last
    digits of a score, by which close passages may change places.
    """
    import torch

    kind = torch.backends.cpu.get_cpu_capability()
    return {"python": sys.version.split()[0], "processor": f"{processor()}, {kind}"}


def keep_outputs(path: Path) -> None:
    """Run a notebook top to bottom and write it with its outputs, once no cell has failed."""
    notebook = nbformat.read(path, as_version=4)
    client_for(notebook, path.parent).execute()
    for cell in notebook.cells:
        cell.metadata.clear()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "made_on": made_on(),
    }
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        keep_outputs(Path(name).absolute())
