"""The ranking policy: order, threshold, duplicates, and fusion with the first stage's ranks."""

from __future__ import annotations

import asyncio
import copy
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document
from scipy import special, stats

from langchain_rerank import Reranker
from langchain_rerank.cross_encoders.batching import sigmoid
from langchain_rerank.ranking import as_logits, fused_scores, z_scores
from tests.fakes import WordOverlapCrossEncoder
from tests.support import texts


class TableCrossEncoder(WordOverlapCrossEncoder):
    """Scores a passage by a table."""

    def __init__(self, table: dict[str, float]) -> None:
        super().__init__()
        self.table = table

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        self.calls.append(list(text_pairs))
        return [self.table[passage] for _, passage in text_pairs]


def rerank(documents: Any, table: dict[str, float], **options: Any) -> list[Document]:
    """Rerank both ways, which must give the same and leave the input as it was."""
    reranker = Reranker(**{"model": TableCrossEncoder(table), "top_n": None, **options})
    if isinstance(documents, str):
        documents = [Document(text) for text in documents]
    before = copy.deepcopy(documents)
    found = reranker.compress_documents(documents, "query")
    assert asyncio.run(reranker.acompress_documents(documents, "query")) == found
    assert documents == before
    return found


def values(documents: list[Document], name: str) -> list[Any]:
    return [document.metadata.get(name) for document in documents]


# Few texts, ids and scores, so that most examples have duplicates and ties.
TEXTS = ["", "a", "b", "c", "d"]
SCORES = st.sampled_from([-math.inf, -1.5, -0.0, 0.0, 0.5, 2.0, math.inf, math.nan])
TABLES = st.fixed_dictionaries(dict.fromkeys(TEXTS, SCORES))
OURS = ("relevance_score", "retrieval_rank", "fused_score")
METADATA = st.dictionaries(st.sampled_from(["tags", *OURS]), st.sampled_from([7, "a", ["a"]]))
IDS = st.sampled_from([None, "", "1", "2", "3"])
ANY = st.builds(Document, page_content=st.sampled_from(TEXTS), id=IDS, metadata=METADATA)
DOCUMENTS = st.lists(ANY, max_size=8)
SOME_WEIGHTS = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])


@given(documents=DOCUMENTS, table=TABLES)
def test_every_document_comes_back_in_score_order(documents, table):
    ranked = rerank(documents, table, deduplicate=False)
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


@given(documents=DOCUMENTS, table=TABLES, weight=SOME_WEIGHTS, top_n=st.integers(1, 9), at=SCORES)
def test_threshold_means_the_relevance_score_and_comes_before_top_n(
    documents, table, weight, top_n, at
):
    everything = rerank(documents, table, first_stage_weight=weight)
    above = [document for document in everything if table[document.page_content] >= at]
    limits = {"top_n": top_n, "score_threshold": at}
    assert rerank(documents, table, first_stage_weight=weight, **limits) == above[:top_n]


@given(documents=DOCUMENTS, table=TABLES)
def test_of_duplicates_the_first_stage_best_stays(documents, table):
    kept = sorted(values(rerank(documents, table), "retrieval_rank"))
    for rank, document in enumerate(documents, start=1):
        earlier = [documents[other - 1] for other in kept if other < rank]
        same_text = document.page_content in texts(earlier)
        same_id = bool(document.id) and document.id in [other.id for other in earlier]
        assert (rank in kept) is not (same_text or same_id)


def test_scores_that_json_lacks_are_left_out_with_one_warning(caplog):
    table = {"nan": math.nan, "best": 1.0, "worst": -math.inf, "nan too": math.nan, "top": math.inf}
    reranker = Reranker(model=TableCrossEncoder(table), first_stage_weight=0.1)
    ranked = reranker.compress_documents([Document(text) for text in table], "query")
    assert texts(ranked)[3:] == ["nan", "nan too"]
    assert sorted(map(str, values(ranked, "relevance_score"))) == ["1.0", *["None"] * 4]
    (record,) = caplog.records
    assert record.getMessage().startswith("4 of 5 scores are NaN, the worst of all, or infinite")


@given(documents=DOCUMENTS, table=TABLES, weight=SOME_WEIGHTS)
def test_weight_changes_the_order_and_adds_a_fused_score(documents, table, weight):
    plain = rerank(documents, table)
    mixed = rerank(documents, table, first_stage_weight=weight)
    fused = [document.metadata.pop("fused_score", None) for document in mixed]
    nans = [math.isnan(table[document.page_content]) for document in mixed]
    assert sorted(mixed, key=str) == sorted(plain, key=str)
    assert nans == sorted(nans)
    assert weight > 0 or mixed == plain
    assert [value is None for value in fused] == [nan or weight == 0 for nan in nans]
    known = [value for value in fused if value is not None]
    assert known == sorted(known, reverse=True)


ABCD = {"a": 0.30, "b": 0.35, "c": 0.9, "d": 0.01}


@pytest.mark.parametrize(
    ("table", "weight", "order"),
    [
        (ABCD, 0, "cbad"),
        (ABCD, 0.2, "cabd"),
        (ABCD, 0.6, "abcd"),
        # Equal fused scores are in order of relevance, equal scores in that of the first stage.
        ({"a": 0.0, "b": 1.0}, 0.5, "ba"),
        (dict.fromkeys("cab", 0.0), 0.1, "cab"),
    ],
)
def test_weight_mixes_both_orders(table, weight, order):
    assert texts(rerank("".join(table), table, first_stage_weight=weight)) == list(order)


def test_the_rank_that_counts_is_that_of_the_first_duplicate():
    ranked = rerank("aaaabc", {"a": 1.0, "b": 3.0, "c": 2.0}, first_stage_weight=0.4)
    ranked.sort(key=lambda document: document.page_content)
    assert values(ranked, "retrieval_rank") == [1, 5, 6]
    assert values(ranked, "fused_score") == fused_scores([1.0, 3.0, 2.0], [1, 5, 6], 0.4)


# Fusion as arithmetic

LOGITS = st.lists(st.floats(-15, 15), min_size=1, max_size=12)


def test_parts_are_scipys_and_the_mix_is_by_hand():
    values = [3.0, -1.0, 0.5, 0.5, 11.0]
    assert z_scores(values) == pytest.approx(stats.zscore(values))
    assert z_scores([0.1] * 3) == [0.0] * 3
    for tiny_or_huge in ([1e-300, 2e-300], [-1.7e308, 1.7e308]):
        assert z_scores(tiny_or_huge) == pytest.approx([-1, 1])
    probabilities = [1e-9, 0.25, 0.5, 0.999, 1 - 1e-9]
    assert as_logits(probabilities) == pytest.approx(special.logit(probabilities))
    assert as_logits([0.0, 5e-324, 0.5, 1.0]) == [-36.0, -36.0, 0.0, 36.0]
    assert as_logits([math.inf, 3.0, -7.0, -math.inf]) == [3.0, 3.0, -7.0, -7.0]
    assert as_logits([math.inf, -math.inf]) == [0.0, 0.0]
    # z of (4, 1, 1): mean 2, deviation √2. z of -log(1, 2, 4) = -(0, 1, 2) log 2: (1, 0, -1) √1.5.
    a, b = math.sqrt(2), math.sqrt(1.5)
    expected = [0.75 * a + 0.25 * b, -0.75 / a, -0.75 / a - 0.25 * b]
    assert fused_scores([4.0, 1.0, 1.0], [1, 2, 4], 0.25) == pytest.approx(expected)
    for ranks in ([1], [0, 1]):
        with pytest.raises(ValueError, match=r"shorter|math domain|positive"):
            fused_scores([1.0, 2.0], ranks, 0.5)


@given(logits=LOGITS, weight=st.floats(0, 1))
def test_the_sigmoid_of_scores_does_not_count(logits, weight):
    logits = [*logits, -1.0]
    ranks = list(range(1, len(logits) + 1))
    spread = max(logits) - min(logits)
    if spread == 0 or spread > 1e-3:  # below, rounding is part of what is mixed
        expected = pytest.approx(fused_scores(logits, ranks, weight), abs=1e-5)
        assert fused_scores(sigmoid(np.array(logits)).tolist(), ranks, weight) == expected


@given(scores=st.lists(st.floats(), max_size=12), weight=st.floats(0, 1))
def test_nan_stays_all_else_is_finite_and_weight_1_is_the_first_stage(scores, weight):
    ranks = list(range(1, len(scores) + 1))
    fused = fused_scores(scores, ranks, weight)
    assert [math.isnan(value) for value in fused] == [math.isnan(score) for score in scores]
    assert not any(map(math.isinf, fused))
    first = [one for one in fused_scores(scores, ranks, 1) if not math.isnan(one)]
    assert first == sorted(first, reverse=True)
    tied = fused_scores([0.7] * len(ranks), ranks, 0.1)
    assert tied == sorted(tied, reverse=True)
