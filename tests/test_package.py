"""What a user meets first: the import, the public names, the examples."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import langchain_rerank

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    module.name for module in pkgutil.walk_packages(langchain_rerank.__path__, "langchain_rerank.")
)
README_BLOCKS = re.findall(
    r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
)


def test_imports_are_light():
    # What is PyTorch code is imported when a model loads.
    torch_code = {
        name for name in MODULES if re.search(r"^import torch$", module_text(name), re.MULTILINE)
    }
    steps = [
        (
            ["langchain_rerank"],
            ["torch", "chromadb", "onnxruntime", "FlagEmbedding", "langchain_classic", "numpy"],
        ),
        (
            ["langchain_rerank.offline"],
            ["transformers", "onnx", "tokenizers", "safetensors", "langchain_openai", "xllamacpp"],
        ),
        (
            [name for name in MODULES if name not in torch_code],
            ["torch", "onnxruntime", "FlagEmbedding"],
        ),
    ]
    code = (
        "import importlib, sys\n"
        f"for names, heavy in {steps!r}:\n"
        "    for name in names: importlib.import_module(name)\n"
        "    print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]"] * len(steps)
    assert len(torch_code) < 8


def module_text(name):
    path = ROOT.joinpath(*name.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return file.read_text(encoding="utf-8")


def test_a_name_stands_for_one_thing():
    modules = Counter(name.rpartition(".")[2] for name in MODULES)
    classes = Counter(
        node.name
        for name in MODULES
        for node in ast.walk(ast.parse(module_text(name)))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in (modules + classes).items() if count > 1] == []


def test_public_names_are_documented():
    for name in langchain_rerank.__all__:
        value = getattr(langchain_rerank, name)
        assert value.__module__.startswith("langchain_rerank.")
        assert value.__doc__
    assert set(langchain_rerank.__all__) <= set(dir(langchain_rerank))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        langchain_rerank.nothing  # noqa: B018  # the access is the test


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_true(name):
    failed = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE
    ).failed
    assert failed == 0


def test_readme_blocks_run_one_after_the_other(tmp_path, monkeypatch):
    assert README_BLOCKS
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for block in README_BLOCKS:
        exec(compile(block, "README.md", "exec"), namespace)  # noqa: S102  # our own text
