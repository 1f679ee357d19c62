"""Where a checkpoint's files lie, and what they say of it, read as plain data.

Whatever one asks for that is not done is refused here, by name, before anything is loaded: a score
that ignores half of what its author saved would be wrong in silence.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from langchain_rerank.cross_encoders.tokenization import Frame, known_frame
from langchain_rerank.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Task = Literal["sequence-classification", "feature-extraction", "text-generation"]

_SAVED = "config_sentence_transformers.json"
_ELSEWHERE = "Load it in sentence-transformers itself."
# transformers' class for a task, what it gives, and as what the first layer behind it reads that.
TASKS = {
    "sequence-classification": ("AutoModelForSequenceClassification", "logits", "scores"),
    "feature-extraction": ("AutoModel", "last_hidden_state", "token_embeddings"),
    "text-generation": ("AutoModelForCausalLM", "logits", "causal_logits"),
}
# What the layers behind it read and give; a Dense says so itself, else as stands here.
_LAYERS = {
    "Pooling": ("token_embeddings", "sentence_embedding"),
    "Dense": ("sentence_embedding", None),
    "LayerNorm": ("sentence_embedding", "sentence_embedding"),
    "LogitScore": ("causal_logits", "scores"),
}
# Position embeddings of these start behind the padding token's index.
_OFFSET_POSITIONS = {
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "xmod"),
    *("mpnet", "longformer", "data2vec-text", "luke", "mluke", "ibert", "layoutlmv3"),
}
# Settings of sentence-transformers' Transformer module that are read here, or change no score.
_KNOWN_SETTINGS = {
    *("transformer_task", "modality_config", "module_output_name", "max_seq_length"),
    *("unpad_inputs", "query_length", "document_length", "backend"),
}
# Among the keywords that it passes on, these say how to load, not what to compute.
_KNOWN_KEYWORDS = {
    *("torch_dtype", "dtype", "attn_implementation", "device_map", "use_cache", "padding_side"),
    *("model_max_length", "token", "revision", "cache_dir", "local_files_only", "file_name"),
    *("trust_remote_code", "use_fast", "fix_mistral_regex"),
}


class RefusedError(ValueError):
    """A checkpoint asks for something that is not done; the message names file and request."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One of sentence-transformers' modules."""

    kind: str
    settings: Mapping[str, Any]
    folder: Path


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is needed to compute the logits that the checkpoint's author meant."""

    folder: Path  # of config.json, weights, tokenizer and chat template
    task: Task  # the transformer's head: one logit, hidden states for `layers`, or next tokens
    output: str = "scores"  # under which the first of `layers` finds what the transformer gives
    layers: tuple[Layer, ...] = ()  # make the logit of that; none behind a classifier
    prompt: str = ""  # goes before each query, or is the chat template's system message
    template: Mapping[str, Any] | None = None  # its keywords; None: pairs are encoded without
    frame: Frame | None = None  # the prompt of a model card, for checkpoints known by their name
    true_token: str | None = None  # without `layers`: the text whose first token's logit counts
    false_token: str | None = None  # the one whose logit is taken off
    divisor: float = 1  # of the logits, before the sigmoid
    activation: str = "sigmoid"  # or "identity": nobody fitted a sigmoid to be a probability
    token_limit: int | None = None  # most tokens of a pair; None where nothing states one
    config: Mapping[str, Any] = field(default_factory=dict)
    float32_layers: tuple[str, ...] = ()  # are wanted in float32, whatever the rest is in
    trusted: bool = False  # code that comes with it may be run


def load_error(model: str, reason: object) -> ModelLoadError:
    """Say why a model can't be loaded, and what was expected."""
    return ModelLoadError(
        f"could not load '{model}': {reason}\nExpected the name of a reranker on the Hugging Face "
        "hub, or a folder that holds its config.json, weights and tokenizer."
    )


def find_folder(model: str, wanted: Callable[[list[str]], list[str]]) -> Path:
    """Return a model's folder, those files of it downloaded that are wanted of one on the hub."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import HfApi, snapshot_download

    try:
        names = [file.rfilename for file in HfApi().model_info(model).siblings or ()]
        return Path(snapshot_download(model, allow_patterns=wanted(names)))
    # The hub's client raises its own errors, httpx's and ValueError.
    except Exception as error:
        # Without a network, an earlier download will do.
        with suppress(Exception):
            return Path(snapshot_download(model, local_files_only=True))
        missing = "there is no folder of that name here, and the hub gave no repository"
        raise load_error(model, f"{missing}: {error}") from error


def weights_wanted(names: Sequence[str]) -> list[str]:
    """Choose what PyTorch needs of a repository: settings, tokenizer, code, one set of weights."""
    aside = ("onnx/", "openvino/", "original/", "gguf/", "consolidated", "training_")
    used = [name for name in names if not name.startswith(aside)]
    suffix = ".safetensors" if any(name.endswith(".safetensors") for name in used) else ".bin"
    rest = (".json", ".txt", ".model", ".jinja", ".py")
    return [name for name in used if name.endswith((suffix, *rest))]


def read_checkpoint(name: str, folder: Path, *, trusted: bool = False) -> Checkpoint:
    """Read a checkpoint's own files, no weights; a few are known by the name that the user gave.

    Raises:
        ModelLoadError: It is damaged, or asks for something that is not done (code of its own
            included, unless it is trusted). The message names the file and the request.
    """
    try:
        modules = _json(folder / "modules.json", [])
        transformer, *layers = _layers(folder, modules) or [Layer("Transformer", {}, folder)]
        path = transformer.folder / "config.json"
        adapter = "If there is only an adapter, merge it into its base model and save that."
        require(path.is_file(), path, "is missing", adapter)
        config = _json(path, {})
        own = [value for key, value in (config.get("auto_map") or {}).items() if "Model" in key]
        trust = "Set trust_remote_code=True to run it, if you trust its author."
        require(trusted or not own, path, f"asks for code of its own, {own}", trust)
        # Without modules.json, sentence-transformers' other files say nothing, to itself as well.
        saved = _json(folder / _SAVED, {}) if modules else {}
        modular = folder, saved, transformer, layers
        head = _modular(*modular) if modules else _plain(name, path, config)
        if head["task"] == "sequence-classification" and not layers:
            count = len(config.get("id2label") or range(config.get("num_labels", 2)))
            require(count == 1, path, f"names {count} logits a pair", "A reranker gives one.")
        return Checkpoint(
            folder=transformer.folder,
            layers=tuple(layers),
            activation=_activation(path, config, saved),
            token_limit=token_limit(transformer.folder, config, transformer.settings),
            config=config,
            float32_layers=tuple(saved.get("keep_in_fp32_modules") or ()),
            trusted=trusted,
            **head,
        )
    except RefusedError as error:
        raise load_error(name, error) from error
    # Files that hold other JSON than expected.
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise load_error(name, f"{type(error).__name__}: {error}") from error


def _plain(name: str, path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Read a checkpoint of transformers: the head follows from the architecture it names."""
    architecture = (config.get("architectures") or ["ForSequenceClassification"])[0]
    template: dict[str, Any] | None = {} if _has_template(path.parent) else None
    if not architecture.endswith("ForCausalLM"):
        classifier = architecture.endswith("ForSequenceClassification")
        request = f"names the architecture {architecture}, which is not a sequence classifier"
        require(classifier, path, request, "Bare encoders and listwise models score no pair.")
        return {"task": "sequence-classification", "template": template}
    known = known_frame(name)
    request = f"names {architecture}, and nothing (modules.json, template, name) says how it scores"
    keep = "Keep the published name (Qwen3-Reranker-0.6B, say) as the folder's, or save modules."
    require(known or template is not None, path, request, keep)
    # What sentence-transformers takes where a template carries the pair but no module is saved.
    answers = {"template": template, "true_token": "yes", "false_token": "no"}
    return {"task": "text-generation", **(known or answers)}


def _modular(
    folder: Path, saved: Mapping[str, Any], transformer: Layer, layers: Sequence[Layer]
) -> dict[str, Any]:
    """Read a checkpoint of sentence-transformers: a transformer and what comes after it."""
    kind = saved.get("model_type", "CrossEncoder")
    first = "It embeds texts one by one: use it as the first stage."
    require(kind == "CrossEncoder", folder / _SAVED, f'says model_type "{kind}"', first)
    name, prompts = saved.get("default_prompt_name"), saved.get("prompts") or {}
    named = f'names the default prompt "{name}", which is not among its {sorted(prompts)}'
    require(name is None or name in prompts, folder / _SAVED, named, "Mend the file.")
    prompt, settings, task = prompts.get(name) or "", transformer.settings, _task(transformer)
    kinds = [layer.kind for layer in layers]
    scores = bool(layers) and layers[-1].settings.get("module_output_name") == "scores"
    ends = {
        "text-generation": kinds == ["LogitScore"],
        "sequence-classification": not kinds or scores,
        "feature-extraction": "LogitScore" not in kinds and scores,
    }
    chain = f"chains a {task} transformer with {kinds}, which ends in no score"
    require(ends[task], folder / "modules.json", chain, "Use it as the first stage, if at all.")
    held = {TASKS[task][2]}
    for layer in layers:
        reads, gives = _LAYERS[layer.kind]
        reads = layer.settings.get("module_input_name", reads)
        lacks = f"chains {kinds}: {layer.kind} reads {reads}, which nothing before it gives"
        require(reads in held, folder / "modules.json", lacks)
        held.add(gives or layer.settings.get("module_output_name") or reads)
    templated = "message" in (settings.get("modality_config") or {})
    path = transformer.folder / "chat_template.jinja"
    missing = "is missing, though its module asks for it (modality_config)"
    require(not templated or _has_template(transformer.folder), path, missing)
    for layer in layers:
        excluded = layer.settings.get("include_prompt") is False and prompt and not templated
        pooling = "leaves the prompt out of the pooling (include_prompt)"
        require(not excluded, layer.folder / "config.json", pooling)
    keywords = (settings.get("processing_kwargs") or {}).get("chat_template", {})
    output = settings.get("module_output_name") or TASKS[task][2]
    template = keywords if templated else None
    return {"task": task, "output": output, "prompt": prompt, "template": template}


def _layers(folder: Path, modules: Sequence[Mapping[str, Any]]) -> list[Layer]:
    layers: list[Layer] = []
    for module in sorted(modules, key=lambda module: module["idx"]):
        type_, where = module["type"], folder / module.get("path", "")
        kind = type_.rpartition(".")[2]
        done = type_.startswith("sentence_transformers.")
        done = done and kind in (_LAYERS if layers else ["Transformer"])
        require(done, folder / "modules.json", f"asks for the module {type_}")
        files = sorted(where.glob("config.json" if layers else "sentence_*_config.json"))
        layers.append(Layer(kind, _json(files[0], {}) if files else {}, where))
    return layers


def _task(transformer: Layer) -> Task:
    """Refuse settings of the Transformer module that would change scores and are not done."""
    path, settings = transformer.folder / "sentence_bert_config.json", transformer.settings
    task: Task = settings.get("transformer_task", "feature-extraction")
    require(task in TASKS, path, f'asks for the transformer_task "{task}"')
    asked: set[str] = set()
    for key, value in settings.items():
        if key.endswith(("_args", "_kwargs")):
            known = {"chat_template"} if key == "processing_kwargs" else _KNOWN_KEYWORDS
            asked |= set(value or ()) - known
        elif value and key not in _KNOWN_SETTINGS:
            asked.add(key)
    require(not asked, path, f"asks for {', '.join(sorted(asked))}")
    wanted = {"method": "forward", "method_output_name": TASKS[task][1]}
    for modality in ("text", "message"):
        means = (settings.get("modality_config") or {}).get(modality) or wanted
        require(wanted.items() <= means.items(), path, f"reads {modality} by {means}")
    return task


def _activation(path: Path, config: Mapping[str, Any], saved: Mapping[str, Any]) -> str:
    own = (config.get("sentence_transformers") or {}).get("activation_fn")
    older = config.get("sbert_ce_default_activation_function")
    name = saved.get("activation_fn") or own or older or "torch.nn.Sigmoid"
    done = name.startswith("torch.") and name.endswith((".Sigmoid", ".Identity"))
    require(done, path, f"asks for the activation {name}", "Done are torch's Sigmoid, Identity.")
    return "identity" if name.endswith(".Identity") else "sigmoid"


def token_limit(folder: Path, config: Mapping[str, Any], settings: Mapping[str, Any]) -> int | None:
    """Return the smallest number of tokens that the files state as the most."""
    positions = config.get("max_position_embeddings")
    if positions and config.get("model_type") in _OFFSET_POSITIONS:
        positions -= (config.get("pad_token_id", 1) or 0) + 1
    tokenizer = _json(folder / "tokenizer_config.json", {}).get("model_max_length")
    stated = (positions, tokenizer, settings.get("max_seq_length"))
    # Tokenizers say 10**30 for "no limit".
    return min((int(limit) for limit in stated if limit and 0 < limit < 10**9), default=None)


def _has_template(folder: Path) -> bool:
    settings = _json(folder / "tokenizer_config.json", {})
    return bool(settings.get("chat_template")) or (folder / "chat_template.jinja").is_file()


def _json(path: Path, default: Any) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else default
    except (ValueError, RecursionError) as error:
        msg = f"{path} is not JSON: {error}"
        raise RefusedError(msg) from error


def require(right: object, path: Path, request: str, instead: str = _ELSEWHERE) -> None:
    """Refuse what a file or folder asks for, unless it is right, and name the way out."""
    if not right:
        msg = f"{path} {request}. {instead}"
        raise RefusedError(msg)
