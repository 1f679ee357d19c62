"""The ranking policy: what is scored, what the scores do, what comes back."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import math
import pickle
import threading
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from langchain_rerank import ModelLoadError, Reranker, ScoringError, TorchCrossEncoder
from langchain_rerank.cancellation import CancelledCallError, check_cancelled
from langchain_rerank.ranking import fused_scores
from tests.fakes import (
    BrokenCrossEncoder,
    GatedCrossEncoder,
    InstructedCrossEncoder,
    WordOverlapCrossEncoder,
)

QUESTION = "How many people live in Berlin?"
POPULATION = (
    "Berlin had a population of 3,520,031 registered inhabitants in an area of 891.82 square "
    "kilometers."
)
MUSEUMS = "Berlin is well known for its museums."


class TableCrossEncoder(WordOverlapCrossEncoder):
    """Scores a passage by a table."""

    def __init__(self, table: dict[str, float]) -> None:
        super().__init__()
        self.table = table

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        self.calls.append(list(text_pairs))
        return [self.table[passage] for _, passage in text_pairs]


class WrongCountCrossEncoder(WordOverlapCrossEncoder):
    """Breaks the contract by `extra` scores too many."""

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.extra = extra

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        return [0.5] * (len(text_pairs) + self.extra)


class CoroutineCrossEncoder(WordOverlapCrossEncoder):
    """Has a native `ascore`, for which `score` must not be called."""

    def __init__(self, extra: int | None = 0) -> None:
        super().__init__()
        self.extra = extra

    async def ascore(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        await asyncio.sleep(0)
        if self.extra is None:
            msg = "no route"
            raise OSError(msg)
        return [self._overlap(*pair) for pair in text_pairs] + [0.0] * self.extra


def rerank(documents: Any, query: str = "query", **options: Any) -> list[Document]:
    """Rerank both ways, which must give the same."""
    reranker = Reranker(**{"model": WordOverlapCrossEncoder(), **options})
    documents = list(documents)
    found = reranker.compress_documents(documents, query)
    assert asyncio.run(reranker.acompress_documents(documents, query)) == found
    return found


def of(*texts: str) -> list[Document]:
    return [Document(text) for text in texts]


def texts(documents: list[Document]) -> list[str]:
    return [document.page_content for document in documents]


def values(documents: list[Document], name: str) -> list[Any]:
    return [document.metadata.get(name) for document in documents]


# Few texts, ids and scores, so that most examples have duplicates and ties.
TEXTS = ["", "a", "b", "c", "d", "e", "f"]
SCORES = st.sampled_from([-math.inf, -1.5, -0.0, 0.0, 0.5, 2.0, math.inf, math.nan])
TABLES = st.fixed_dictionaries(dict.fromkeys(TEXTS, SCORES))
OURS = ("relevance_score", "retrieval_rank", "fused_score")
METADATA = st.dictionaries(
    st.sampled_from(["source", "tags", *OURS]), st.sampled_from([7, "a", ["a"], ["a", "b"]])
)
DOCUMENTS = st.lists(
    st.builds(
        Document,
        page_content=st.sampled_from(TEXTS),
        id=st.sampled_from([None, "1", "2", "3"]),
        metadata=METADATA,
    ),
    max_size=8,
)
WEIGHTS = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])


@settings(max_examples=60)
@given(documents=DOCUMENTS, table=TABLES)
def test_every_document_comes_back_in_score_order(documents: list, table: dict) -> None:
    before = copy.deepcopy(documents)
    ranked = rerank(documents, model=TableCrossEncoder(table), top_n=None, deduplicate=False)
    assert documents == before
    ranks = values(ranked, "retrieval_rank")
    assert sorted(ranks) == list(range(1, len(documents) + 1))
    for document, rank in zip(ranked, ranks, strict=True):
        original = documents[rank - 1]
        kept = {name: value for name, value in original.metadata.items() if name not in OURS}
        score = table[original.page_content]
        scored = {"relevance_score": score} if math.isfinite(score) else {}
        expected = {**kept, **scored, "retrieval_rank": rank}
        assert document == original.model_copy(update={"metadata": expected})
        json.dumps(document.metadata, allow_nan=False)
    scores = [table[document.page_content] for document in ranked]
    keys = [(math.isnan(score), 0 if math.isnan(score) else -score) for score in scores]
    order = list(zip(keys, ranks, strict=True))
    assert order == sorted(order)


@given(documents=DOCUMENTS, table=TABLES, weight=WEIGHTS, top_n=st.integers(1, 9), limit=SCORES)
def test_threshold_means_the_relevance_score_and_comes_before_top_n(
    documents: list, table: dict, weight: float, top_n: int, limit: float
) -> None:
    reranker = Reranker(model=TableCrossEncoder(table), top_n=None, first_stage_weight=weight)
    everything = reranker.compress_documents(documents, "query")
    above = [document for document in everything if table[document.page_content] >= limit]
    limited = reranker.model_copy(update={"top_n": top_n, "score_threshold": limit})
    assert limited.compress_documents(documents, "query") == above[:top_n]


@given(documents=DOCUMENTS, table=TABLES)
def test_of_duplicates_the_first_stage_best_stays(documents: list, table: dict) -> None:
    model = TableCrossEncoder(table)
    ranked = Reranker(model=model, top_n=None).compress_documents(documents, "query")
    kept = sorted(values(ranked, "retrieval_rank"))
    for rank, document in enumerate(documents, start=1):
        earlier = [documents[other - 1] for other in kept if other < rank]
        duplicate = any(
            document.page_content == other.page_content
            or (document.id is not None and document.id == other.id)
            for other in earlier
        )
        assert (rank in kept) is not duplicate
    scored = [passage for call in model.calls for _, passage in call]
    assert len(scored) == len(set(scored)) == len(kept)


def test_documents_with_an_empty_id_are_no_duplicates() -> None:
    assert texts(rerank([Document("one", id=""), Document("two", id="")], "two")) == ["two", "one"]


def test_top_n_is_five_unless_set() -> None:
    documents = of(*"abcdefghi")
    assert [len(rerank(documents)), len(rerank(documents, top_n=None))] == [5, 9]


# A weight for the first stage


@given(documents=DOCUMENTS, table=TABLES, weight=WEIGHTS)
def test_weight_changes_the_order_and_adds_a_fused_score(
    documents: list, table: dict, weight: float
) -> None:
    before = copy.deepcopy(documents)
    reranker = Reranker(model=TableCrossEncoder(table), top_n=None)
    plain = reranker.compress_documents(documents, "query")
    weighted = reranker.model_copy(update={"first_stage_weight": weight})
    mixed = weighted.compress_documents(documents, "query")
    assert documents == before
    fused = [document.metadata.pop("fused_score", None) for document in mixed]
    ranks = values(mixed, "retrieval_rank")
    nans = [math.isnan(table[document.page_content]) for document in mixed]
    assert sorted(mixed, key=str) == sorted(plain, key=str)
    assert nans == sorted(nans)
    if weight == 0:
        assert mixed == plain
        assert fused == [None] * len(mixed)
    else:
        assert nans == [value is None for value in fused]
        known = [value for value in fused if value is not None]
        assert known == sorted(known, reverse=True)
    if weight == 1:
        order = [rank for rank, nan in zip(ranks, nans, strict=True) if not nan]
        assert order == sorted(order)


@pytest.mark.parametrize(("weight", "order"), [(0, "cbad"), (0.2, "cabd"), (0.6, "abcd")])
def test_weight_mixes_both_orders(weight: float, order: str) -> None:
    model = TableCrossEncoder({"a": 0.30, "b": 0.35, "c": 0.9, "d": 0.01})
    assert texts(rerank(of(*"abcd"), model=model, first_stage_weight=weight)) == list(order)


def test_of_duplicates_the_rank_that_counts_is_the_first() -> None:
    model = TableCrossEncoder({"a": 1.0, "b": 3.0, "c": 2.0})
    ranked = sorted(rerank(of(*"aaaabc"), model=model, first_stage_weight=0.4), key=texts_key)
    assert values(ranked, "retrieval_rank") == [1, 5, 6]
    assert values(ranked, "fused_score") == fused_scores([1.0, 3.0, 2.0], [1, 5, 6], 0.4)


def texts_key(document: Document) -> str:
    return document.page_content


def test_equal_fused_scores_are_in_order_of_relevance_then_of_the_first_stage() -> None:
    ranked = rerank(of("first", "best"), "best", first_stage_weight=0.5)
    assert values(ranked, "fused_score") == [0, 0]
    assert texts(ranked) == ["best", "first"]
    assert texts(rerank(of(*"cab"), first_stage_weight=0.1)) == ["c", "a", "b"]


# Wrong and odd inputs


def test_no_documents_give_none_and_load_no_model() -> None:
    assert rerank([], model="no-such/model") == []
    model = WordOverlapCrossEncoder()
    assert rerank([], model=model) == model.calls == []


@pytest.mark.parametrize("on_error", ["raise", "keep_order"])
@pytest.mark.parametrize(
    ("query", "documents", "error", "message"),
    [
        ("\n\t\u00a0", of("a"), ValueError, r"query must hold text, got '\\n"),
        ("", of("a"), ValueError, "query must hold text, got ''"),
        (None, of("a"), TypeError, "query must be a str, got NoneType"),
        (["a"], of("a"), TypeError, "query must be a str, got list"),
        ("a", ["text"], TypeError, "document 0 must be a Document, got str"),
        (
            "a",
            [*of("a"), Document.model_construct(page_content=None, metadata={}, id=None)],
            TypeError,
            "page_content of document 1 must be a str, got NoneType",
        ),
    ],
)
async def test_wrong_inputs_are_errors(query, documents, error, message, on_error) -> None:
    model = WordOverlapCrossEncoder()
    reranker = Reranker(model=model, on_error=on_error)
    with pytest.raises(error, match=message):
        reranker.compress_documents(documents, query)
    with pytest.raises(error, match=message):
        await reranker.acompress_documents(documents, query)
    assert model.calls == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_n": 0}, "greater than 0"),
        ({"topn": 3}, "topn"),
        ({"on_error": "ignore"}, "on_error"),
        ({"rank_fields": "title"}, "rank_fields"),
        ({"model": 3}, "model"),
        ({"first_stage_weight": -0.1}, "first_stage_weight"),
        ({"first_stage_weight": 1.1}, "first_stage_weight"),
        ({"first_stage_weight": math.nan}, "first_stage_weight"),
        ({"instruction": "for lawyers"}, "WordOverlapCrossEncoder takes no instruction"),
    ],
    ids=str,
)
def test_wrong_options_are_errors(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reranker(**{"model": WordOverlapCrossEncoder(), **options})


def test_scores_that_json_lacks_are_left_out_with_one_warning(caplog) -> None:
    table = {"nan": math.nan, "best": 1.0, "worst": -math.inf, "nan too": math.nan, "top": math.inf}
    reranker = Reranker(model=TableCrossEncoder(table), first_stage_weight=0.1)
    ranked = reranker.compress_documents(of(*table), "query")
    assert set(texts(ranked)[:3]) == {"top", "best", "worst"}
    assert texts(ranked)[3:] == ["nan", "nan too"]
    assert sorted(map(str, values(ranked, "relevance_score"))) == ["1.0", *["None"] * 4]
    assert values(ranked, "fused_score")[3:] == [None, None]
    (record,) = caplog.records
    assert record.getMessage().startswith("4 of 5 scores are NaN, the worst of all, or infinite")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (WrongCountCrossEncoder(-1), "gave 0 scores for 1 pairs"),
        (WrongCountCrossEncoder(2), "gave 3 scores for 1 pairs"),
        (CoroutineCrossEncoder(1), None),
        (CoroutineCrossEncoder(None), None),
        (BrokenCrossEncoder(), "BrokenCrossEncoder failed on 1 pairs: ConnectionError: the device"),
    ],
    ids=range(5),
)
async def test_a_cross_encoder_that_fails_is_a_scoring_error(model, message) -> None:
    if message:
        with pytest.raises(ScoringError, match=message):
            Reranker(model=model).compress_documents(of("a"), "query")
    with pytest.raises(ScoringError, match=message or "2 scores for 1 pairs|no route") as caught:
        await Reranker(model=model).acompress_documents(of("a"), "query")
    if isinstance(model, BrokenCrossEncoder):
        assert caught.value.__cause__ is model.error


@pytest.mark.parametrize(
    "model", [BrokenCrossEncoder(), WrongCountCrossEncoder(1), "no-such/model"], ids=range(3)
)
def test_keep_order_survives_a_failure(model, caplog) -> None:
    old = {"relevance_score": 9, "fused_score": 9}
    documents = [Document(text, id=text, metadata=old) for text in "baacd"]
    kept = rerank(documents, model=model, top_n=3, on_error="keep_order", first_stage_weight=0.5)
    assert texts(kept) == ["b", "a", "c"]
    assert [document.metadata for document in kept] == [{"retrieval_rank": n} for n in (1, 2, 4)]
    failures = [record for record in caplog.records if record.name.startswith("langchain_rerank")]
    assert [(one.levelno, bool(one.exc_info)) for one in failures] == [(logging.ERROR, True)] * 2
    assert documents[0].metadata == old


def test_model_that_does_not_exist_is_a_load_error() -> None:
    with pytest.raises(ModelLoadError, match="no-such/model"):
        Reranker(model="no-such/model").compress_documents(of("a"), "query")


# What is scored


def test_rank_fields_come_before_the_scored_text_only() -> None:
    model = WordOverlapCrossEncoder()
    documents = [
        Document("body one", metadata={"title": "Title", "year": 0, "other": "x"}),
        Document("body two", metadata={"year": None, "title": ""}),
        Document("b\udfff", metadata={"title": "t\ud800"}),
    ]
    ranked = rerank(documents, "q\ud800", model=model, rank_fields=("title", "year"))
    assert model.calls[0] == [
        ("q\ufffd", "Title\n0\nbody one"),
        ("q\ufffd", "body two"),
        ("q\ufffd", "t\ufffd\nb\ufffd"),
    ]
    assert texts(ranked) == texts(documents)


INSTRUCTED = [("before", None, "before"), (None, "now", "now"), ("before", "now", "now")]


@pytest.mark.parametrize(("field", "given", "used"), [*INSTRUCTED, (None, None, None)])
async def test_instruction_reaches_the_model(field, given, used) -> None:
    model = InstructedCrossEncoder()
    runnable = Reranker(model=model, instruction=field).as_runnable()
    inputs: Any = {"query": "q", "documents": of("a"), "instruction": given}
    runnable.invoke(inputs)
    await runnable.ainvoke(inputs)
    assert model.calls == [[(f"{used}: q", "a")]] * 2
    assert model.instruction is None


@pytest.mark.parametrize("on_error", ["raise", "keep_order"])
@pytest.mark.parametrize(
    ("model", "instruction", "error"),
    [
        (WordOverlapCrossEncoder(), "for lawyers", ValueError),
        (CoroutineCrossEncoder(), "for lawyers", ValueError),
        (InstructedCrossEncoder(), "refused", ValueError),
        (InstructedCrossEncoder(), 3, TypeError),
    ],
    ids=range(4),
)
async def test_an_instruction_is_never_dropped(model, instruction, error, on_error) -> None:
    runnable = Reranker(model=model, on_error=on_error).as_runnable()
    inputs: Any = {"query": "q", "documents": of("a"), "instruction": instruction}
    with pytest.raises(error, match="instruction"):
        runnable.invoke(inputs)
    with pytest.raises(error, match="instruction"):
        await runnable.ainvoke(inputs)
    assert model.calls == []


# Async, LCEL and tracing


async def test_async_does_not_block_the_event_loop() -> None:
    model = GatedCrossEncoder()
    reranking = Reranker(model=model).acompress_documents(of("b", "a"), "a")
    ranked, _ = await asyncio.gather(reranking, model.gate.release())
    assert texts(ranked) == ["a", "b"]


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

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.ended = threading.Event(), threading.Event()

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        self.begun.set()
        try:
            while not self.ended.wait(0.01):
                check_cancelled()
        except CancelledCallError:
            self.ended.set()
            raise
        return super().score(text_pairs)


@pytest.mark.parametrize("how", ["cancel", "wait_for"])
async def test_a_call_that_is_given_up_ends_between_two_batches(how: str) -> None:
    model = LoopingCrossEncoder()
    call = Reranker(model=model, on_error="keep_order").acompress_documents(of("a"), "a")
    if how == "wait_for":
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call, 0.1)
    else:
        task = asyncio.create_task(call)
        await asyncio.to_thread(model.begun.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await asyncio.to_thread(model.ended.wait, 5)


def test_a_forked_child_has_threads_of_its_own() -> None:
    rerank(of("a"))
    child = get_context("fork").Process(target=rerank, args=(of("a"),))
    child.start()
    child.join(30)
    assert child.exitcode == 0


async def test_a_native_ascore_is_awaited_in_place_of_score() -> None:
    model = CoroutineCrossEncoder()
    kept = await Reranker(model=model).acompress_documents(of("fish", "people berlin"), "people")
    assert texts(kept) == ["people berlin", "fish"]
    assert await Reranker(model=model).acompress_documents([], "people") == model.calls == []


async def test_batches_rank_each_query_by_itself_and_can_return_errors() -> None:
    runnable = Reranker(model=WordOverlapCrossEncoder(), first_stage_weight=0.3).as_runnable()
    inputs: Any = [
        {"query": "red apple", "documents": of("green", "apple", "red")},
        {"query": "blue", "documents": []},
        {"query": "green", "documents": of("red", "green")},
    ]
    one_by_one = [runnable.invoke(given) for given in inputs]
    assert runnable.batch(inputs) == await runnable.abatch(inputs) == one_by_one
    inputs.append({"query": " ", "documents": of("a")})
    for found in (
        runnable.batch(inputs, return_exceptions=True),
        await runnable.abatch(inputs, return_exceptions=True),
    ):
        assert found[:3] == one_by_one
        assert isinstance(found[3], ValueError)
    with pytest.raises(ValueError, match="query must hold text"):
        runnable.batch(inputs)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("text", "expected a dict with 'query' and 'documents', got str"),
        ({"query": "why"}, r"expected a dict .* got \['query'\]"),
    ],
)
def test_wrong_inputs_of_the_runnable_say_what_was_expected(given, message) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Reranker(model=WordOverlapCrossEncoder()).as_runnable().invoke(given)


async def test_runs_as_a_step_of_a_chain() -> None:
    chain = (
        RunnablePassthrough.assign(documents=lambda _: (one for one in of("museum", "people")))
        | Reranker(model=WordOverlapCrossEncoder(), top_n=1).as_runnable()
        | RunnableLambda(texts)
    )
    assert chain.invoke({"query": "how many people"}) == ["people"]
    assert await chain.ainvoke({"query": "how many people"}) == ["people"]


async def test_reranking_is_a_run_of_its_own_under_the_callers() -> None:
    reranker = Reranker(model=WordOverlapCrossEncoder(), top_n=1)
    documents = of("b", "a")

    def step(query: str, config: dict) -> list[Document]:
        return reranker.compress_documents(documents, query, callbacks=config["callbacks"])

    async def astep(query: str, config: dict) -> list[Document]:
        return await reranker.acompress_documents(documents, query, callbacks=config["callbacks"])

    collector = RunCollectorCallbackHandler()
    RunnableLambda(step).invoke("a", {"callbacks": [collector]})
    await RunnableLambda(astep).ainvoke("a", {"callbacks": [collector]})
    assert len(collector.traced_runs) == 2
    for parent in collector.traced_runs:
        (run,) = parent.child_runs
        assert (run.name, run.error) == ("Reranker", None)
        assert run.inputs == {"query": "a", "documents": documents}
        assert texts(run.outputs["output"]) == ["a"]
        metadata = run.extra["metadata"]
        assert (metadata["model"], metadata["documents_in"]) == ("WordOverlapCrossEncoder", 2)


def test_runs_name_the_model_and_the_error() -> None:
    collector = RunCollectorCallbackHandler()
    Reranker(model="no-such/model").compress_documents([], "query", [collector])
    with pytest.raises(ScoringError):
        Reranker(model=BrokenCrossEncoder()).compress_documents(of("a"), "query", [collector])
    named, failed = collector.traced_runs
    assert named.extra["metadata"]["model"] == "no-such/model"
    assert "the device is gone" in failed.error


# The real model


def test_real_model_puts_the_answer_first(cross_encoder: TorchCrossEncoder) -> None:
    documents = [Document(MUSEUMS, id="m"), Document(""), Document(POPULATION, id="p")]
    ranked = Reranker(model=cross_encoder, top_n=2).compress_documents(documents, QUESTION)
    assert ranked[0].id == "p"
    first, second = values(ranked, "relevance_score")
    assert first == pytest.approx(9.09, abs=0.05)
    assert second < 0


@pytest.mark.parametrize(
    "text",
    ["lone \ud800 surrogate", "NUL \0", "👩‍👩‍👧 emoji", "כמה אנשים", "word " * 20_000],
    ids=range(5),
)
def test_odd_texts_are_ranked(cross_encoder: TorchCrossEncoder, text: str) -> None:
    reranker = Reranker(model=cross_encoder)
    assert texts(reranker.compress_documents(of(text, POPULATION), QUESTION)) == [POPULATION, text]
    assert len(reranker.compress_documents(of(MUSEUMS), text)) == 1


@pytest.mark.parametrize("kind", [str, Path])
def test_a_name_or_path_becomes_a_cross_encoder_and_survives_pickling(checkpoint, kind) -> None:
    reranker = pickle.loads(pickle.dumps(Reranker(model=kind(checkpoint), top_n=1)))  # noqa: S301
    assert reranker.model == reranker.cross_encoder == TorchCrossEncoder(model=checkpoint)
    (best,) = reranker.compress_documents(of(MUSEUMS, POPULATION), QUESTION)
    assert best.page_content == POPULATION
    assert best.metadata["relevance_score"] == pytest.approx(0.9999, abs=1e-3)
