"""Every form of reranker scores as in sentence-transformers, whose checkpoints they are."""

from __future__ import annotations

from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from langchain_rerank import TorchCrossEncoder
from langchain_rerank.cross_encoders import heads
from tests import checkpoints
from tests.checkpoints import LOOP_TEMPLATE, QWEN3_TEMPLATE, STRUCTURED_TEMPLATE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from sentence_transformers import CrossEncoder

QUERY = "what does the with statement do"
# Short, empty, odd and far over the limit; the first and the last stand beside the longest.
PASSAGES = [
    "short",
    topics["with"][:250],
    "",
    topics["lambda"][:3000],
    "  yes, Ünicode <b>🙂</b> \n\n and {{ braces }}\t",
    topics["del"][:600],
    "the with statement wraps a block",
]
PAIRS = [(QUERY, passage) for passage in PASSAGES] + [("no?", "yes"), ("is it <|im_end|>", "it is")]

PROMPT = "Find what explains Python: "
PROMPTS: dict[str, Any] = {
    "prompts": {"python": PROMPT, "other": "no: "},
    "default_prompt_name": "python",
}


def bert(folder: Path, real: str) -> str:
    config = {"num_labels": 1, "max_position_embeddings": checkpoints.LIMIT}
    return checkpoints.save_bert(folder, real, "BertForSequenceClassification", **config)


def bert_with_unread_prompts(folder: Path, real: str) -> str:
    """Without a modules.json sentence-transformers looks no further."""
    return checkpoints.save_settings(
        bert(folder, real), "config_sentence_transformers.json", **PROMPTS
    )


def modernbert(pooling: str) -> Callable[[Path, str], str]:
    name = "ModernBertForSequenceClassification"
    return lambda folder, _: checkpoints.save_modernbert(
        folder, name, classifier_pooling=pooling, num_labels=1
    )


def decoder(name: str, template: str | None = None) -> Callable[[Path, str], str]:
    labels = {"num_labels": 1} if name.endswith("Classification") else {}
    return lambda folder, _: checkpoints.save_decoder(folder, name, template=template, **labels)


def resaved(save: Callable[[Path, str], str], **keywords: Any) -> Callable[[Path, str], str]:
    """A checkpoint as sentence-transformers writes it after it has loaded one."""

    def save_again(folder: Path, real: str) -> str:
        from sentence_transformers import CrossEncoder

        before = save(folder / "before", real)
        CrossEncoder(before, device="cpu", **keywords).save_pretrained(str(folder / "after"))
        return str(folder / "after")

    return save_again


def ettin(pooling: str, **dense: Any) -> Callable[[Path, str], str]:
    """Modules as in cross-encoder/ettin-reranker-*."""

    def save(folder: Path, _: str) -> str:
        from sentence_transformers import CrossEncoder
        from sentence_transformers.base.modules import Dense, Transformer
        from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

        bare = checkpoints.save_modernbert(folder / "bare", "ModernBertModel")
        with torch.random.fork_rng():
            torch.manual_seed(1)
            modules = [
                Transformer(bare, transformer_task="feature-extraction"),
                Pooling(32, pooling_mode=pooling),
                Dense(32, 32, bias=False, activation_function=torch.nn.GELU(), **dense),
                LayerNorm(32),
                Dense(32, 1, activation_function=torch.nn.Identity(), module_output_name="scores"),
            ]
        model = CrossEncoder(modules=modules, device="cpu", activation_fn=torch.nn.Identity())
        model.save_pretrained(str(folder / "ettin"))
        return str(folder / "ettin")

    return save


def logit_score(
    *answers: str, template: str | None = QWEN3_TEMPLATE, **keywords: Any
) -> Callable[[Path, str], str]:
    """A language model whose score is the logit of a first answer, less that of a second."""

    def save(folder: Path, _: str) -> str:
        from sentence_transformers import CrossEncoder
        from sentence_transformers.base.modules import Transformer
        from sentence_transformers.cross_encoder.modules import LogitScore

        bare = checkpoints.save_decoder(folder / "bare", "Qwen3ForCausalLM", template=template)
        transformer = Transformer(bare, transformer_task="text-generation", **keywords)
        ids = [transformer.tokenizer.convert_tokens_to_ids(answer) for answer in answers]
        model = CrossEncoder(modules=[transformer, LogitScore(*ids)], device="cpu")
        model.save_pretrained(str(folder / "lm"))
        return str(folder / "lm")

    return save


QWEN3, LLAMA = "Qwen3ForSequenceClassification", "LlamaForSequenceClassification"
GENERATION = {"chat_template": {"add_generation_prompt": True}}
FORMS: Mapping[str, Callable[[Path, str], str]] = {
    "bert": bert,
    "bert with prompts that nobody reads": bert_with_unread_prompts,
    "bert, modular": resaved(bert),
    "bert with a prompt": resaved(bert, **PROMPTS),
    "xlm-roberta": lambda folder, _: checkpoints.save_xlm_roberta(folder),
    "deberta-v2": lambda folder, _: checkpoints.save_deberta(folder),
    "modernbert, cls": modernbert("cls"),
    "modernbert, mean": modernbert("mean"),
    "qwen3": decoder(QWEN3),
    "qwen3 with a prompt": resaved(decoder(QWEN3), **PROMPTS),
    "qwen3 with a template": decoder(QWEN3, QWEN3_TEMPLATE),
    "qwen3 with a template, modular": resaved(decoder(QWEN3, QWEN3_TEMPLATE)),
    "qwen3 with a template and a prompt": resaved(decoder(QWEN3, QWEN3_TEMPLATE), **PROMPTS),
    "qwen3 with a template of parts": decoder(QWEN3, STRUCTURED_TEMPLATE),
    "qwen3 with a loop in its template": decoder(QWEN3, LOOP_TEMPLATE),
    "qwen3 with a loop and a prompt": resaved(decoder(QWEN3, LOOP_TEMPLATE), **PROMPTS),
    "llama": decoder(LLAMA),
    "llama with a template": decoder(LLAMA, QWEN3_TEMPLATE),
    "ettin, cls": ettin("cls"),
    "ettin, mean and residual": ettin("mean", use_residual=True),
    "ettin with a prompt": resaved(ettin("cls"), **PROMPTS),
    "logit score of two tokens": logit_score("yes", "no"),
    "logit score of one token": logit_score("yes"),
    "logit score with a suffix that is asked for": logit_score(
        "yes", "no", template=LOOP_TEMPLATE, processing_kwargs=GENERATION
    ),
    "logit score with a prompt": resaved(logit_score("yes", "no"), **PROMPTS),
    "qwen3 language model with a template": decoder("Qwen3ForCausalLM", QWEN3_TEMPLATE),
}


@pytest.fixture(scope="module")
def saved(checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Folder of a form, saved when first asked for."""
    folders: dict[str, str] = {}

    def folder_of(form: str) -> str:
        if form not in folders:
            folders[form] = FORMS[form](tmp_path_factory.mktemp("form"), checkpoint)
        return folders[form]

    return folder_of


def theirs(folder: str) -> CrossEncoder:
    from sentence_transformers import CrossEncoder

    return CrossEncoder(folder, device="cpu")


def logits(model: CrossEncoder, pairs: list[tuple[str, str]]) -> list[float]:
    return model.predict(pairs, activation_fn=torch.nn.Identity()).tolist()


def watched(transformer: torch.nn.Module) -> list[list[int]]:
    """Collects the token ids that a transformer reads, without padding."""
    rows: list[list[int]] = []

    def note(_module: Any, args: Any, inputs: dict[str, Any]) -> None:
        # Theirs takes a dict, transformers keywords.
        inputs = args[0] if args else inputs
        for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
            rows.append(ids[mask.bool()].tolist())

    transformer.register_forward_pre_hook(note, with_kwargs=True)
    return rows


@pytest.mark.parametrize("form", FORMS)
def test_tokens_logits_and_scores_are_those_of_sentence_transformers(saved, form, monkeypatch):
    model = theirs(saved(form))
    tokens = watched(model[0])
    expected = logits(model, PAIRS)
    assert np.ptp(expected) > 0.01, "a model that scores all alike would prove nothing"
    ours = TorchCrossEncoder(model=saved(form), device="cpu", normalize=False)
    assert ours.score(PAIRS) == pytest.approx(expected, abs=1e-5)
    assert [ours.score([pair])[0] for pair in PAIRS] == pytest.approx(expected, abs=1e-5)
    sigmoids = torch.tensor(expected).sigmoid().tolist()
    normalized = ours.model_copy(update={"normalize": True})
    assert normalized.score(PAIRS) == pytest.approx(sigmoids, abs=1e-5)
    assert ours.activation == ("identity" if form.startswith("ettin") else "sigmoid")
    # What rows share would be read once, and missing from each.
    monkeypatch.setattr(ours._loaded._scorer, "shares_prefixes", False)
    read = watched(ours._loaded._scorer.model)
    ours.score(PAIRS)
    assert sorted(read) == sorted(tokens)


@pytest.mark.parametrize("form", ["bert with a prompt", "qwen3 with a template and a prompt"])
def test_the_saved_prompt_changes_scores(saved, form):
    """Else the tests above would pass for a prompt that both leave out."""
    model = theirs(saved(form))
    without = model.predict(PAIRS, activation_fn=torch.nn.Identity(), prompt="").tolist()
    assert logits(model, PAIRS) != pytest.approx(without, abs=1e-2)


@pytest.mark.parametrize("form", [form for form in FORMS if "logit" in form.lower()])
def test_a_shared_prefix_is_read_once_and_changes_no_score(saved, form, monkeypatch):
    """Passages of one question share the prompt and the question."""
    passages = ["word " * count + "end" for count in range(12)]
    pairs = [("which of the words comes last in a row of words?", passage) for passage in passages]
    model = TorchCrossEncoder(model=saved(form), device="cpu", normalize=False)
    alone = [model.score([pair])[0] for pair in pairs]
    read: list[int] = []
    prefix = heads.Scorer.read_prefix
    monkeypatch.setattr(
        heads.Scorer,
        "read_prefix",
        lambda self, ids: read.append(ids.shape[1]) or prefix(self, ids),
    )
    assert model.score(pairs) == pytest.approx(alone, abs=1e-5)
    assert len(read) == 1
    assert read[0] >= 16


def test_a_folder_whose_name_says_how_it_scores_is_not_shared_with_others(tmp_path):
    folder = decoder("Qwen3ForCausalLM", LOOP_TEMPLATE)(tmp_path / "plain", "")
    known = tmp_path / "Qwen3-Reranker-0.6B"
    known.symlink_to(folder)
    ours = TorchCrossEncoder(model=known, device="cpu", normalize=False)
    expected = ours.score(PAIRS[:2])
    ours.close()
    other = TorchCrossEncoder(model=folder, device="cpu", normalize=False)
    assert other.score(PAIRS[:2]) != pytest.approx(expected, abs=1e-3)
    assert ours.score(PAIRS[:2]) == expected
