"""Where a model's files lie: in a folder, or in a repository on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from langchain_rerank.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def find_folder(model: str, wanted: Callable[[list[str]], list[str]]) -> Path:
    """Return the folder of a model; one on the hub is downloaded, as far as it is needed.

    Args:
        model: A path, or a name on the hub.
        wanted: Chooses, from all file names of a repository, patterns of those to download.

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
            msg = (
                f"could not load '{model}': there is no folder of that name here, and the "
                f"Hugging Face hub gave no repository: {error}\nExpected the name of a reranker "
                "on the hub, or a folder that holds its config.json, weights and tokenizer."
            )
            raise ModelLoadError(msg) from error


def weights_wanted(names: Sequence[str]) -> list[str]:
    """Choose what PyTorch needs of a repository: settings, tokenizer, code, one set of weights."""
    weights = ".safetensors" if any(_in_use(name, ".safetensors") for name in names) else ".bin"
    rest = (".json", ".txt", ".model", ".jinja", ".py")
    return [name for name in names if _in_use(name, weights) or name.endswith(rest)]


def _in_use(name: str, suffix: str) -> bool:
    """Tell the weights of the model from other formats' and trainers' files beside them."""
    folder, _, file = name.rpartition("/")
    aside = folder.split("/")[0] in {"onnx", "openvino", "original", "gguf"}
    return (
        file.endswith(suffix) and not aside and not file.startswith(("consolidated", "training_"))
    )
