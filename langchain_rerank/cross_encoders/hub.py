"""Where a model's files lie: in a folder, or in a repository on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from langchain_rerank.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def load_error(model: str, reason: object) -> ModelLoadError:
    """Make the error of a model that can't be loaded: why, and what was expected."""
    return ModelLoadError(
        f"could not load '{model}': {reason}\nExpected the name of a reranker on the Hugging Face "
        "hub, or a folder that holds its config.json, weights and tokenizer."
    )


def find_folder(model: str, wanted: Callable[[list[str]], list[str]]) -> Path:
    """Return the folder of a model; of one on the hub, those files are downloaded that are wanted.

    Raises:
        ModelLoadError: There is no such folder or repository.
    """
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import HfApi, snapshot_download

    try:
        names = [file.rfilename for file in HfApi().model_info(model).siblings or ()]
        return Path(snapshot_download(model, allow_patterns=wanted(names)))
    # The hub's client raises its own errors, httpx's and ValueError.
    except Exception as error:  # noqa: BLE001  # without a network, an earlier download will do
        try:
            return Path(snapshot_download(model, local_files_only=True))
        except Exception:  # noqa: BLE001  # says only that there was no download
            missing = "there is no folder of that name here, and the hub gave no repository"
            raise load_error(model, f"{missing}: {error}") from error


def weights_wanted(names: Sequence[str]) -> list[str]:
    """Choose what PyTorch needs of a repository: settings, tokenizer, code, one set of weights."""
    aside = ("onnx/", "openvino/", "original/", "gguf/", "consolidated", "training_")
    used = [name for name in names if not name.startswith(aside)]
    suffix = ".safetensors" if any(name.endswith(".safetensors") for name in used) else ".bin"
    rest = (".json", ".txt", ".model", ".jinja", ".py")
    return [name for name in used if name.endswith((suffix, *rest))]
