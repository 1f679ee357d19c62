"""What a user meets first: the import, the public names, the examples."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
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


def test_root_import_is_light():
    heavy = ["torch", "chromadb", "onnxruntime", "FlagEmbedding", "langchain_classic", "numpy"]
    code = f"import langchain_rerank, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_any_module_loads_no_model_library():
    # These are PyTorch code; what uses them imports them when a model loads.
    heavy = {
        f"langchain_rerank.cross_encoders.{name}"
        for name in ("heads", "layers", "torch_model", "torch_packing")
    }
    light = [name for name in MODULES if name not in heavy]
    code = (
        f"import importlib, sys\nfor m in {light}: importlib.import_module(m)\n"
        "print([m for m in ('torch', 'onnxruntime', 'FlagEmbedding') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_the_documented_ones():
    assert sorted(langchain_rerank.__all__) == [
        "CachedCrossEncoder",
        "ExtractiveReader",
        "FlagEmbeddingCrossEncoder",
        "MissingDependencyError",
        "ModelLoadError",
        "OnnxCrossEncoder",
        "RemoteCrossEncoder",
        "RemoteError",
        "RerankError",
        "RerankMiddleware",
        "RerankRetriever",
        "Reranker",
        "ScoringError",
        "TorchCrossEncoder",
        "create_rag_chain",
        "create_rerank_retriever",
        "index_documents",
    ]
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
