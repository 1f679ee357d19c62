"""FlagEmbedding's own engine, all four families end to end, and ours measured against it."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from langchain_rerank import FlagEmbeddingCrossEncoder, ScoringError, TorchCrossEncoder
from langchain_rerank.cross_encoders.flag_embedding import missing_weights
from langchain_rerank.cross_encoders.processes import CancelledCallError, cancelled
from tests.checkpoints import save_bert
from tests.cross_encoders.families import (
    GEMMA,
    LAYERWISE,
    LIGHTWEIGHT,
    every_family,
    where_it_works,
    with_encoder,
)
from tests.texts import real_pairs

if TYPE_CHECKING:
    from collections.abc import Callable

QUERY = "what does the with statement do"
PASSAGES = [
    topics["with"][:300],
    "short",
    topics["lambda"][:150],
    topics["del"][:500],
    "🙂 \u200fשלם \ud83d",
]
PAIRS = [(QUERY, passage) for passage in PASSAGES]
WELL_FORMED = [(QUERY, passage.replace("\ud83d", "\ufffd")) for passage in PASSAGES]


def hook(model: FlagEmbeddingCrossEncoder, check: Callable[[torch.Tensor], None]) -> list[int]:
    """Call `check` on the input ids within each forward pass; the list collects batch sizes."""
    sizes: list[int] = []

    def before(_module: Any, args: tuple[torch.Tensor]) -> None:
        sizes.append(len(args[0]))
        check(args[0])

    model.load()
    model._loaded.model.get_input_embeddings().register_forward_pre_hook(before)
    return sizes


# Scores


@with_encoder
def test_our_loop_scores_as_flagreranker(make_flag, family):
    instructed = {"query_instruction": "Find: ", "passage_instruction": "Text: ", "max_length": 96}
    for fields, count in (({}, 200), (instructed, 48)):
        theirs = make_flag(family, **fields)
        ours = TorchCrossEncoder(model=theirs.model, device="cpu", normalize=False, **fields)
        pairs = real_pairs(count)
        assert ours.score(pairs) == pytest.approx(theirs.score(pairs), abs=1e-4)


@pytest.mark.parametrize("max_length", [64, 256])
@where_it_works(GEMMA)
def test_our_loop_scores_as_flagllmreranker(
    flagembedding, flag_folder, tmp_path, family, max_length
):
    folder = shutil.copytree(flag_folder(family), tmp_path / "bge-reranker-v2-gemma")
    # The first one's query is cut, and FlagEmbedding counts its "A: " there.
    pairs = [*WELL_FORMED, *real_pairs(40)[1:]]
    ours = TorchCrossEncoder(model=folder, device="cpu", normalize=False, max_length=max_length)
    expected = flagembedding(family, max_length=max_length).compute_score(pairs)
    assert ours.score(pairs) == pytest.approx(expected, abs=1e-4)
    assert np.ptp(expected) > 0.1, "a model that scores all alike would prove nothing"


@every_family
def test_scores_are_those_of_flagembedding_whatever_their_company(make_flag, flagembedding, family):
    expected = flagembedding(family).compute_score(WELL_FORMED, **family.kwargs)
    model = make_flag(family)
    scores = model.score(PAIRS)
    assert [type(score) for score in scores] == [float] * len(PAIRS)
    assert scores == pytest.approx(expected, abs=1e-4)
    assert np.ptp(scores) > 0.1, "a model that scores all alike would prove nothing"
    assert model.score(PAIRS[::-1]) == pytest.approx(scores[::-1], abs=1e-5)
    assert [model.score([pair])[0] for pair in PAIRS] == pytest.approx(scores, abs=1e-4)
    model.close()
    assert model.score(PAIRS) == pytest.approx(scores, abs=1e-6)
    sigmoids = [1 / (1 + np.exp(-logit)) for logit in expected]
    assert make_flag(family, normalize=True).score(PAIRS) == pytest.approx(sigmoids, abs=1e-4)


@where_it_works(GEMMA, LAYERWISE, LIGHTWEIGHT)
def test_instructions_and_prompt_are_passed_on(make_flag, flagembedding, family):
    texts = {"query_instruction": "Question: ", "passage_instruction": "Text: "}
    named = {f"{name}_for_rerank": text for name, text in texts.items()}
    kwargs = {**family.kwargs, "prompt": "Yes or No?"}
    expected = flagembedding(family, **named).compute_score(WELL_FORMED, **kwargs)
    ours = make_flag(family, compute_score_kwargs=kwargs, **texts).score(PAIRS)
    assert ours == pytest.approx(expected, abs=1e-4)
    assert ours != pytest.approx(make_flag(family).score(PAIRS), abs=1e-2)


@where_it_works(LAYERWISE, LIGHTWEIGHT)
def test_the_cutoff_layer_chooses_the_score_and_must_be_one(make_flag, family):
    def scores(layers: list[int], count: int = 5) -> list[float]:
        return make_flag(family, compute_score_kwargs={"cutoff_layers": layers}).score(
            PAIRS[:count]
        )

    assert len({tuple(scores([layer])) for layer in (2, 3, 4)}) == 3
    for layers, count in (([2, 3], 1), ([2, 3], 2), ([99], 1), ([99], 5)):
        with pytest.raises(ScoringError, match="layer"):
            scores(layers, count)


# Failures, cancelled calls, bars, other threads and processes


@every_family
def test_a_failing_forward_reaches_the_caller_with_its_cause(make_flag, family):
    for fatal, says in (
        (RuntimeError("boom"), "boom"),
        (torch.OutOfMemoryError("CUDA"), "lower max_length or choose a smaller model"),
    ):
        model = make_flag(family)
        sizes = hook(model, Mock(side_effect=fatal))
        with pytest.raises(ScoringError, match=says) as raised:
            model.score(PAIRS)
        assert raised.value.__cause__ is fatal
        assert sizes[-1] == 1 or len(sizes) == 1, "FlagEmbedding alone would go on to no pair"


@every_family
def test_out_of_memory_on_a_big_batch_is_survived(make_flag, family):
    model = make_flag(family, batch_tokens=8192)
    expected = model.score(PAIRS)

    def check(ids: torch.Tensor) -> None:
        if len(ids) > 2:
            raise torch.OutOfMemoryError

    sizes = hook(model, check)
    assert model.score(PAIRS) == pytest.approx(expected, abs=1e-4)
    assert (sizes[0], sizes[-1] <= 2) == (len(PAIRS), True)


@every_family
def test_a_cancelled_call_ends_between_batches(make_flag, family):
    event = threading.Event()
    model = make_flag(family, batch_tokens=1)
    sizes = hook(model, lambda _ids: event.set())
    token = cancelled.set(event)
    try:
        with pytest.raises(CancelledCallError):
            model.score(PAIRS * 5)
    finally:
        cancelled.reset(token)
    assert 0 < len(sizes) < len(PAIRS)
    assert len(model.score(PAIRS)) == len(PAIRS)


@with_encoder
def test_only_the_start_of_a_long_document_is_tokenized(make_flag, family, monkeypatch):
    model = make_flag(family, max_length=96)
    long = " ".join(topics.values())[:200_000]
    expected = model.score([(QUERY, long[:4000])])
    sent: list[int] = []
    compute_score = model._loaded.compute_score

    def counting(pairs, **kwargs):
        sent.extend(len(text) for _, text in pairs)
        return compute_score(pairs, **kwargs)

    monkeypatch.setattr(model._loaded, "compute_score", counting)
    assert model.score([(QUERY, long)]) == pytest.approx(expected, abs=1e-5)
    assert max(sent) < 5000


@every_family
def test_bars_where_asked_for_and_for_direct_users(make_flag, flagembedding, family, capfd):
    many = WELL_FORMED * 3
    make_flag(family, batch_tokens=1024).score(many)
    assert "it/s" not in capfd.readouterr().err
    make_flag(family, batch_tokens=1024, show_progress=True).score(many)
    assert "it/s" in capfd.readouterr().err
    flagembedding(family).compute_score(many, batch_size=2, **family.kwargs)
    assert "it/s" in capfd.readouterr().err


def test_other_threads_load_models_undisturbed(checkpoint, tmp_path):
    """While we watch for missing weights, another thread may load what transformers allows."""
    from transformers import AutoModelForSequenceClassification, PreTrainedModel

    load = AutoModelForSequenceClassification.from_pretrained
    before = PreTrainedModel.__dict__["from_pretrained"]
    headless = save_bert(tmp_path, checkpoint, "BertModel", num_labels=1)
    with ThreadPoolExecutor(1) as other, missing_weights() as missing:
        plain = other.submit(load, headless).result()
        model, report = other.submit(load, headless, output_loading_info=True).result()
        assert missing == [], "their missing head is none of our business"
        load(headless)
        assert "classifier.weight" in missing
    assert isinstance(plain, PreTrainedModel)
    assert isinstance(model, PreTrainedModel)
    assert "classifier.weight" in report["missing_keys"]
    assert PreTrainedModel.__dict__["from_pretrained"] is before
