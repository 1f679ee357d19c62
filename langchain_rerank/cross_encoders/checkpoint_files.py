"""The files of a checkpoint, each read for one thing that it says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Activation = Literal["sigmoid", "identity"]

# Position embeddings of these start behind the padding token's index.
_OFFSET_POSITIONS = {
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "xmod"),
    *("mpnet", "longformer", "data2vec-text", "luke", "mluke", "ibert", "layoutlmv3"),
}
_TASK_OUTPUTS = {
    "sequence-classification": "logits",
    "feature-extraction": "last_hidden_state",
    "text-generation": "logits",
}
# Settings of sentence-transformers' Transformer module that change no score of a pair of texts.
_HARMLESS_SETTINGS = {
    *("transformer_task", "modality_config", "module_output_name", "max_seq_length"),
    *("do_lower_case", "unpad_inputs", "query_length", "document_length", "processing_kwargs"),
    *("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args"),
    *("config_kwargs", "query_expansion", "backend"),
}
# Among the keywords that it passes on, these say how to load, not what to compute.
_HARMLESS_KEYWORDS = {
    *("torch_dtype", "dtype", "attn_implementation", "device_map", "use_cache", "padding_side"),
    *("model_max_length", "token", "revision", "cache_dir", "local_files_only", "file_name"),
    *("trust_remote_code", "use_fast", "fix_mistral_regex"),
}


class RefusedError(ValueError):
    """A checkpoint asks for something that is not done; the message names file and request."""


def read_json(path: Path, default: Any) -> Any:
    """Read a JSON file, or give a default where there is none."""
    if not path.is_file():
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        msg = f"{path} is not JSON: {error}"
        raise RefusedError(msg) from error


def refused(path: Path, request: str, instead: str) -> RefusedError:
    """Make the error that names a file, what it asks for and the way out."""
    return RefusedError(f"{path} {request}. {instead}")


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json of a transformer."""
    path = folder / "config.json"
    config: dict[str, Any] = read_json(path, None)
    if config is None:
        adapter = (folder / "adapter_config.json").is_file()
        msg = f"there is no config.json in {folder}" + (
            ", only an adapter: merge it into its base model and save that." if adapter else "."
        )
        raise RefusedError(msg)
    return config


def default_prompt(folder: Path, saved: dict[str, Any]) -> str:
    """Read the prompt that goes before every query."""
    name = saved.get("default_prompt_name")
    prompts = saved.get("prompts") or {}
    if name is not None and name not in prompts:
        raise refused(
            folder / "config_sentence_transformers.json",
            f'names the default prompt "{name}", which is not among its prompts {sorted(prompts)}',
            "Mend the file.",
        )
    return prompts[name] or "" if name is not None else ""


def activation(folder: Path, config: dict[str, Any], saved: dict[str, Any]) -> Activation:
    """Read what the author makes of a logit."""
    own = (config.get("sentence_transformers") or {}).get("activation_fn")
    name = saved.get("activation_fn") or own or config.get("sbert_ce_default_activation_function")
    if name is None or (name.startswith("torch.") and name.endswith(".Sigmoid")):
        return "sigmoid"
    if name.startswith("torch.") and name.endswith(".Identity"):
        return "identity"
    raise refused(
        folder, f"asks for the activation {name}", "Done are torch's Sigmoid and Identity."
    )


def token_limit(folder: Path, config: dict[str, Any], settings: Mapping[str, Any]) -> int | None:
    """Return the smallest number of tokens that the files state as the most."""
    positions = config.get("max_position_embeddings")
    if positions and config.get("model_type") in _OFFSET_POSITIONS:
        positions -= (config.get("pad_token_id", 1) or 0) + 1
    tokenizer = read_json(folder / "tokenizer_config.json", {})
    stated = (positions, tokenizer.get("model_max_length"), settings.get("max_seq_length"))
    # Tokenizers say 10**30 for "no limit".
    real = [int(limit) for limit in stated if limit and 0 < limit < 10**9]
    return min(real, default=None)


def chat_template(folder: Path) -> str | None:
    """Return the template's text, from its own file or the tokenizer's settings."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = read_json(folder / "tokenizer_config.json", {}).get("chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template or None


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse settings of the Transformer module that would change scores and are not done."""
    path = folder / "sentence_bert_config.json"
    instead = "Load it in sentence-transformers itself."
    task = settings.get("transformer_task", "feature-extraction")
    if task not in _TASK_OUTPUTS:
        raise refused(path, f'asks for the transformer_task "{task}"', instead)
    asked = {key for key, value in settings.items() if key not in _HARMLESS_SETTINGS and value}
    asked |= {key for key in ("do_lower_case", "query_expansion") if settings.get(key)}
    for keywords in ("model_args", "tokenizer_args", "config_args"):
        for name in (
            keywords,
            keywords.replace("tokenizer", "processor").replace("args", "kwargs"),
        ):
            asked |= set(settings.get(name) or {}) - _HARMLESS_KEYWORDS
    asked |= set(settings.get("processing_kwargs") or {}) - {"chat_template"}
    if asked:
        raise refused(path, f"asks for {', '.join(sorted(asked))}", instead)
    for modality in ("text", "message"):
        means = (settings.get("modality_config") or {}).get(modality)
        wanted = {"method": "forward", "method_output_name": _TASK_OUTPUTS[task]}
        if means and {key: means.get(key) for key in wanted} != wanted:
            raise refused(path, f"reads {modality} by {means}, not by {wanted}", instead)
