"""From a checkpoint to a PyTorch module that gives one logit for each row of token ids."""

from __future__ import annotations

import copy
import inspect
import logging
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import DynamicCache

from langchain_rerank.cross_encoders.checkpoint_files import RefusedError
from langchain_rerank.cross_encoders.layers import LAYER_TYPES, Features

if TYPE_CHECKING:
    from langchain_rerank.cross_encoders.checkpoint import Checkpoint

logger = logging.getLogger(__name__)


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
        LAYER_TYPES[layer.kind](layer) for layer in checkpoint.layers if layer.kind in LAYER_TYPES
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
        # Renamed in transformers 5.24.
        accepted = inspect.signature(model.forward).parameters
        self._cache_name = "cache" if "cache" in accepted else "past_key_values"
        self.shares_prefixes = self._may_share_prefixes() and self._prefixes_work()

    @property
    def padding_side(self) -> str | None:
        """Where rows must be padded; None where the tokenizer says it."""
        return None if self._task == "sequence-classification" else "right"

    def _may_share_prefixes(self) -> bool:
        """Tell whether rows see all of what comes before them."""
        config = self.model.config
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        windows = getattr(config, "use_sliding_window", True) and getattr(
            config, "sliding_window", None
        )
        return self._task == "text-generation" and kinds == {"full_attention"} and not windows

    def _prefixes_work(self) -> bool:
        """Try it: it is no more than faster, and no release of transformers may break us by it."""
        ids = torch.arange(4, 16).reshape(2, 6) % self.model.config.vocab_size
        ids[1, :3] = ids[0, :3]
        self.eval()
        try:
            with torch.inference_mode(), warnings.catch_warnings():
                warnings.simplefilter("error")
                whole = self(input_ids=ids, attention_mask=torch.ones_like(ids))
                rest = ids[:, 3:]
                prefix = self.read_prefix(ids[:1, :3])
                parts = self(prefix, input_ids=rest, attention_mask=torch.ones_like(rest))
        # Whatever a release changes.
        except Exception as error:  # noqa: BLE001  # logged, and done without
            logger.info("prompts are read anew for each passage: %s", error)
            return False
        return torch.allclose(whole, parts, rtol=1e-2, atol=1e-2)

    def read_prefix(self, input_ids: torch.Tensor) -> Any:
        """Compute the keys and values of a start that rows share, shape (1, tokens)."""
        cache = DynamicCache()
        mask = torch.ones_like(input_ids)
        given = {"input_ids": input_ids, "attention_mask": mask, self._cache_name: cache}
        self.model(**given, use_cache=True, return_dict=True)
        return cache

    def forward(self, prefix: Any = None, **inputs: torch.Tensor) -> torch.Tensor:
        """Compute logits, shape (rows,).

        Args:
            prefix: What `read_prefix` gave for the tokens that come before all rows.
            **inputs: `input_ids`, `attention_mask` and what else the tokenizer gives, each of
                shape (rows, longest row).
        """
        mask = inputs["attention_mask"]
        cached: dict[str, Any] = {}
        if prefix is not None:
            # Each batch writes into a copy of its own.
            past = copy.deepcopy(prefix)
            past.batch_repeat_interleave(mask.shape[0])
            read = torch.ones(mask.shape[0], past.get_seq_length(), dtype=mask.dtype)
            whole = torch.cat([read.to(mask.device), mask], dim=1)
            cached = {"attention_mask": whole, self._cache_name: past, "use_cache": True}
        output = self.model(**{**inputs, **cached}, return_dict=True)
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
