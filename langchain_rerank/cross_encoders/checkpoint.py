"""What a reranker checkpoint says of itself, read from its files as plain data.

Whatever a checkpoint asks for and this package does not do is refused here, by name, before
anything is loaded: a score that ignores half of what its author saved would be wrong in silence.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from langchain_rerank.cross_encoders.frames import Frame, known_frame
from langchain_rerank.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Task = Literal["sequence-classification", "feature-extraction", "text-generation"]
Activation = Literal["sigmoid", "identity"]

# `max_length=None` goes no further, though a checkpoint may: cost grows faster than length.
LONGEST_DEFAULT = 1024

# Position embeddings of these start behind the padding token's index.
_OFFSET_POSITIONS = {
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "xmod"),
    *("mpnet", "longformer", "data2vec-text", "luke", "mluke", "ibert", "layoutlmv3"),
}
_LAYERS = {"Pooling", "Dense", "LayerNorm", "LogitScore"}
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


@dataclass(frozen=True, slots=True)
class Layer:
    """One of sentence-transformers' modules behind the transformer."""

    kind: str
    settings: Mapping[str, Any]
    folder: Path


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is needed to compute the logits that the checkpoint's author meant.

    Attributes:
        folder: Where the tokenizer and, if it has one, the chat template lie.
        transformer: Where config.json and the weights lie; mostly the same folder.
        task: The transformer's head: one logit, hidden states for `layers`, or next tokens.
        output: The name under which the first of `layers` finds what the transformer gives.
        layers: What computes the logit from that; none behind a classifier.
        prompt: Goes before each query, or into the chat template's system message.
        template: Keywords for the chat template; None where pairs are encoded without one.
        frame: The prompt of a model card, for checkpoints known by their name.
        true_token: With `frame`, the text whose first token's logit counts.
        false_token: The one whose logit is taken off.
        divisor: Logits are divided by it before the sigmoid.
        activation: What its author makes of a logit. "identity" says that the sigmoid of it,
            though 0–1, was never fitted to be a probability.
        token_limit: Most tokens of a pair; None where nothing states one.
        float32_layers: It names layers that it wants computed in float32.
    """

    folder: Path
    transformer: Path
    task: Task
    output: str = "scores"
    layers: tuple[Layer, ...] = ()
    prompt: str = ""
    template: Mapping[str, Any] | None = None
    frame: Frame | None = None
    true_token: str | None = None
    false_token: str | None = None
    divisor: float = 1
    activation: Activation = "sigmoid"
    token_limit: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    float32_layers: tuple[str, ...] = ()

    @property
    def default_max_length(self) -> int:
        """Tokens of a pair that the checkpoint was made for, at most 1,024."""
        return min(self.token_limit or LONGEST_DEFAULT, LONGEST_DEFAULT)


class RefusedError(ValueError):
    """A checkpoint asks for something that is not done; the message names file and request."""


def read_checkpoint(name: str, folder: Path, *, trust_remote_code: bool = False) -> Checkpoint:
    """Read a checkpoint's own files.

    Args:
        name: As the user gave it, a hub name or a path; a few checkpoints without module files
            are known by it.
        folder: Where its files lie.
        trust_remote_code: Whether code of the checkpoint's own may run.

    Returns:
        Plain data; no weights are read.

    Raises:
        ModelLoadError: It is not there, is damaged, or asks for something that is not done. The
            message names the file and what it asks for.
    """
    try:
        modules = _json(folder / "modules.json", [])
        if modules:
            return _modular(folder, modules, trust_remote_code=trust_remote_code)
        return _plain(name, folder, trust_remote_code=trust_remote_code)
    except (RefusedError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        detail = error if isinstance(error, RefusedError) else f"{type(error).__name__}: {error}"
        msg = (
            f"could not load '{name}': {detail}\n"
            "Expected the name of a reranker on the Hugging Face hub, or a folder that holds its "
            "config.json, weights and tokenizer."
        )
        raise ModelLoadError(msg) from error


def _json(path: Path, default: Any) -> Any:
    if not path.is_file():
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        msg = f"{path} is not JSON: {error}"
        raise RefusedError(msg) from error


def _refuse(path: Path, request: str, instead: str) -> RefusedError:
    return RefusedError(f"{path} {request}. {instead}")


def _plain(name: str, folder: Path, *, trust_remote_code: bool) -> Checkpoint:
    """Read a checkpoint of transformers: the head follows from the architecture it names.

    Without modules.json, sentence-transformers' other files say nothing, to itself as well.
    """
    config = _config(folder)
    _check_remote_code(folder, config, trust_remote_code=trust_remote_code)
    architecture = (config.get("architectures") or ["ForSequenceClassification"])[0]
    known = known_frame(name) if architecture.endswith("ForCausalLM") else None
    common: dict[str, Any] = {
        "folder": folder,
        "transformer": folder,
        "config": config,
        "activation": _activation(folder, config, {}),
        "token_limit": _token_limit(folder, config, {}),
    }
    if known is not None:
        return Checkpoint(task="text-generation", **common, **known)
    template: dict[str, Any] | None = {} if _chat_template(folder) is not None else None
    if architecture.endswith("ForCausalLM"):
        if template is None:
            raise _refuse(
                folder / "config.json",
                f"names the causal language model {architecture}, and nothing here says how it "
                "scores: no modules.json, no chat template, and no name whose prompt is known",
                "Use a checkpoint saved by sentence-transformers (with a LogitScore module), or "
                "keep the published name (such as Qwen3-Reranker-0.6B) as the folder's name.",
            )
        # What sentence-transformers takes where a template carries the pair but no module is saved.
        return Checkpoint(
            task="text-generation",
            template=template,
            true_token="yes",  # noqa: S106  # no secret
            false_token="no",  # noqa: S106  # no secret
            **common,
        )
    if not architecture.endswith("ForSequenceClassification"):
        raise _refuse(
            folder / "config.json",
            f"names the architecture {architecture}, which is not a sequence classifier; listwise "
            "and multi-vector rerankers and bare encoders give no score for a pair",
            "Use a cross encoder with one logit.",
        )
    _check_labels(folder, config)
    return Checkpoint(task="sequence-classification", template=template, **common)


def _modular(
    folder: Path,
    modules: Sequence[dict[str, Any]],
    *,
    trust_remote_code: bool,
) -> Checkpoint:
    """Read a checkpoint of sentence-transformers: a transformer and what comes after it."""
    path = folder / "modules.json"
    saved = _json(folder / "config_sentence_transformers.json", {})
    kind = saved.get("model_type", "CrossEncoder")
    if kind != "CrossEncoder":
        raise _refuse(
            folder / "config_sentence_transformers.json",
            f'says model_type "{kind}", which embeds texts one by one',
            "Use it as the first stage; a reranker is a CrossEncoder.",
        )
    layers = []
    for number, module in enumerate(sorted(modules, key=lambda module: module["idx"])):
        type_, where = module["type"], folder / module.get("path", "")
        name = type_.rpartition(".")[2]
        ours = type_.startswith("sentence_transformers.")
        if not ours or name not in ({"Transformer"} if number == 0 else _LAYERS):
            raise _refuse(
                path,
                f"asks for the module {type_}",
                f"Done are Transformer, then {', '.join(sorted(_LAYERS))}; load it in "
                "sentence-transformers itself.",
            )
        settings = _transformer_settings(where) if number == 0 else _json(where / "config.json", {})
        layers.append(Layer(name, settings, where))
    transformer, *rest = layers
    settings = transformer.settings
    task = settings.get("transformer_task", "feature-extraction")
    _check_settings(transformer)
    config = _config(transformer.folder)
    _check_remote_code(transformer.folder, config, trust_remote_code=trust_remote_code)
    if task == "sequence-classification" and not rest:
        _check_labels(transformer.folder, config)
    _check_chain(path, task, rest)
    prompt = _default_prompt(folder, saved)
    excludes_prompt = any(layer.settings.get("include_prompt") is False for layer in rest)
    template = _template_arguments(transformer)
    if prompt and excludes_prompt and template is None:
        raise _refuse(
            rest[0].folder / "config.json",
            "leaves the prompt out of the pooling (include_prompt)",
            "Load it in sentence-transformers itself.",
        )
    return Checkpoint(
        folder=transformer.folder,
        transformer=transformer.folder,
        task=task,
        output=settings.get("module_output_name") or _DEFAULT_OUTPUT_NAMES[task],
        layers=tuple(rest),
        prompt=prompt,
        template=template,
        activation=_activation(folder, config, saved),
        token_limit=_token_limit(transformer.folder, config, settings),
        config=config,
        float32_layers=tuple(saved.get("keep_in_fp32_modules") or ()),
    )


_DEFAULT_OUTPUT_NAMES = {
    "sequence-classification": "scores",
    "feature-extraction": "token_embeddings",
    "text-generation": "causal_logits",
}


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    config: dict[str, Any] = _json(path, None)
    if config is None:
        adapter = (folder / "adapter_config.json").is_file()
        msg = f"there is no config.json in {folder}" + (
            ", only an adapter: merge it into its base model and save that." if adapter else "."
        )
        raise RefusedError(msg)
    return config


def _transformer_settings(folder: Path) -> dict[str, Any]:
    files = sorted(folder.glob("sentence_*_config.json"))
    settings: dict[str, Any] = _json(files[0], {}) if files else {}
    return settings


def _check_settings(transformer: Layer) -> None:
    """Refuse settings of the Transformer module that would change scores and are not done."""
    settings, path = transformer.settings, transformer.folder / "sentence_bert_config.json"
    instead = "Load it in sentence-transformers itself."
    task = settings.get("transformer_task", "feature-extraction")
    if task not in _TASK_OUTPUTS:
        raise _refuse(path, f'asks for the transformer_task "{task}"', instead)
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
        raise _refuse(path, f"asks for {', '.join(sorted(asked))}", instead)
    for modality in ("text", "message"):
        means = (settings.get("modality_config") or {}).get(modality)
        wanted = {"method": "forward", "method_output_name": _TASK_OUTPUTS[task]}
        if means and {key: means.get(key) for key in wanted} != wanted:
            raise _refuse(path, f"reads {modality} by {means}, not by {wanted}", instead)


def _check_chain(path: Path, task: Task, layers: Sequence[Layer]) -> None:
    """Refuse chains that end in no score."""
    kinds = [layer.kind for layer in layers]
    ends = layers[-1].settings.get("module_output_name") if layers else None
    right = {
        "text-generation": kinds == ["LogitScore"],
        "sequence-classification": not kinds or ends == "scores",
        "feature-extraction": "LogitScore" not in kinds and ends == "scores",
    }[task]
    if not right:
        raise _refuse(
            path,
            f"chains a {task} transformer with {kinds or 'nothing'}, which ends in no score",
            "A reranker ends in one logit, in LogitScore, or in a Dense module whose "
            'module_output_name is "scores".',
        )


def _check_remote_code(folder: Path, config: dict[str, Any], *, trust_remote_code: bool) -> None:
    own = [value for key, value in (config.get("auto_map") or {}).items() if "Model" in key]
    if own and not trust_remote_code:
        raise _refuse(
            folder / "config.json",
            f"asks for code of its own, {own[0]}, which may compute other scores than "
            "transformers' classes",
            "Set trust_remote_code=True to run it, if you trust its author.",
        )


def _check_labels(folder: Path, config: dict[str, Any]) -> None:
    labels = config.get("id2label")
    count = len(labels) if labels is not None else config.get("num_labels", 2)
    if count != 1:
        raise _refuse(
            folder / "config.json",
            f"names {count} logits a pair (id2label)",
            "A reranker gives one.",
        )


def _default_prompt(folder: Path, saved: dict[str, Any]) -> str:
    name = saved.get("default_prompt_name")
    prompts = saved.get("prompts") or {}
    if name is not None and name not in prompts:
        raise _refuse(
            folder / "config_sentence_transformers.json",
            f'names the default prompt "{name}", which is not among its prompts {sorted(prompts)}',
            "Mend the file.",
        )
    return prompts[name] or "" if name is not None else ""


def _activation(folder: Path, config: dict[str, Any], saved: dict[str, Any]) -> Activation:
    own = (config.get("sentence_transformers") or {}).get("activation_fn")
    name = saved.get("activation_fn") or own or config.get("sbert_ce_default_activation_function")
    if name is None or (name.startswith("torch.") and name.endswith(".Sigmoid")):
        return "sigmoid"
    if name.startswith("torch.") and name.endswith(".Identity"):
        return "identity"
    raise _refuse(
        folder, f"asks for the activation {name}", "Done are torch's Sigmoid and Identity."
    )


def _token_limit(folder: Path, config: dict[str, Any], settings: Mapping[str, Any]) -> int | None:
    """The smallest number of tokens that the files state as the most."""
    positions = config.get("max_position_embeddings")
    if positions and config.get("model_type") in _OFFSET_POSITIONS:
        positions -= (config.get("pad_token_id", 1) or 0) + 1
    tokenizer = _json(folder / "tokenizer_config.json", {})
    stated = (positions, tokenizer.get("model_max_length"), settings.get("max_seq_length"))
    # Tokenizers say 10**30 for "no limit".
    real = [int(limit) for limit in stated if limit and 0 < limit < 10**9]
    return min(real, default=None)


def _chat_template(folder: Path) -> str | None:
    """The template's text, whether it lies in its own file or in the tokenizer's settings."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = _json(folder / "tokenizer_config.json", {}).get("chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template or None


def _template_arguments(transformer: Layer) -> Mapping[str, Any] | None:
    """Keywords for the chat template, None where the module doesn't use it."""
    if "message" not in (transformer.settings.get("modality_config") or {}):
        return None
    if _chat_template(transformer.folder) is None:
        raise _refuse(
            transformer.folder / "sentence_bert_config.json",
            "asks for a chat template (modality_config), and there is none",
            "chat_template.jinja is missing.",
        )
    arguments: Mapping[str, Any] = (transformer.settings.get("processing_kwargs") or {}).get(
        "chat_template", {}
    )
    return arguments


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
