"""The ranking policy: what is scored, what the scores do, what comes back."""

from __future__ import annotations

import asyncio
import copy
import logging
import math
import pickle
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from langchain_rerank import ModelLoadError, Reranker, ScoringError, TorchCrossEncoder
from langchain_rerank.ranking import fused_scores
from tests.fakes import WordOverlapCrossEncoder

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


class ShortCrossEncoder(WordOverlapCrossEncoder):
    """Breaks the contract by `extra` scores too many."""

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.extra = extra

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        return [0.5] * (len(text_pairs) + self.extra)


class BrokenModelError(Exception):
    pass


class BrokenCrossEncoder(WordOverlapCrossEncoder):
    def __init__(self) -> None:
        super().__init__()
        self.error = BrokenModelError("the device is gone")

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        raise self.error


class WaitingCrossEncoder(WordOverlapCrossEncoder):
    """Scores only once `release` has run, which waits in turn until scoring has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.go = threading.Event()

    async def release(self) -> None:
        await asyncio.to_thread(self.begun.wait, 5)
        self.go.set()

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        self.begun.set()
        if not self.go.wait(timeout=5):
            msg = "the event loop was blocked"
            raise TimeoutError(msg)
        return super().score(text_pairs)


def texts(documents: list[Document]) -> list[str]:
    return [document.page_content for document in documents]


def scores(documents: list[Document]) -> list[float]:
    return [document.metadata["relevance_score"] for document in documents]


def ranks(documents: list[Document]) -> list[int]:
    return [document.metadata["retrieval_rank"] for document in documents]


# Few texts, ids and scores, so that most examples have duplicates and ties.
TEXTS = st.sampled_from(["", "a", "b", "c", "d", "e", "f"])
SCORES = st.sampled_from([-math.inf, -1.5, -0.0, 0.0, 0.5, 2.0, math.inf, math.nan])
TABLES = st.fixed_dictionaries(dict.fromkeys(["", "a", "b", "c", "d", "e", "f"], SCORES))
METADATA = st.dictionaries(
    st.sampled_from(["source", "tags", "relevance_score", "retrieval_rank", "fused_score"]),
    st.sampled_from([7, "a", ["a"], ["a", "b"]]),
)
DOCUMENTS = st.lists(
    st.builds(
        Document,
        page_content=TEXTS,
        id=st.sampled_from([None, "1", "2", "3"]),
        metadata=METADATA,
    ),
    max_size=8,
)


@given(documents=DOCUMENTS, table=TABLES)
def test_every_document_comes_back_in_score_order(documents: list, table: dict) -> None:
    before = copy.deepcopy(documents)
    reranker = Reranker(model=TableCrossEncoder(table), top_n=None, deduplicate=False)

    ranked = reranker.compress_documents(documents, "query")

    assert documents == before
    assert sorted(ranks(ranked)) == list(range(1, len(documents) + 1))
    for document in ranked:
        original = documents[document.metadata["retrieval_rank"] - 1]
        assert (document.id, document.page_content) == (original.id, original.page_content)
        kept = {name: value for name, value in original.metadata.items() if name != "fused_score"}
        assert document.metadata == {
            **kept,
            "relevance_score": table[original.page_content],
            "retrieval_rank": document.metadata["retrieval_rank"],
        }
    keys = [
        (math.isnan(score), 0 if math.isnan(score) else -score, rank)
        for score, rank in zip(scores(ranked), ranks(ranked), strict=True)
    ]
    assert keys == sorted(keys)


@given(documents=DOCUMENTS, table=TABLES, top_n=st.integers(1, 9), threshold=SCORES)
def test_threshold_applies_before_top_n(
    documents: list, table: dict, top_n: int, threshold: float
) -> None:
    model = TableCrossEncoder(table)
    everything = Reranker(model=model, top_n=None).compress_documents(documents, "query")
    above = [document for document in everything if scores([document])[0] >= threshold]

    reranker = Reranker(model=model, top_n=top_n, score_threshold=threshold)

    assert reranker.compress_documents(documents, "query") == above[:top_n]


def test_threshold_keeps_a_score_that_equals_it() -> None:
    model = TableCrossEncoder({"below": 0.49, "at": 0.5, "above": 0.9})
    documents = [Document("below"), Document("at"), Document("above")]
    ranked = Reranker(model=model, score_threshold=0.5).compress_documents(documents, "query")
    assert texts(ranked) == ["above", "at"]


@given(data=st.data(), table=TABLES)
def test_input_order_decides_nothing_but_ties(data: st.DataObject, table: dict) -> None:
    documents = data.draw(DOCUMENTS)
    shuffled = data.draw(st.permutations(documents))
    reranker = Reranker(model=TableCrossEncoder(table), top_n=None, deduplicate=False)

    def groups(given: list[Document]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for document in reranker.compress_documents(given, "query"):
            score = str(document.metadata["relevance_score"] + 0.0)
            found.setdefault(score, []).append(f"{document.id} {document.page_content}")
        return {score: sorted(group) for score, group in found.items()}

    assert list(groups(documents).items()) == list(groups(shuffled).items())


@given(documents=DOCUMENTS, table=TABLES)
def test_of_duplicates_the_first_stage_best_stays(documents: list, table: dict) -> None:
    model = TableCrossEncoder(table)
    ranked = Reranker(model=model, top_n=None).compress_documents(documents, "query")

    kept = sorted(ranks(ranked))
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
    documents = [Document("one", id=""), Document("two", id="")]
    ranked = Reranker(model=WordOverlapCrossEncoder()).compress_documents(documents, "two")
    assert texts(ranked) == ["two", "one"]


def test_top_n_is_five_unless_set() -> None:
    documents = [Document(f"document {i}") for i in range(9)]
    model = WordOverlapCrossEncoder()
    assert len(Reranker(model=model).compress_documents(documents, "document")) == 5
    assert len(Reranker(model=model, top_n=None).compress_documents(documents, "document")) == 9
    assert len(model.calls[0]) == 9


@settings(max_examples=25)
@given(documents=DOCUMENTS, table=TABLES, top_n=st.sampled_from([None, 1, 3]))
def test_async_gives_the_same(documents: list, table: dict, top_n: int | None) -> None:
    reranker = Reranker(model=TableCrossEncoder(table), top_n=top_n)
    sync = reranker.compress_documents(documents, "query")
    awaited = asyncio.run(reranker.acompress_documents(documents, "query"))
    # repr, because a NaN does not equal itself.
    assert repr(awaited) == repr(sync)


# A weight for the first stage


WEIGHTS = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])


@given(documents=DOCUMENTS, table=TABLES, weight=WEIGHTS)
def test_weight_changes_the_order_and_adds_a_fused_score(
    documents: list, table: dict, weight: float
) -> None:
    before = copy.deepcopy(documents)
    model = TableCrossEncoder(table)
    plain = Reranker(model=model, top_n=None).compress_documents(documents, "query")
    mixed = Reranker(model=model, top_n=None, first_stage_weight=weight).compress_documents(
        documents, "query"
    )
    assert documents == before
    fused = [document.metadata.pop("fused_score", None) for document in mixed]
    # repr, because a NaN does not equal itself.
    by_rank = {ranks([document])[0]: repr(document) for document in plain}
    assert {ranks([document])[0]: repr(document) for document in mixed} == by_rank
    if weight == 0:
        assert repr(mixed) == repr(plain)
        assert fused == [None] * len(mixed)
    else:
        nans = [math.isnan(score) for score in scores(mixed)]
        assert nans == sorted(nans) == [math.isnan(value) for value in fused]
        known = [value for value in fused if not math.isnan(value)]
        assert known == sorted(known, reverse=True)
    if weight == 1:
        order = [rank for rank, nan in zip(ranks(mixed), nans, strict=True) if not nan]
        assert order == sorted(order)


def test_weight_mixes_both_orders() -> None:
    table = {"first": 0.30, "second": 0.35, "third": 0.9, "fourth": 0.01}
    documents = [Document(text) for text in table]

    def order(weight: float) -> list[str]:
        reranker = Reranker(model=TableCrossEncoder(table), first_stage_weight=weight)
        return texts(reranker.compress_documents(documents, "query"))

    assert order(0.0) == ["third", "second", "first", "fourth"]
    assert order(0.2) == ["third", "first", "second", "fourth"]
    assert order(0.6) == ["first", "second", "third", "fourth"]
    assert order(1.0) == ["first", "second", "third", "fourth"]


@given(documents=DOCUMENTS, table=TABLES, weight=WEIGHTS, threshold=SCORES)
def test_threshold_means_the_relevance_score_whatever_the_weight(
    documents: list, table: dict, weight: float, threshold: float
) -> None:
    def rerank(**options: object) -> list[Document]:
        reranker = Reranker(model=TableCrossEncoder(table), first_stage_weight=weight, **options)
        return reranker.compress_documents(documents, "query")

    above = [one for one in rerank(top_n=None) if scores([one])[0] >= threshold]
    assert rerank(top_n=2, score_threshold=threshold) == above[:2]


@pytest.mark.parametrize("weight", [0, 0.5, 1])
def test_fused_score_from_elsewhere_never_survives(weight: float) -> None:
    documents = [
        Document("unrelated", metadata={"fused_score": 99.0}),
        Document("query", metadata={"fused_score": "old"}),
    ]
    reranker = Reranker(model=WordOverlapCrossEncoder(), first_stage_weight=weight)
    for document in reranker.compress_documents(documents, "query"):
        assert ("fused_score" in document.metadata) is (weight > 0)
        assert document.metadata.get("fused_score") not in (99.0, "old")
    assert documents[0].metadata == {"fused_score": 99.0}


def test_of_duplicates_the_rank_that_counts_is_the_first() -> None:
    model = TableCrossEncoder({"a": 1.0, "b": 3.0, "c": 2.0})
    documents = [Document(text) for text in "aaaabc"]
    ranked = Reranker(model=model, first_stage_weight=0.4).compress_documents(documents, "query")
    by_text = {document.page_content: document.metadata for document in ranked}
    assert {text: found["retrieval_rank"] for text, found in by_text.items()} == {
        "a": 1,
        "b": 5,
        "c": 6,
    }
    fused = fused_scores([1.0, 3.0, 2.0], [1, 5, 6], 0.4)
    assert [by_text[text]["fused_score"] for text in "abc"] == fused


@pytest.mark.parametrize("weight", [0.1, 1])
def test_one_document_and_equal_scores_keep_their_order(weight: float) -> None:
    reranker = Reranker(model=WordOverlapCrossEncoder(), first_stage_weight=weight)
    (one,) = reranker.compress_documents([Document("a")], "query")
    assert one.metadata["fused_score"] == 0
    equal = reranker.compress_documents([Document(text) for text in "cab"], "query")
    assert texts(equal) == ["c", "a", "b"]


def test_where_fused_scores_are_equal_the_relevance_decides() -> None:
    reranker = Reranker(model=WordOverlapCrossEncoder(), first_stage_weight=0.5)
    ranked = reranker.compress_documents([Document("first"), Document("best")], "best")
    assert [document.metadata["fused_score"] for document in ranked] == [0, 0]
    assert texts(ranked) == ["best", "first"]


@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan, "half"])
def test_weight_is_within_0_and_1(weight: object) -> None:
    with pytest.raises(ValueError, match="first_stage_weight"):
        Reranker(model=WordOverlapCrossEncoder(), first_stage_weight=weight)


async def test_batches_and_async_fuse_each_query_by_itself() -> None:
    runnable = Reranker(model=WordOverlapCrossEncoder(), first_stage_weight=0.3).as_runnable()
    one_by_one = [runnable.invoke(given) for given in INPUTS]
    assert all("fused_score" in one.metadata for found in one_by_one for one in found)
    assert runnable.batch(INPUTS) == one_by_one
    assert await runnable.abatch(INPUTS) == one_by_one


def test_keep_order_knows_no_fused_score() -> None:
    documents = [Document(text, metadata={"fused_score": 9}) for text in "ba"]
    reranker = Reranker(model=BrokenCrossEncoder(), on_error="keep_order", first_stage_weight=0.5)
    kept = reranker.compress_documents(documents, "query")
    assert [document.metadata for document in kept] == [
        {"retrieval_rank": 1},
        {"retrieval_rank": 2},
    ]


# Wrong and odd inputs


async def test_no_documents_give_none_and_load_no_model() -> None:
    reranker = Reranker(model="no-such/model")
    assert reranker.compress_documents([], QUESTION) == []
    assert await reranker.acompress_documents([], QUESTION) == []
    assert reranker.as_runnable().batch([{"query": "a", "documents": []}] * 2) == [[], []]


async def test_no_documents_do_not_call_the_model() -> None:
    model = WordOverlapCrossEncoder()
    assert Reranker(model=model).compress_documents([], QUESTION) == []
    assert await Reranker(model=model).acompress_documents([], QUESTION) == []
    assert model.calls == []


@pytest.mark.parametrize("query", ["", " ", "\n\t\u00a0"])
@pytest.mark.parametrize("on_error", ["raise", "keep_order"])
async def test_blank_query_is_an_error(query: str, on_error: str) -> None:
    reranker = Reranker(model=WordOverlapCrossEncoder(), on_error=on_error)
    with pytest.raises(ValueError, match="query must hold text, got '"):
        reranker.compress_documents([Document("a")], query)
    with pytest.raises(ValueError, match="query must hold text, got '"):
        await reranker.acompress_documents([Document("a")], query)


@pytest.mark.parametrize("query", [None, 3, ["a"]])
async def test_query_that_is_no_text_is_an_error(query: object) -> None:
    reranker = Reranker(model=WordOverlapCrossEncoder())
    with pytest.raises(TypeError, match=f"query must be a str, got {type(query).__name__}"):
        reranker.compress_documents([Document("a")], query)
    with pytest.raises(TypeError, match="query must be a str"):
        await reranker.acompress_documents([Document("a")], query)


@pytest.mark.parametrize("on_error", ["raise", "keep_order"])
async def test_document_without_text_is_named_by_its_position(on_error: str) -> None:
    model = WordOverlapCrossEncoder()
    reranker = Reranker(model=model, on_error=on_error)
    textless = Document.model_construct(page_content=None, metadata={}, id=None)
    documents = [Document("a"), textless]
    message = "page_content of document 1 must be a str, got NoneType"
    with pytest.raises(TypeError, match=message):
        reranker.compress_documents(documents, "a")
    with pytest.raises(TypeError, match=message):
        await reranker.acompress_documents(documents, "a")
    assert model.calls == []


def test_empty_text_is_scored() -> None:
    model = WordOverlapCrossEncoder()
    ranked = Reranker(model=model).compress_documents([Document(""), Document("a")], "a")
    assert texts(ranked) == ["a", ""]
    assert model.calls == [[("a", ""), ("a", "a")]]


@pytest.mark.parametrize("top_n", [0, -1])
def test_top_n_must_be_positive(top_n: int) -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        Reranker(model=WordOverlapCrossEncoder(), top_n=top_n)


@pytest.mark.parametrize(
    "options", [{"topn": 3}, {"on_error": "ignore"}, {"rank_fields": "title"}, {"model": 3}]
)
def test_wrong_options_are_errors(options: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Reranker(**{"model": WordOverlapCrossEncoder(), **options})


def test_nan_goes_last_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    table = {"nan": math.nan, "best": 1.0, "worst": -math.inf, "nan too": math.nan}
    reranker = Reranker(model=TableCrossEncoder(table))
    ranked = reranker.compress_documents([Document(text) for text in table], "query")
    assert texts(ranked) == ["best", "worst", "nan", "nan too"]
    (record,) = caplog.records
    assert record.getMessage().startswith("2 of 4 scores are NaN")


@pytest.mark.parametrize(("extra", "got"), [(-1, 1), (1, 3), (-2, 0)])
async def test_wrong_number_of_scores_is_an_error(extra: int, got: int) -> None:
    reranker = Reranker(model=ShortCrossEncoder(extra))
    documents = [Document("a"), Document("b")]
    message = f"gave {got} scores for 2 pairs"
    with pytest.raises(ScoringError, match=message):
        reranker.compress_documents(documents, "query")
    with pytest.raises(ScoringError, match=message):
        await reranker.acompress_documents(documents, "query")


async def test_error_of_the_cross_encoder_is_chained() -> None:
    model = BrokenCrossEncoder()
    message = "BrokenCrossEncoder failed on 1 pairs: BrokenModelError: the device is gone"
    with pytest.raises(ScoringError, match=message) as caught:
        Reranker(model=model).compress_documents([Document("a")], "query")
    assert caught.value.__cause__ is model.error
    with pytest.raises(ScoringError, match=message) as caught:
        await Reranker(model=model).acompress_documents([Document("a")], "query")
    assert caught.value.__cause__ is model.error


@pytest.mark.parametrize(
    "model", [BrokenCrossEncoder(), ShortCrossEncoder(1), "no-such/model"], ids=type
)
async def test_keep_order_survives_a_failure(
    model: object, caplog: pytest.LogCaptureFixture
) -> None:
    documents = [Document(text, id=text, metadata={"relevance_score": 9}) for text in "baacd"]
    reranker = Reranker(model=model, top_n=3, on_error="keep_order")

    for kept in (
        reranker.compress_documents(documents, "query"),
        await reranker.acompress_documents(documents, "query"),
    ):
        assert texts(kept) == ["b", "a", "c"]
        assert [document.metadata for document in kept] == [
            {"retrieval_rank": 1},
            {"retrieval_rank": 2},
            {"retrieval_rank": 4},
        ]
    failures = [record for record in caplog.records if record.name.startswith("langchain_rerank")]
    assert [record.levelno for record in failures] == [logging.ERROR] * 2
    assert all(record.exc_info for record in failures)
    assert documents[0].metadata == {"relevance_score": 9}


def test_model_that_does_not_exist_is_a_load_error() -> None:
    with pytest.raises(ModelLoadError, match="no-such/model"):
        Reranker(model="no-such/model").compress_documents([Document("a")], "query")


# What is scored


def test_rank_fields_come_before_the_scored_text_only() -> None:
    model = WordOverlapCrossEncoder()
    reranker = Reranker(model=model, rank_fields=("title", "year"))
    documents = [
        Document("body one", metadata={"title": "Title", "year": 0, "other": "x"}),
        Document("body two", metadata={"year": None, "title": ""}),
        Document("body three"),
    ]
    ranked = reranker.compress_documents(documents, "query")
    assert [passage for _, passage in model.calls[0]] == [
        "Title\n0\nbody one",
        "body two",
        "body three",
    ]
    assert texts(ranked) == ["body one", "body two", "body three"]


def test_any_cross_encoder_gets_text_that_is_utf_8() -> None:
    model = WordOverlapCrossEncoder()
    reranker = Reranker(model=model, rank_fields=("title",))
    documents = [Document("b\udfff", metadata={"title": "t\ud800"})]
    assert reranker.compress_documents(documents, "q\ud800")[0].page_content == "b\udfff"
    assert model.calls == [[("q\ufffd", "t\ufffd\nb\ufffd")]]


def test_rank_field_lifts_a_document() -> None:
    documents = [Document("built in 1894"), Document("1894", metadata={"title": "the Reichstag"})]
    reranker = Reranker(model=WordOverlapCrossEncoder(), rank_fields=("title",))
    assert texts(reranker.compress_documents(documents, "the Reichstag"))[0] == "1894"


def test_score_from_elsewhere_never_wins() -> None:
    documents = [
        Document("unrelated", metadata={"relevance_score": 99.0, "retrieval_rank": 7}),
        Document("query"),
    ]
    ranked = Reranker(model=WordOverlapCrossEncoder()).compress_documents(documents, "query")
    assert [document.metadata for document in ranked] == [
        {"relevance_score": 1.0, "retrieval_rank": 2},
        {"relevance_score": 0.0, "retrieval_rank": 1},
    ]


# Async, LCEL and tracing


async def test_async_does_not_block_the_event_loop() -> None:
    model = WaitingCrossEncoder()
    documents = [Document("b"), Document("a")]
    ranked, _ = await asyncio.gather(
        Reranker(model=model).acompress_documents(documents, "a"), model.release()
    )
    assert texts(ranked) == ["a", "b"]


INPUTS = [
    {"query": "red apple", "documents": [Document("green"), Document("apple"), Document("red")]},
    {"query": "blue", "documents": []},
    {"query": "green", "documents": [Document("red"), Document("green")]},
]


async def test_batch_scores_all_queries_in_one_pass() -> None:
    one_by_one = [
        Reranker(model=WordOverlapCrossEncoder(), top_n=2).as_runnable().invoke(given)
        for given in INPUTS
    ]
    assert [texts(found) for found in one_by_one] == [["apple", "red"], [], ["green", "red"]]

    model = WordOverlapCrossEncoder()
    runnable = Reranker(model=model, top_n=2).as_runnable()
    assert runnable.batch(INPUTS) == one_by_one
    assert [len(call) for call in model.calls] == [5]
    assert await runnable.abatch(INPUTS) == one_by_one
    assert [len(call) for call in model.calls] == [5, 5]
    assert runnable.batch([]) == []


async def test_batch_can_return_errors_in_their_place() -> None:
    runnable = Reranker(model=WordOverlapCrossEncoder()).as_runnable()
    inputs = [*INPUTS[:1], {"query": " ", "documents": [Document("a")]}, *INPUTS[2:]]
    for first, blank, last in (
        runnable.batch(inputs, return_exceptions=True),
        await runnable.abatch(inputs, return_exceptions=True),
    ):
        assert texts(first) == ["apple", "red", "green"]
        assert isinstance(blank, ValueError)
        assert texts(last) == ["green", "red"]
    with pytest.raises(ValueError, match="query must hold text"):
        runnable.batch(inputs)


async def test_runs_as_a_step_of_a_chain() -> None:
    chain = (
        RunnablePassthrough.assign(documents=lambda _: [Document("museum"), Document("people")])
        | Reranker(model=WordOverlapCrossEncoder(), top_n=1).as_runnable()
        | RunnableLambda(texts)
    )
    assert chain.invoke({"query": "how many people"}) == ["people"]
    assert await chain.ainvoke({"query": "how many people"}) == ["people"]
    assert chain.batch([{"query": "people"}, {"query": "museum"}]) == [["people"], ["museum"]]


async def test_reranking_is_a_run_of_its_own_under_the_callers() -> None:
    reranker = Reranker(model=WordOverlapCrossEncoder(), top_n=1)
    documents = [Document("b"), Document("a")]

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
        assert run.name == "Reranker"
        assert run.inputs == {"query": "a", "documents": documents}
        assert texts(run.outputs["output"]) == ["a"]
        assert run.extra["metadata"]["model"] == "WordOverlapCrossEncoder"
        assert run.extra["metadata"]["documents_in"] == 2
        assert run.error is None


def test_run_names_the_model() -> None:
    collector = RunCollectorCallbackHandler()
    reranker = Reranker(model="no-such/model")
    reranker.compress_documents([], "query", callbacks=[collector])
    assert collector.traced_runs[0].extra["metadata"]["model"] == "no-such/model"


def test_failure_shows_as_an_errored_run() -> None:
    collector = RunCollectorCallbackHandler()
    with pytest.raises(ScoringError):
        Reranker(model=BrokenCrossEncoder()).compress_documents(
            [Document("a")], "query", callbacks=[collector]
        )
    with pytest.raises(ValueError, match="query must hold text"):
        Reranker(model=WordOverlapCrossEncoder()).compress_documents([], " ", [collector])
    assert [run.name for run in collector.traced_runs] == ["Reranker", "Reranker"]
    assert "the device is gone" in collector.traced_runs[0].error
    assert "query must hold text" in collector.traced_runs[1].error


# The real model


def test_real_model_puts_the_answer_first(cross_encoder: TorchCrossEncoder) -> None:
    documents = [Document(MUSEUMS, id="m"), Document(""), Document(POPULATION, id="p")]
    ranked = Reranker(model=cross_encoder, top_n=2).compress_documents(documents, QUESTION)
    assert ranked[0].id == "p"
    assert scores(ranked)[0] == pytest.approx(9.09, abs=0.05)
    assert scores(ranked)[1] < 0


@pytest.mark.parametrize(
    "text", ["lone \ud800 surrogate", "NUL \0", "👩‍👩‍👧 emoji", "כמה אנשים", "word " * 200_000]
)
def test_odd_texts_are_ranked(cross_encoder: TorchCrossEncoder, text: str) -> None:
    reranker = Reranker(model=cross_encoder)
    ranked = reranker.compress_documents([Document(text), Document(POPULATION)], QUESTION)
    assert texts(ranked) == [POPULATION, text]
    assert len(reranker.compress_documents([Document(MUSEUMS)], text)) == 1


def test_name_becomes_a_flag_embedding_model_and_survives_pickling(checkpoint: str) -> None:
    reranker = pickle.loads(pickle.dumps(Reranker(model=checkpoint, top_n=1)))  # noqa: S301
    assert isinstance(reranker.cross_encoder, TorchCrossEncoder)
    ranked = reranker.compress_documents([Document(MUSEUMS), Document(POPULATION)], QUESTION)
    assert texts(ranked) == [POPULATION]
    assert scores(ranked)[0] == pytest.approx(0.9999, abs=1e-3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("text", "expected a dict with 'query' and 'documents', got str"),
        ({"query": "why"}, "lacks 'documents'"),
        ({"query": "why", "documents": ["text"]}, "document 0 must be a Document, got str"),
    ],
)
def test_wrong_inputs_of_the_runnable_say_what_was_expected(given, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Reranker(model=WordOverlapCrossEncoder()).as_runnable().invoke(given)


def test_documents_may_come_from_a_generator():
    documents = (Document(text) for text in ("b", "a"))
    found = Reranker(model=WordOverlapCrossEncoder()).compress_documents(documents, "a")
    assert texts(found) == ["a", "b"]


class _Coroutine(WordOverlapCrossEncoder):
    """A cross encoder with a native `ascore`, whose `score` must not be called for it."""

    def __init__(self, extra: int = 0) -> None:
        super().__init__()
        self.extra = extra

    async def ascore(self, text_pairs):
        await asyncio.sleep(0)
        if self.extra is None:
            msg = "no route"
            raise OSError(msg)
        return [self._overlap(*pair) for pair in text_pairs] + [0.0] * self.extra


async def test_a_native_ascore_is_awaited_in_place_of_score():
    cross_encoder = _Coroutine()
    documents = [Document("fish"), Document("people live in berlin")]
    kept = await Reranker(model=cross_encoder).acompress_documents(documents, "people berlin")
    assert [document.page_content for document in kept] == ["people live in berlin", "fish"]
    assert cross_encoder.calls == []
    assert await Reranker(model=cross_encoder).acompress_documents([], "people") == []


@pytest.mark.parametrize(("extra", "message"), [(1, "2 scores for 1 pairs"), (None, "no route")])
async def test_a_native_ascore_is_held_to_the_same_contract(extra, message):
    reranker = Reranker(model=_Coroutine(extra))
    with pytest.raises(ScoringError, match=message):
        await reranker.acompress_documents([Document("fish")], "people")
