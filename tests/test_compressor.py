"""The reranker: what it takes and refuses, faults, instructions, async, traces, the real model."""

from __future__ import annotations

import asyncio
import logging
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from langchain_rerank import ModelLoadError, Reranker, ScoringError, TorchCrossEncoder
from langchain_rerank.cross_encoders.processes import check_cancelled
from tests.fakes import (
    BrokenCrossEncoder,
    GatedCrossEncoder,
    InstructedCrossEncoder,
    WordOverlapCrossEncoder,
)
from tests.support import every_way, fails, texts

QUESTION = "How many people live in Berlin?"
POPULATION = (
    "Berlin had a population of 3,520,031 registered inhabitants in an area of 891.82 square "
    "kilometers."
)
MUSEUMS = "Berlin is well known for its museums."


class WrongCountCrossEncoder(WordOverlapCrossEncoder):
    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        return [0.5] * (len(text_pairs) + 1)


class CoroutineCrossEncoder(WordOverlapCrossEncoder):
    """Has a native `ascore`, for which `score` must not be called."""

    def __init__(self, extra: int | None = 0) -> None:
        super().__init__()
        self.extra = extra

    async def ascore(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        if self.extra is None:
            msg = "no route"
            raise OSError(msg)
        return [self._overlap(*pair) for pair in text_pairs] + [0.0] * self.extra


def rerank(documents: Any, query: str = "query", **options: Any) -> list[Document]:
    """Rerank both ways, which must give the same."""
    reranker = Reranker(**{"model": WordOverlapCrossEncoder(), **options})
    found = reranker.compress_documents(documents, query)
    assert asyncio.run(reranker.acompress_documents(documents, query)) == found
    return found


def of(*words: str) -> list[Document]:
    return [Document(word) for word in words]


def values(documents: list[Document], name: str) -> list[Any]:
    return [document.metadata.get(name) for document in documents]


# Wrong and odd inputs


def test_no_documents_give_none_and_load_no_model() -> None:
    model = CoroutineCrossEncoder()
    assert rerank([], model="no-such/model") == rerank([], model=model) == model.calls == []


NO_TEXT = Document.model_construct(page_content=None, metadata={}, id=None)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"query": "\n\t\u00a0"}, ValueError, r"query must hold text, got '\\n"),
        ({"query": None}, TypeError, "query must be a str, got NoneType"),
        ({"documents": ["text"]}, TypeError, "document 0 must be a Document, got str"),
        ({"documents": [*of("a"), NO_TEXT]}, TypeError, "page_content of document 1 must be a str"),
        ("text", TypeError, "expected a dict with 'query' and 'documents', got str"),
        ({"instruction": "for lawyers"}, ValueError, "takes no instruction"),
        ({"instruction": 3}, TypeError, "instruction must be a str, got int"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [WordOverlapCrossEncoder, CoroutineCrossEncoder])
def test_wrong_inputs_are_errors(given, error, message, kind) -> None:
    model = kind()
    whole = {"query": "a", "documents": of("a"), **given} if isinstance(given, dict) else given
    fails(error, message, Reranker(model=model, on_error="keep_order").as_runnable(), whole)
    assert model.calls == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_n": 0}, "greater than 0"),
        ({"topn": 3}, "topn"),
        ({"model": 3}, "model"),
        ({"first_stage_weight": 1.1}, "first_stage_weight"),
        ({"first_stage_weight": float("nan")}, "first_stage_weight"),
        ({"instruction": "for lawyers"}, "WordOverlapCrossEncoder takes no instruction"),
    ],
    ids=str,
)
def test_wrong_options_are_errors(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reranker(**{"model": WordOverlapCrossEncoder(), **options})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (WrongCountCrossEncoder(), "gave 2 scores for 1 pairs"),
        (BrokenCrossEncoder(), "BrokenCrossEncoder failed on 1 pairs: ConnectionError: the device"),
        (CoroutineCrossEncoder(1), "gave 2 scores for 1 pairs"),
        (CoroutineCrossEncoder(None), "OSError: no route"),
    ],
    ids=range(4),
)
async def test_a_cross_encoder_that_fails_is_a_scoring_error(model, message) -> None:
    with pytest.raises(ScoringError, match=message) as caught:
        await Reranker(model=model).acompress_documents(of("a"), "query")
    assert not isinstance(model, BrokenCrossEncoder) or caught.value.__cause__ is model.error


@pytest.mark.parametrize(
    ("model", "error"),
    [(BrokenCrossEncoder(), ScoringError), ("no-such/model", ModelLoadError)],
    ids=range(2),
)
def test_keep_order_survives_a_failure(model, error, caplog) -> None:
    old = {"relevance_score": 9, "fused_score": 9}
    documents = [Document(text, id=text, metadata=old) for text in "baacd"]
    with pytest.raises(error):
        rerank(documents, model=model)
    kept = rerank(documents, model=model, top_n=3, on_error="keep_order", first_stage_weight=0.5)
    assert texts(kept) == ["b", "a", "c"]
    assert [document.metadata for document in kept] == [{"retrieval_rank": n} for n in (1, 2, 4)]
    failures = [record for record in caplog.records if record.name.startswith("langchain_rerank")]
    assert [(one.levelno, bool(one.exc_info)) for one in failures] == [(logging.ERROR, True)] * 2


# What is scored


def test_rank_fields_come_before_the_scored_text_only() -> None:
    model = WordOverlapCrossEncoder()
    documents = [
        Document("body one", metadata={"title": "Title", "year": 0, "other": "x"}),
        Document("body two", metadata={"year": None, "title": ""}),
        Document("b\udfff", metadata={"title": "t\ud800"}),
    ]
    ranked = rerank(documents, "q\ud800", model=model, rank_fields=("title", "year"))
    scored = ["Title\n0\nbody one", "body two", "t\ufffd\nb\ufffd"]
    assert model.calls[0] == [("q\ufffd", text) for text in scored]
    assert texts(ranked) == texts(documents)


@pytest.mark.parametrize(
    ("field", "given", "used"),
    [("a", None, "a"), (None, "b", "b"), ("a", "b", "b"), (None, None, None)],
)
def test_instruction_reaches_the_model(field, given, used) -> None:
    model = InstructedCrossEncoder()
    runnable = Reranker(model=model, instruction=field).as_runnable()
    every_way(runnable, {"query": "q", "documents": of("a"), "instruction": given})
    assert model.calls == [[(f"{used}: q", "a")]] * 4
    assert model.instruction is None


# Async, LCEL and tracing


async def test_waiting_calls_leave_the_default_executor_to_the_app() -> None:
    model = GatedCrossEncoder()
    calls = [Reranker(model=model).acompress_documents(of("a"), "a") for _ in range(100)]
    waiting = asyncio.gather(*calls)
    await asyncio.to_thread(model.gate.begun.wait, 5)
    name = await asyncio.wait_for(asyncio.to_thread(lambda: threading.current_thread().name), 5)
    assert not name.startswith("langchain-rerank")
    model.gate.go.set()
    assert len(await waiting) == 100


class LoopingCrossEncoder(WordOverlapCrossEncoder):
    """Scores for ever, unless it is told between two batches that nobody waits."""

    begun, ended = threading.Event(), threading.Event()

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        self.begun.set()
        try:
            while True:
                check_cancelled()
        finally:
            self.ended.set()


async def test_a_call_that_is_given_up_ends_between_two_batches() -> None:
    model = LoopingCrossEncoder()
    reranker = Reranker(model=model, on_error="keep_order")
    task = asyncio.create_task(reranker.acompress_documents(of("a"), "a"))
    await asyncio.to_thread(model.begun.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(model.ended.wait, 5)


async def test_a_native_ascore_is_awaited_in_place_of_score() -> None:
    model = CoroutineCrossEncoder()
    kept = await Reranker(model=model).acompress_documents(of("fish", "people berlin"), "people")
    assert (texts(kept), model.calls) == (["people berlin", "fish"], [])


def test_runs_as_a_step_of_a_chain() -> None:
    documents = RunnablePassthrough.assign(documents=lambda _: iter(of("museum", "people")))
    chain = documents | Reranker(model=WordOverlapCrossEncoder(), top_n=1).as_runnable()
    found = every_way(chain | RunnableLambda(texts), {"query": "how many people"})
    assert found == [["people"]] * 4


async def test_reranking_is_a_run_of_its_own_that_names_the_model_and_the_error() -> None:
    collector = RunCollectorCallbackHandler()
    reranker, documents = Reranker(model=WordOverlapCrossEncoder(), top_n=1), of("b", "a")
    reranker.compress_documents(documents, "a", [collector])
    await reranker.acompress_documents(documents, "a", [collector])
    Reranker(model="no-such/model").compress_documents([], "query", [collector])
    with pytest.raises(ScoringError):
        Reranker(model=BrokenCrossEncoder()).compress_documents(of("a"), "query", [collector])
    *runs, named, failed = collector.traced_runs
    for run in runs:
        assert (run.name, run.error, len(runs)) == ("Reranker", None, 2)
        assert run.inputs == {"query": "a", "documents": documents}
        assert texts(run.outputs["output"]) == ["a"]
        metadata = run.extra["metadata"]
        assert (metadata["model"], metadata["documents_in"]) == ("WordOverlapCrossEncoder", 2)
    assert named.extra["metadata"]["model"] == "no-such/model"
    assert "the device is gone" in failed.error


# The real model


@pytest.mark.parametrize("text", ["lone \ud800 surrogate", "NUL \0", "👩‍👩‍👧 emoji", "w " * 20_000])
def test_odd_texts_are_ranked(cross_encoder: TorchCrossEncoder, text: str) -> None:
    best, other = rerank(of(text, POPULATION), QUESTION, model=cross_encoder)
    assert texts([best, other]) == [POPULATION, text]
    assert best.metadata["relevance_score"] == pytest.approx(9.09, abs=0.05)
    assert len(rerank(of(MUSEUMS), text, model=cross_encoder)) == 1


@pytest.mark.parametrize("kind", [str, Path])
def test_a_name_or_path_becomes_a_cross_encoder_and_survives_pickling(checkpoint, kind) -> None:
    reranker = pickle.loads(pickle.dumps(Reranker(model=kind(checkpoint), top_n=1)))  # noqa: S301
    assert reranker.model == TorchCrossEncoder(model=checkpoint)
    (best,) = reranker.compress_documents(of(MUSEUMS, POPULATION), QUESTION)
    assert best.page_content == POPULATION
    assert best.metadata["relevance_score"] == pytest.approx(0.9999, abs=1e-3)
