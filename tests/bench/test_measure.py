"""Timing side by side: processes of their own, ratios in pairs, arithmetic counted."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForSequenceClassification

from langchain_rerank import TorchCrossEncoder
from langchain_rerank.bench.hardware import pair_flops
from langchain_rerank.bench.measure import Timing, measure, paired_ratio, top_overlap
from langchain_rerank.bench.synthetic import synthetic_checkpoint, synthetic_queries
from langchain_rerank.bench.systems import CPU_SYSTEMS, GPU_SYSTEMS, Models, System
from langchain_rerank.bench.tasks import Size, Task, synthetic_task
from langchain_rerank.bench.worker import SystemFailedError, Worker

BY_KEY = {system.key: system for system in CPU_SYSTEMS}


def timed(*seconds: float) -> Timing:
    return Timing(BY_KEY["torch"], 0.0, seconds=list(seconds))


def test_ratios_are_taken_pair_by_pair():
    # The machine was ten times slower in the second round: the ratio of each round is 2.
    assert paired_ratio(timed(2, 20, 2), timed(1, 10, 1)) == 2
    assert timed(2, 20, 3).median_s == 3


def test_overlap_counts_the_references_best():
    reference = [[5.0, 4.0, 3.0, 2.0], [1.0, 2.0, 3.0, 4.0]]
    scores = [[9.0, 1.0, 8.0, 0.0], [0.0, 0.0, 7.0, 8.0]]
    assert top_overlap(scores, reference, depth=2) == 0.75
    assert top_overlap(reference, reference) == 1


def test_arithmetic_is_what_pytorch_counts():
    config = BertConfig(
        num_hidden_layers=3, hidden_size=64, num_attention_heads=4, intermediate_size=96,
        num_labels=1, vocab_size=50, attn_implementation="eager",
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    lengths = [40, 25]
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        for length in lengths:
            model(torch.ones(1, length, dtype=torch.long))
    pooler_and_head = len(lengths) * 2 * (64 * 64 + 64)
    assert pair_flops(lengths, config) == counter.get_total_flops() - pooler_and_head


@pytest.mark.integration
def test_a_worker_scores_as_the_cross_encoder_does():
    models = Models(synthetic_checkpoint("tiny"))
    pairs = synthetic_queries("tiny", 1, 6, 32)[0].pairs
    expected = TorchCrossEncoder(model=models.checkpoint, device="cpu").score(pairs)
    with Worker(BY_KEY["torch"], models, pairs[:1]) as worker:
        seconds, scores = worker.score(pairs)
        assert scores == pytest.approx(expected, abs=1e-5)
        assert 0 < seconds < worker.cold_start_s
        host = worker.peak().host
        assert host is None or host > 2**26


@pytest.mark.integration
def test_a_system_that_fails_is_left_out_with_its_error(tmp_path):
    models = Models(str(tmp_path / "nothing"))
    with pytest.raises(SystemFailedError, match=r"ModelLoadError: could not load"):
        Worker(BY_KEY["torch"], models, [("query", "passage")])
    given = synthetic_task("tiny", "cpu", Size(queries=1, candidates=3, rounds=1), tokens=32)
    task = Task(models, given.queries, "nothing", given.size)
    timings = measure([BY_KEY["torch"]], task, lambda _: None)
    assert timings.measured == []
    assert "could not load" in timings.failed["langchain-rerank, torch float32"]


@pytest.mark.integration
def test_every_system_scores_every_query_in_every_round_until_it_dies(monkeypatch):
    """One run for all of it, as each system takes seconds to start."""
    size = Size(queries=2, candidates=4, rounds=2, growth=True)
    task = synthetic_task("tiny", "cpu", size, tokens=32)
    by_key = {system.key: system for system in GPU_SYSTEMS}
    victim, *others = (by_key[key] for key in ("torch-bf16", "torch", "huggingface", "flag"))
    score = Worker.score

    def die_in_round_2(worker: Worker, pairs: Any) -> Any:
        if worker.name == victim.name and "round 2" in said[-1]:
            os.kill(worker.pid, signal.SIGKILL)
        return score(worker, pairs)

    monkeypatch.setattr(Worker, "score", die_in_round_2)
    said: list[str] = []
    timings = measure([victim, *others], task, said.append)
    assert list(timings.failed) == [victim.name]
    assert "its process ended with status -9" in timings.failed[victim.name]
    assert [timing.system for timing in timings.measured] == others
    for timing in timings.measured:
        assert len(timing.seconds) == 4
        assert [len(scores) for scores in timing.scores] == [4, 4]
        assert min(timing.by_candidates) == 10
        assert min(timing.by_words) == 16
        # All in float32 on a CPU; some give logits, some the sigmoid.
        expected = timings.measured[0].scores
        for scores, reference in zip(timing.scores, expected, strict=True):
            assert np.argsort(scores).tolist() == np.argsort(reference).tolist()
    # In turns, not one system after another, and not always in the same order.
    names = {system.name for system in (victim, *others)}
    told = [line.removeprefix("round 1 of 2: ") for line in said if line.startswith("round 1")]
    first, second = (set(told[at : at + 4]) for at in (1, 5))
    assert first == second == names


def test_a_wrong_number_of_scores_is_a_failure():
    worker = object.__new__(Worker)
    worker._ask = lambda _: (0.1, [1.0])
    with pytest.raises(SystemFailedError, match="1 scores for 2 pairs"):
        worker.score([("a", "b"), ("a", "c")])


def test_systems_say_what_they_lack():
    assert BY_KEY["flashrank"].missing(Models("any")) in {
        "no int8 graph given (--graph)",
        "not installed: flashrank",
    }
    absent = System("x", "X", "int8", lambda _: list, ("no_such_package", "nor.this"))
    assert absent.missing(Models("any")) == "not installed: no_such_package, nor.this"
