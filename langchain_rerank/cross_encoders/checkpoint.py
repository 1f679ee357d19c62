"""What a reranker checkpoint says of itself, read from its files as plain data.

Whatever a checkpoint asks for and this package does not do is refused here, by name, before
anything is loaded: a score that ignores half of what its author saved would be wrong in silence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from langchain_rerank.cross_encoders.checkpoint_files import (
    Activation,
    RefusedError,
    activation,
    chat_template,
    check_settings,
    default_prompt,
    read_config,
    read_json,
    refused,
    token_limit,
)
from langchain_rerank.cross_encoders.frames import Frame, known_frame
from langchain_rerank.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Task = Literal["sequence-classification", "feature-extraction", "text-generation"]

# `max_length=None` goes no further, though a checkpoint may: cost grows faster than length.
LONGEST_DEFAULT = 1024

_LAYERS = {"Pooling", "Dense", "LayerNorm", "LogitScore"}


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
        modules = read_json(folder / "modules.json", [])
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


def _plain(name: str, folder: Path, *, trust_remote_code: bool) -> Checkpoint:
    """Read a checkpoint of transformers: the head follows from the architecture it names.

    Without modules.json, sentence-transformers' other files say nothing, to itself as well.
    """
    config = read_config(folder)
    _check_remote_code(folder, config, trust_remote_code=trust_remote_code)
    architecture = (config.get("architectures") or ["ForSequenceClassification"])[0]
    known = known_frame(name) if architecture.endswith("ForCausalLM") else None
    common: dict[str, Any] = {
        "folder": folder,
        "transformer": folder,
        "config": config,
        "activation": activation(folder, config, {}),
        "token_limit": token_limit(folder, config, {}),
    }
    if known is not None:
        return Checkpoint(task="text-generation", **common, **known)
    template: dict[str, Any] | None = {} if chat_template(folder) is not None else None
    if architecture.endswith("ForCausalLM"):
        if template is None:
            raise refused(
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
        raise refused(
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
    saved = read_json(folder / "config_sentence_transformers.json", {})
    kind = saved.get("model_type", "CrossEncoder")
    if kind != "CrossEncoder":
        raise refused(
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
            raise refused(
                path,
                f"asks for the module {type_}",
                f"Done are Transformer, then {', '.join(sorted(_LAYERS))}; load it in "
                "sentence-transformers itself.",
            )
        settings = (
            _transformer_settings(where) if number == 0 else read_json(where / "config.json", {})
        )
        layers.append(Layer(name, settings, where))
    transformer, *rest = layers
    settings = transformer.settings
    task = settings.get("transformer_task", "feature-extraction")
    check_settings(transformer.folder, settings)
    config = read_config(transformer.folder)
    _check_remote_code(transformer.folder, config, trust_remote_code=trust_remote_code)
    if task == "sequence-classification" and not rest:
        _check_labels(transformer.folder, config)
    _check_chain(path, task, rest)
    prompt = default_prompt(folder, saved)
    excludes_prompt = any(layer.settings.get("include_prompt") is False for layer in rest)
    template = _template_arguments(transformer)
    if prompt and excludes_prompt and template is None:
        raise refused(
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
        activation=activation(folder, config, saved),
        token_limit=token_limit(transformer.folder, config, settings),
        config=config,
        float32_layers=tuple(saved.get("keep_in_fp32_modules") or ()),
    )


_DEFAULT_OUTPUT_NAMES = {
    "sequence-classification": "scores",
    "feature-extraction": "token_embeddings",
    "text-generation": "causal_logits",
}


def _transformer_settings(folder: Path) -> dict[str, Any]:
    files = sorted(folder.glob("sentence_*_config.json"))
    settings: dict[str, Any] = read_json(files[0], {}) if files else {}
    return settings


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
        raise refused(
            path,
            f"chains a {task} transformer with {kinds or 'nothing'}, which ends in no score",
            "A reranker ends in one logit, in LogitScore, or in a Dense module whose "
            'module_output_name is "scores".',
        )


def _check_remote_code(folder: Path, config: dict[str, Any], *, trust_remote_code: bool) -> None:
    own = [value for key, value in (config.get("auto_map") or {}).items() if "Model" in key]
    if own and not trust_remote_code:
        raise refused(
            folder / "config.json",
            f"asks for code of its own, {own[0]}, which may compute other scores than "
            "transformers' classes",
            "Set trust_remote_code=True to run it, if you trust its author.",
        )


def _check_labels(folder: Path, config: dict[str, Any]) -> None:
    labels = config.get("id2label")
    count = len(labels) if labels is not None else config.get("num_labels", 2)
    if count != 1:
        raise refused(
            folder / "config.json",
            f"names {count} logits a pair (id2label)",
            "A reranker gives one.",
        )


def _template_arguments(transformer: Layer) -> Mapping[str, Any] | None:
    """Keywords for the chat template, None where the module doesn't use it."""
    if "message" not in (transformer.settings.get("modality_config") or {}):
        return None
    if chat_template(transformer.folder) is None:
        raise refused(
            transformer.folder / "sentence_bert_config.json",
            "asks for a chat template (modality_config), and there is none",
            "chat_template.jinja is missing.",
        )
    arguments: Mapping[str, Any] = (transformer.settings.get("processing_kwargs") or {}).get(
        "chat_template", {}
    )
    return arguments
