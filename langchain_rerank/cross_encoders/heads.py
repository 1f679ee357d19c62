"""From a checkpoint to a PyTorch module that gives one logit for each row of token ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from langchain_rerank.cross_encoders.checkpoint_files import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_rerank.cross_encoders.checkpoint import Checkpoint, Layer

Features = dict[str, torch.Tensor]

_AUTO_CLASSES = {
    "sequence-classification": "AutoModelForSequenceClassification",
    "feature-extraction": "AutoModel",
    "text-generation": "AutoModelForCausalLM",
}


def load_tokenizer(checkpoint: Checkpoint, *, trust_remote_code: bool = False) -> Any:
    """Load the fast tokenizer of a checkpoint.

    Raises:
        RefusedError: It has no fast tokenizer, or one that doesn't fit the model.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        checkpoint.folder, trust_remote_code=trust_remote_code
    )
    if not tokenizer.is_fast:
        msg = f"it has no fast tokenizer, only {type(tokenizer).__name__}."
        raise RefusedError(msg)
    # Without tokenizer files transformers makes up a tokenizer to which every word is unknown.
    vocabulary, words = checkpoint.config.get("vocab_size") or 0, len(tokenizer)
    if words < vocabulary // 2:
        msg = f"its tokenizer knows {words} tokens, the model {vocabulary}: files are missing."
        raise RefusedError(msg)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    # The limit is the checkpoint's; here it would only be warned about.
    tokenizer.model_max_length = 10**9
    return tokenizer


def build(checkpoint: Checkpoint, tokenizer: Any, *, trust_remote_code: bool = False) -> Scorer:
    """Load the weights of a checkpoint, on the CPU and in the precision that they are saved in.

    Raises:
        RefusedError: Weights are missing that would have been initialised at random, or a token
            of the head is not in the vocabulary.
    """
    import transformers

    auto = getattr(transformers, _AUTO_CLASSES[checkpoint.task])
    model, report = auto.from_pretrained(
        checkpoint.transformer, trust_remote_code=trust_remote_code, output_loading_info=True
    )
    missing = set(report["missing_keys"])
    invented = [name for name, _ in model.named_parameters() if name in missing]
    if checkpoint.task == "feature-extraction":
        # BERT's pooler: saved by few, used by none of the layers behind.
        invented = [name for name in invented if not name.startswith("pooler.")]
    if invented:
        msg = f"the checkpoint lacks weights of a reranker, among them {', '.join(invented[:3])}."
        raise RefusedError(msg)
    layers = [
        _LAYER_TYPES[layer.kind](layer) for layer in checkpoint.layers if layer.kind in _LAYER_TYPES
    ]
    if checkpoint.task == "text-generation":
        _keep_rows(model, _token_ids(checkpoint, tokenizer))
    if getattr(model.config, "pad_token_id", None) is None:
        # Decoder classifiers find the last token of a row by it.
        model.config.pad_token_id = tokenizer.pad_token_id
    if getattr(model.config, "use_cache", None):
        model.config.use_cache = False
    return Scorer(model, checkpoint, layers).eval()


def _token_ids(checkpoint: Checkpoint, tokenizer: Any) -> list[int]:
    """Ids of the tokens whose logits make the score: the true one, then the false one, if any."""
    if checkpoint.layers:
        settings = checkpoint.layers[-1].settings
        ids = [settings.get("true_token_id"), settings.get("false_token_id")]
    else:
        texts = (checkpoint.true_token, checkpoint.false_token)
        ids = [
            None if text is None else tokenizer(text, add_special_tokens=False)["input_ids"][0]
            for text in texts
        ]
    if ids[0] is None:
        msg = "its LogitScore module names no true_token_id."
        raise RefusedError(msg)
    return [id_ for id_ in ids if id_ is not None]


def _keep_rows(model: Any, ids: list[int]) -> None:
    """Leave of the output layer the rows of some tokens: logits of no other are computed."""
    whole = model.get_output_embeddings()
    if any(not 0 <= id_ < whole.weight.shape[0] for id_ in ids):
        msg = (
            f"its LogitScore module names the tokens {ids}, of a vocabulary of {len(whole.weight)}."
        )
        raise RefusedError(msg)
    bias = getattr(whole, "bias", None)
    rows = nn.Linear(
        whole.weight.shape[1], len(ids), bias=bias is not None, dtype=whole.weight.dtype
    )
    with torch.no_grad():
        rows.weight.copy_(whole.weight[ids])
        if bias is not None:
            rows.bias.copy_(bias[ids])
    model.set_output_embeddings(rows)


class Scorer(nn.Module):
    """A transformer and what stands behind it: token ids in, one logit a row out."""

    def __init__(self, model: Any, checkpoint: Checkpoint, layers: list[nn.Module]) -> None:
        """Take the loaded parts."""
        super().__init__()
        self.model = model
        self.layers = nn.ModuleList(layers)
        self._task = checkpoint.task
        self._output = checkpoint.output

    @property
    def padding_side(self) -> str | None:
        """Where rows must be padded; None where the tokenizer says it."""
        return None if self._task == "sequence-classification" else "right"

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Compute logits, shape (rows,).

        Args:
            **inputs: `input_ids`, `attention_mask` and what else the tokenizer gives, each of
                shape (rows, longest row).
        """
        output = self.model(**inputs, return_dict=True)
        mask = inputs["attention_mask"]
        if self._task == "text-generation":
            # Padded on the right, a row's last token never sees the padding.
            last: torch.Tensor = output.logits[
                torch.arange(mask.shape[0], device=mask.device), mask.sum(1) - 1
            ]
            return last[:, 0] - last[:, 1] if last.shape[1] == 2 else last[:, 0]  # noqa: PLR2004  # true and false
        if self._task == "sequence-classification" and not self.layers:
            logits: torch.Tensor = output.logits
            return logits.reshape(-1)
        hidden = output.logits if self._task == "sequence-classification" else output[0]
        features: Features = {self._output: hidden, "attention_mask": mask}
        for layer in self.layers:
            layer(features)
        return features["scores"].reshape(-1)


def _weights(layer: Layer) -> Mapping[str, torch.Tensor]:
    safe, pickled = layer.folder / "model.safetensors", layer.folder / "pytorch_model.bin"
    if safe.is_file():
        from safetensors.torch import load_file

        return load_file(safe)
    if pickled.is_file():
        weights: Mapping[str, torch.Tensor] = torch.load(
            pickled, map_location="cpu", weights_only=True
        )
        return weights
    msg = f"there are no weights of its {layer.kind} module in {layer.folder}."
    raise RefusedError(msg)


def _load(module: nn.Module, layer: Layer) -> None:
    try:
        module.load_state_dict(dict(_weights(layer)))
    except RuntimeError as error:
        msg = f"the weights of its {layer.kind} module in {layer.folder} don't fit: {error}"
        raise RefusedError(msg) from error


def _pooling_modes(settings: Mapping[str, Any]) -> list[str]:
    """Read the modes as they are saved today, or in the older form of one flag each."""
    modes = settings.get("pooling_mode")
    if modes:
        return [modes] if isinstance(modes, str) else list(modes)
    flags = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}
    names = [
        name.removeprefix("pooling_mode_")
        for name, wanted in settings.items()
        if name.startswith("pooling_mode_") and wanted
    ]
    return [flags.get(name, name) for name in names]


class _Pooling(nn.Module):
    """Hidden states of a row to one vector: the first, the last, their mean or their maximum."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self._modes = _pooling_modes(layer.settings)
        if not self._modes or set(self._modes) - {"cls", "mean", "max", "lasttoken"}:
            msg = f"its Pooling module pools by {self._modes}; done are cls, mean, max, lasttoken."
            raise RefusedError(msg)

    def forward(self, features: Features) -> None:
        tokens, mask = features["token_embeddings"], features["attention_mask"]
        wide, rows = mask.unsqueeze(-1).to(tokens.dtype), torch.arange(mask.shape[0])
        pooled = []
        for mode in self._modes:
            if mode == "cls":
                pooled.append(tokens[:, 0])
            elif mode == "lasttoken":
                pooled.append(tokens[rows.to(mask.device), mask.sum(1) - 1])
            elif mode == "mean":
                total = (tokens * wide).sum(1, dtype=torch.float32)
                pooled.append((total / wide.sum(1, dtype=torch.float32)).to(tokens.dtype))
            else:
                pooled.append(tokens.masked_fill(wide == 0, -torch.inf).amax(1))
        features["sentence_embedding"] = torch.cat(pooled, dim=-1)


class _Dense(nn.Module):
    """A linear layer with an activation and, if it asks for it, a residual connection."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        settings = layer.settings
        sizes = settings["in_features"], settings["out_features"]
        self.linear = nn.Linear(*sizes, bias=settings.get("bias", True))
        self._residual = settings.get("use_residual", False)
        if self._residual and sizes[0] != sizes[1]:
            self.residual = nn.Linear(*sizes, bias=False)
        self._input = settings.get("module_input_name", "sentence_embedding")
        self._output = settings.get("module_output_name") or self._input
        _load(self, layer)
        self.activation = _activation(settings.get("activation_function", "torch.nn.Tanh"))
        if self._output == "scores" and sizes[1] != 1:
            msg = f"its Dense module gives {sizes[1]} scores a pair, a reranker gives one."
            raise RefusedError(msg)

    def forward(self, features: Features) -> None:
        given = features[self._input]
        output = self.activation(self.linear(given))
        if self._residual:
            output = output + (self.residual(given) if hasattr(self, "residual") else given)
        features[self._output] = output


class _LayerNorm(nn.Module):
    """Layer normalisation of the pooled vector."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(layer.settings["dimension"])
        _load(self, layer)

    def forward(self, features: Features) -> None:
        features["sentence_embedding"] = self.norm(features["sentence_embedding"])


def _activation(name: str | None) -> nn.Module:
    """One of PyTorch's own activations, by the dotted name that sentence-transformers saves."""
    if name is None:
        return nn.Identity()
    found = getattr(nn, name.rpartition(".")[2], None) if name.startswith("torch.") else None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        msg = f"its Dense module asks for the activation {name}; done are those of torch.nn."
        raise RefusedError(msg)
    module: nn.Module = found()
    return module


_LAYER_TYPES: dict[str, type[nn.Module]] = {
    "Pooling": _Pooling,
    "Dense": _Dense,
    "LayerNorm": _LayerNorm,
}
