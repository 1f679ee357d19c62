"""From a checkpoint to a PyTorch module that gives one logit for each row of token ids."""

from __future__ import annotations

import copy
import inspect
import logging
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn

from langchain_rerank.cross_encoders.checkpoint import TASKS, RefusedError, require

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from langchain_rerank.cross_encoders.checkpoint import Checkpoint, Layer

logger = logging.getLogger(__name__)

Features = dict[str, torch.Tensor]


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """Load the fast tokenizer of a checkpoint, refused if it doesn't fit the model."""
    folder, auto = checkpoint.folder, transformers.AutoTokenizer
    tokenizer: Any = auto.from_pretrained(folder, trust_remote_code=checkpoint.trusted)
    check_tokenizer(folder, tokenizer, checkpoint.config.get("vocab_size") or 0)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    # The limit is the checkpoint's; here it would only be warned about.
    tokenizer.model_max_length = 10**9
    return tokenizer


def check_tokenizer(folder: Path, tokenizer: Any, vocabulary: int) -> None:
    """Refuse one that isn't fast, or that transformers made up, to which every word is unknown."""
    require(tokenizer.is_fast, folder, f"has only {type(tokenizer).__name__}, no fast tokenizer")
    words = len(tokenizer)
    knows = f"has a tokenizer that knows {words} tokens, and a model that knows {vocabulary}"
    require(words >= vocabulary // 2, folder, knows, "Files are missing.")


def check_weights(folder: Path, model: Any, missing: Iterable[str]) -> None:
    """Refuse a model some of whose weights are not in its files, as transformers reports it."""
    invented = sorted({name for name, _ in model.named_parameters()}.intersection(missing))
    lacks = f"lacks weights of a reranker, among them {', '.join(invented[:3])}"
    require(not invented, folder, lacks, "They would be random.")


def build(checkpoint: Checkpoint, tokenizer: Any) -> Scorer:
    """Load the weights of a checkpoint, on the CPU and in the precision that they are saved in."""
    auto = getattr(transformers, TASKS[checkpoint.task][0])
    model, report = auto.from_pretrained(
        checkpoint.folder, trust_remote_code=checkpoint.trusted, output_loading_info=True
    )
    # BERT's pooler is saved by few, and used by none of the layers behind.
    unused = ("pooler.",) if checkpoint.task == "feature-extraction" else ()
    missing = (name for name in report["missing_keys"] if not name.startswith(unused))
    check_weights(checkpoint.folder, model, missing)
    if checkpoint.task == "text-generation":
        _keep_answers(model, checkpoint, tokenizer)
    if getattr(model.config, "pad_token_id", None) is None:
        # Decoder classifiers find the last token of a row by it.
        model.config.pad_token_id = tokenizer.pad_token_id
    if getattr(model.config, "use_cache", None):
        model.config.use_cache = False
    return Scorer(model, checkpoint).eval()


def _keep_answers(model: Any, checkpoint: Checkpoint, tokenizer: Any) -> None:
    """Leave of the output layer the rows of the true and the false token: no more is computed."""
    ids = [
        tokenizer(text, add_special_tokens=False)["input_ids"][0]
        for text in (checkpoint.true_token, checkpoint.false_token)
        if text
    ]
    if checkpoint.layers:
        settings = checkpoint.layers[-1].settings
        ids = [settings.get("true_token_id", -1), settings.get("false_token_id")]
        ids = ids[: 1 if ids[1] is None else 2]
    whole = model.get_output_embeddings()
    known = all(id_ in range(len(whole.weight)) for id_ in ids)
    names = f"has a LogitScore module of true_token_id and false_token_id {ids}"
    require(known, checkpoint.folder, names, f"Its vocabulary is of {len(whole.weight)}.")
    rows = nn.Linear(whole.in_features, len(ids), bias=whole.bias is not None)
    for name, weight in whole.named_parameters():
        setattr(rows, name, nn.Parameter(weight.detach()[ids]))
    model.set_output_embeddings(rows)


class Scorer(nn.Module):
    """A transformer and what stands behind it: token ids in, one logit a row out."""

    def __init__(self, model: Any, checkpoint: Checkpoint) -> None:
        """Take the loaded transformer, and load the layers behind it."""
        super().__init__()
        self.model = model
        self._task = checkpoint.task
        self._output = checkpoint.output
        behind = [layer for layer in checkpoint.layers if layer.kind != "LogitScore"]
        self.layers = nn.ModuleList(_LAYERS[layer.kind](layer) for layer in behind)
        # Renamed in transformers 5.24.
        accepted = inspect.signature(model.forward).parameters
        self._cache_name = "cache" if "cache" in accepted else "past_key_values"
        self.shares_prefixes = self._task == "text-generation" and self._prefixes_work()

    @torch.inference_mode()
    def _prefixes_work(self) -> bool:
        """Try it: it is no more than faster, and no release of transformers may break us by it."""
        config = self.model.config
        windows = getattr(config, "use_sliding_window", True)
        windows = windows and getattr(config, "sliding_window", None)
        if windows or set(getattr(config, "layer_types", None) or ()) - {"full_attention"}:
            # Tokens don't see all of what comes before them.
            return False
        ids = torch.arange(4, 16).reshape(2, 6) % config.vocab_size
        ids[1, :3] = ids[0, :3]
        mask = torch.ones_like(ids)
        self.eval()
        try:
            prefix = self.read_prefix(ids[:1, :3])
            parts = self(prefix, input_ids=ids[:, 3:], attention_mask=mask[:, 3:])
            whole = self(input_ids=ids, attention_mask=mask)
            return torch.allclose(whole, parts, rtol=1e-2, atol=1e-2)
        # Whatever a release changes.
        except Exception as error:  # noqa: BLE001  # logged, and done without
            logger.info("prompts are read anew for each passage: %s", error)
            return False

    @torch.inference_mode()
    def read_prefix(self, input_ids: torch.Tensor) -> Any:
        """Compute the keys and values of a start that rows share, shape (1, tokens)."""
        cache = transformers.DynamicCache()
        given = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
        self.model(**given, **{self._cache_name: cache}, use_cache=True, return_dict=True)
        return cache

    def forward(self, prefix: Any = None, **inputs: torch.Tensor) -> torch.Tensor:
        """Compute logits, shape (rows,), of what the tokenizer gives, filled up on the right.

        `prefix` is what `read_prefix` gave for the tokens that come before all rows.
        """
        mask = inputs["attention_mask"]
        cached: dict[str, Any] = {}
        if prefix is not None:
            # Each batch writes into a copy of its own.
            past = copy.deepcopy(prefix)
            past.batch_repeat_interleave(mask.shape[0])
            whole = torch.cat([mask.new_ones(mask.shape[0], past.get_seq_length()), mask], dim=1)
            cached = {"attention_mask": whole, self._cache_name: past, "use_cache": True}
        hidden: torch.Tensor = self.model(**{**inputs, **cached}, return_dict=True)[0]
        if self._task == "text-generation":
            last = _last_tokens(hidden, mask)
            return last[:, 0] - last[:, 1] if last.shape[1] > 1 else last[:, 0]
        features: Features = {self._output: hidden, "attention_mask": mask}
        for layer in self.layers:
            layer(features)
        return features["scores" if self.layers else self._output].reshape(-1)


def _last_tokens(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return hidden[torch.arange(mask.shape[0], device=mask.device), mask.sum(1) - 1]


class _Pooling(nn.Module):
    """Hidden states of a row to one vector: the first, the last, their mean or their maximum."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        # Saved as one name or several, in the older form as one flag each.
        modes = layer.settings.get("pooling_mode") or [
            name.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
            for name, wanted in layer.settings.items()
            if name.startswith("pooling_mode_") and wanted
        ]
        self._modes = [modes] if isinstance(modes, str) else modes
        done = self._modes and set(self._modes) <= {"cls", "mean", "max", "lasttoken"}
        require(done, layer.folder, f"pools by {self._modes}", "Done: cls, mean, max, lasttoken.")

    def forward(self, features: Features) -> None:
        tokens, mask = features["token_embeddings"], features["attention_mask"]
        wide = mask.unsqueeze(-1).to(tokens.dtype)
        pooled = {"cls": tokens[:, 0], "lasttoken": _last_tokens(tokens, mask)}
        if "max" in self._modes:
            pooled["max"] = tokens.masked_fill(wide == 0, -torch.inf).amax(1)
        if "mean" in self._modes:
            total, count = (x.sum(1, dtype=torch.float32) for x in (tokens * wide, wide))
            pooled["mean"] = (total / count).to(tokens.dtype)
        features["sentence_embedding"] = torch.cat([pooled[mode] for mode in self._modes], dim=-1)


class _Dense(nn.Module):
    """A linear layer with an activation and, if it asks for it, a residual connection."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        settings = layer.settings
        sizes = settings["in_features"], settings["out_features"]
        self.linear = nn.Linear(*sizes, bias=settings.get("bias", True))
        if settings.get("use_residual"):
            same = sizes[0] == sizes[1]
            self.residual = nn.Identity() if same else nn.Linear(*sizes, bias=False)
        self._input = settings.get("module_input_name", "sentence_embedding")
        self._output = settings.get("module_output_name") or self._input
        _load(self, layer)
        name = settings.get("activation_function", "torch.nn.Tanh") or "torch.nn.Identity"
        found: Any = (
            getattr(nn, name.rpartition(".")[2], None) if name.startswith("torch.") else None
        )
        require(found, layer.folder, f"asks for {name}", "Done are the activations of torch.nn.")
        self.activation = found()
        one = self._output != "scores" or sizes[1] == 1
        require(one, layer.folder, f"gives {sizes[1]} scores a pair", "A reranker gives one.")

    def forward(self, features: Features) -> None:
        given = features[self._input]
        output = self.activation(self.linear(given))
        features[self._output] = (
            output + self.residual(given) if hasattr(self, "residual") else output
        )


class _LayerNorm(nn.Module):
    """Layer normalisation of the pooled vector."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(layer.settings["dimension"])
        _load(self, layer)

    def forward(self, features: Features) -> None:
        features["sentence_embedding"] = self.norm(features["sentence_embedding"])


_LAYERS: dict[str, Any] = {"Pooling": _Pooling, "Dense": _Dense, "LayerNorm": _LayerNorm}


def _load(module: nn.Module, layer: Layer) -> None:
    from safetensors.torch import load_file

    safe, pickled = layer.folder / "model.safetensors", layer.folder / "pytorch_model.bin"
    try:
        if safe.is_file():
            weights = load_file(safe)
        else:
            weights = torch.load(pickled, map_location="cpu", weights_only=True)
        module.load_state_dict(weights)
    except (OSError, RuntimeError) as error:
        msg = f"{layer.folder} lacks weights that fit its {layer.kind} module: {error}"
        raise RefusedError(msg) from error
