"""FlagEmbedding's families: what each needs, and a tiny checkpoint of each.

FlagEmbedding 1.4.2 fails beside newer transformers, each family from another version on; there the
tests of a family give way to one of the error that says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import transformers

from tests.checkpoints import save_bert, save_decoder, save_model

if TYPE_CHECKING:
    from pathlib import Path

VERSION = tuple(map(int, transformers.__version__.split(".")[:2]))


@dataclass(frozen=True)
class Family:
    """One of FlagEmbedding's families, and the settings that its tiny model needs."""

    name: str
    flag_class: str
    broken_since: tuple[int, int]
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def needed(self) -> str:
        return "transformers<" + ".".join(map(str, self.broken_since))


ENCODER = Family("encoder-only-base", "FlagReranker", (5, 24))
GEMMA = Family("decoder-only-base", "FlagLLMReranker", (5, 24))
LAYERWISE = Family(
    "decoder-only-layerwise", "LayerWiseFlagLLMReranker", (4, 54), {"cutoff_layers": [3]}
)
COMPRESSED = {"cutoff_layers": [3], "compress_layers": [2], "compress_ratio": 2}
LIGHTWEIGHT = Family("decoder-only-lightweight", "LightWeightFlagLLMReranker", (4, 48), COMPRESSED)
FAMILIES = (ENCODER, GEMMA, LAYERWISE, LIGHTWEIGHT)


def where_it_works(*families: Family) -> Any:
    """Run a test for each family that this transformers allows."""
    skip = pytest.mark.skipif
    return pytest.mark.parametrize(
        "family",
        [
            pytest.param(
                one, id=one.name, marks=skip(one.broken_since <= VERSION, reason=one.needed)
            )
            for one in families
        ],
    )


every_family = where_it_works(*FAMILIES)
with_encoder = where_it_works(ENCODER)


def save_tiny(family: Family, folder: Path, real: str) -> str:
    if family is ENCODER:
        return save_bert(folder, real, "BertForSequenceClassification", num_labels=1)
    more = {"num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 2048}
    # Gives the tokenizer, and for one family the model.
    save_decoder(folder, "GemmaForCausalLM", template=None, **more, head_dim=8)
    if family is GEMMA:
        return str(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    more |= {"num_key_value_heads": 4, "vocab_size": len(tokenizer), "start_layer": 2}
    more |= {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos")}
    if family is LAYERWISE:
        from FlagEmbedding.inference.reranker.decoder_only.models import modeling_minicpm_reranker

        kind = modeling_minicpm_reranker.LayerWiseMiniCPMForCausalLM
        return save_model(folder, kind, **more, dim_model_base=16, scale_depth=1.4, scale_emb=12)
    from FlagEmbedding.inference.reranker.decoder_only.models import gemma_model

    layers = {"layer_sep": 1, "layer_wise": True, "head_dim": 8, "query_pre_attn_scalar": 8}
    return save_model(folder, gemma_model.CostWiseGemmaForCausalLM, **more, **layers)
