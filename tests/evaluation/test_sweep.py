"""Sweeps: every setting as the real reranker would answer, each pair scored once."""

from __future__ import annotations

import random
from collections import Counter
from operator import gt

import pytest
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_rerank import Reranker, create_rerank_retriever
from langchain_rerank.errors import EvaluationError
from langchain_rerank.evaluation import Dataset, RerankedRun, Sweep, evaluate, sweep
from langchain_rerank.evaluation.measures import Interval
from langchain_rerank.evaluation.sweep_report import Setting, Trial
from tests.fakes import WordOverlapCrossEncoder

WORDS = ["red", "green", "blue", "tall", "small", "wide", "soft", "hard", "old", "new"]
FAST = {"resamples": 20, "show_progress": False}


def text(seed):
    return " ".join(random.Random(seed).choices(WORDS, k=5))  # noqa: S311  # no secret


def data_set(queries=6, documents=30):
    # Every fifth document repeats the text of an earlier one, which Reranker drops.
    texts = [text(number - 1 if number % 5 == 0 else number) for number in range(1, documents + 1)]
    corpus = {f"d{n}": Document(one, id=f"d{n}") for n, one in enumerate(texts)}
    rng = random.Random(0)  # noqa: S311  # no secret
    return Dataset(
        {f"q{n}": text(-1 - n) for n in range(queries)},
        {f"q{n}": {one: rng.choice([0, 1, 2]) for one in corpus} for n in range(queries)},
        corpus,
        "toy",
    )


def a_run(dataset):
    rng = random.Random(1)  # noqa: S311  # no secret
    return {query: {one: rng.random() for one in dataset.corpus} for query in dataset.qrels}


DATASET = data_set()


@pytest.fixture(scope="module")
def store():
    return InMemoryVectorStore.from_documents(
        DATASET.documents, DeterministicFakeEmbedding(size=16)
    )


def values_of(system, measure):
    report = evaluate({"one": system}, DATASET, [measure], **FAST)
    return report.systems["one"].per_query[measure]


@pytest.mark.parametrize(
    "settings",
    [{}, {"deduplicate": False}, {"score_threshold": 0.3}, {"rank_fields": ("title",)}],
)
def test_every_trial_is_what_the_retriever_of_that_setting_returns(store, settings):
    reranker = Reranker(model=WordOverlapCrossEncoder(), **settings)

    found = sweep(
        store,
        DATASET,
        models={"overlap": reranker},
        fetch_k=[20, 5, 12],
        first_stage_weights=[0.4, 1],
        measure="nDCG@10",
        k=5,
        **FAST,
    )

    settings = [(one.setting.fetch_k, one.setting.first_stage_weight) for one in found.trials]
    assert settings == [(depth, weight) for depth in (5, 12, 20) for weight in (0, 0.4, 1)]
    for trial in found.trials:
        weight = trial.setting.first_stage_weight
        same = reranker.model_copy(update={"first_stage_weight": weight})
        retriever = create_rerank_retriever(
            store, reranker=same, k=5, fetch_k=trial.setting.fetch_k
        )
        assert trial.per_query == values_of(retriever, "nDCG@10"), trial.setting
        # Retrieval counts as well.
        assert all(map(gt, trial.seconds, found.first_stage.seconds))
    dense = store.as_retriever(search_kwargs={"k": 5})
    assert found.first_stage.per_query == values_of(dense, "nDCG@10")


def test_run_as_source_reads_its_texts_from_the_corpus():
    run, cross_encoder = a_run(DATASET), WordOverlapCrossEncoder()

    found = sweep(
        run,
        DATASET,
        models={"overlap": cross_encoder},
        fetch_k=[8, 30],
        first_stage_weights=[0],
        measure="nDCG@5",
        k=5,
        **FAST,
    )

    for trial, depth in zip(found.trials, (8, 30), strict=True):
        system = RerankedRun(run, Reranker(model=cross_encoder), fetch_k=depth)
        assert trial.per_query == values_of(system, "nDCG@5")
    assert found.first_stage.per_query == values_of(run, "nDCG@5")
    assert found.first_stage.latency_ms() == 0


def test_each_pair_is_scored_once_in_steps_of_depth():
    cross_encoder = WordOverlapCrossEncoder()
    reranker = Reranker(model=cross_encoder, deduplicate=False)

    found = sweep(
        a_run(DATASET),
        DATASET,
        models={"overlap": reranker},
        fetch_k=[10, 5, 25],
        k=5,
        **FAST,
    )

    loading, *steps = cross_encoder.calls
    assert len(loading) == 1
    assert [len(step) for step in steps] == [5, 5, 15] * 6
    scored = Counter(pair[0] for step in steps for pair in step)
    assert scored == dict.fromkeys(DATASET.queries.values(), 25)
    # A depth costs what the steps up to it took.
    by_depth = {one.setting.fetch_k: one.seconds for one in found.trials}
    for shallow, deep in ((5, 10), (10, 25)):
        assert all(map(gt, by_depth[deep], by_depth[shallow]))


def test_chunks_stand_for_the_document_that_was_judged():
    dataset = Dataset.from_questions([("red tall", ["a"]), ("blue", ["b"])])
    chunks = [
        Document("red", id="1", metadata={"source": "c"}),
        Document("blue", id="2", metadata={"source": "b"}),
        Document("red tall", id="3", metadata={"source": "a"}),
        Document("tall red", id="4", metadata={"source": "a"}),
    ]

    class All(BaseRetriever):
        def _get_relevant_documents(self, query, *, run_manager):
            return chunks

    models = {"overlap": WordOverlapCrossEncoder()}
    found = sweep(All(), dataset, models=models, fetch_k=[4], k=4, id_key="source", **FAST)

    assert found.trials[0].mean == 1
    # "a" stands third and is the third document; "b" second.
    assert found.first_stage.mean == pytest.approx((1 / 2 + 0.6309297535714575) / 2)


class ScriptedCrossEncoder(BaseCrossEncoder):
    """Prefers the passage "first" or "second", as the query says."""

    def score(self, text_pairs):
        return [float(passage == query.split()[0]) for query, passage in text_pairs]


def halves(helped):
    """A data set where the first stage is right on the queries `helped`, the model on the others.

    The first stage always puts "first" before "second".
    """
    ids = [str(number) for number in range(20)]
    corpus = {one: Document(one, id=one) for one in ("first", "second")}
    queries = {one: f"second {one}" for one in ids}
    return Dataset(
        queries, {one: {"first" if one in helped else "second": 1} for one in ids}, corpus
    )


def weigh(dataset, **settings):
    run = {query: {"first": 2.0, "second": 1.0} for query in dataset.queries}
    models = {"scripted": ScriptedCrossEncoder()}
    return sweep(
        run, dataset, models=models, fetch_k=[2], k=2, measure="RR", seed=3, **FAST, **settings
    )


def test_weight_is_recommended_where_it_gains_more_than_chance():
    found = weigh(halves({str(number) for number in range(19)}), first_stage_weights=[0.2, 0.8])

    # Weight 0.8 follows the first stage: 19 queries right, the last one at rank 2.
    plain, _, heavy = found.trials
    assert plain.mean == pytest.approx((1 + 19 / 2) / 20)
    assert heavy.mean == pytest.approx((19 + 1 / 2) / 20)
    advice = found.recommend()
    # The first stage alone is as good, and costs less.
    assert advice.trial is found.first_stage
    assert advice.plain is plain
    assert advice.over_plain.mean == pytest.approx(heavy.mean - plain.mean)
    assert advice.plain_over_first_stage.interval.high < 0
    said = str(advice)
    assert said.startswith("Plain reranking hurts here: RR -0.4500 [")
    assert "Take the first stage alone: RR 0.9750 [" in said


def test_weight_that_gains_by_chance_is_not():
    found = weigh(halves({str(number) for number in range(10)}), first_stage_weights=[0.8])

    plain, heavy = found.trials
    assert heavy.mean == plain.mean
    advice = found.recommend()
    assert advice.trial is plain
    assert advice.over_plain.mean <= 0


def test_what_is_expected_is_less_than_the_best_of_many_shows():
    rng = random.Random(0)  # noqa: S311  # no secret
    names = [str(number) for number in range(40)]

    def noise(model, weight, mean):
        values = {one: mean + rng.uniform(-0.3, 0.3) for one in names}
        setting = Setting(model, 50, weight)
        return Trial(setting, values, sum(values.values()) / 40, None, (0.01,) * 40)

    draws = {"confidence": 0.95, "resamples": 99, "seed": 0}
    weights = [number / 40 for number in range(40)]
    trials = tuple(noise("a", weight, 0.5) for weight in weights)
    found = Sweep("noise", "nDCG@10", 10, draws, noise(None, 0, 0.3), trials)

    advice = found.recommend()

    seen = max(one.mean for one in trials) - trials[0].mean
    assert advice.over_plain.mean < seen / 2
    assert advice.over_first_stage.interval.low > 0


def test_one_query_has_no_interval():
    one_query = DATASET.subset(["q0"])
    models = {"overlap": WordOverlapCrossEncoder()}

    found = sweep(
        a_run(one_query), one_query, models=models, fetch_k=[10], first_stage_weights=[0], **FAST
    )

    assert found.trials[0].interval is None
    assert "toy: 1 query, 10 documents returned" in found.to_markdown()


def trial(model, fetch_k, mean, ms, weight=0.0):
    values = {"1": mean, "2": mean}
    seconds = (ms / 1000, ms / 1000)
    interval = Interval(mean - 0.1, mean + 0.1)
    return Trial(Setting(model, fetch_k, weight), values, mean, interval, seconds)


def a_sweep(*trials):
    draws = {"confidence": 0.95, "resamples": 99, "seed": 0}
    return Sweep("toy", "nDCG@10", 10, draws, trial(None, 10, 0.40, 5), trials)


def test_recommends_the_cheapest_within_the_tolerance_and_says_what_others_cost():
    small = [trial("small", 50, 0.655, 60), trial("small", 100, 0.660, 110)]
    large = [trial("large", 20, 0.652, 200), trial("large", 100, 0.670, 900)]
    found = a_sweep(*small, *large)

    assert found.recommend(0).trial is large[1]
    assert found.recommend(0.01).trial is small[1]
    assert found.recommend(0.015).trial is small[0]
    advice = found.recommend(0.01)
    assert (advice.cheaper, advice.better) == (None, large[1])
    assert found.recommend().cheaper is small[1]
    assert str(found.recommend()) == (
        "Take 100 candidates reranked by large: nDCG@10 0.6700 [0.5700, 0.7700], 900 ms a question "
        "(p95 900 ms). On other questions expect +0.2700 [+0.2700, +0.2700] over the first stage "
        "alone, +0.0100 [+0.0100, +0.0100] over 100 candidates reranked by small. Cheaper: 100 "
        "candidates reranked by small, -0.0100, 110 ms a question (p95 110 ms)."
    )


def test_equal_latency_goes_to_the_smaller_depth():
    deep, shallow = trial("a", 100, 0.6, 50), trial("a", 50, 0.6, 50)

    found = a_sweep(deep, shallow)
    assert found.recommend().trial is shallow
    assert repr(found).endswith(", measure='nDCG@10', trials=2)")


def test_first_stage_that_is_as_good_is_recommended():
    found = a_sweep(trial("a", 100, 0.405, 500))

    assert found.recommend(0.01).trial is found.first_stage
    assert str(found.recommend(0.01)).startswith("Take the first stage alone: nDCG@10 0.4000 [")


def test_tables_say_what_was_found(store):
    found = sweep(
        store, DATASET, models={"a<b|c": WordOverlapCrossEncoder()}, fetch_k=[10, 20], **FAST
    )

    table = found.to_dataframe()
    assert table["fetch_k"].tolist() == [10] + [10] * 8 + [20] * 8
    weights = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8]
    assert table["first_stage_weight"].tolist() == [0, *weights, *weights]
    assert table["nDCG@10"].tolist() == [found.first_stage.mean, *(t.mean for t in found.trials)]
    assert (table["nDCG@10 low"] <= table["nDCG@10"]).all()
    assert (table["p50 ms"] <= table["p95 ms"]).all()
    markdown = found.to_markdown()
    assert "| a<b\\|c | 20 | " in markdown
    assert f"| the first stage alone | – | {found.first_stage.mean:.4f} [" in markdown
    assert markdown.count("\n| ") == 5
    assert str(found.recommend()).replace("|", "\\|") in markdown
    assert "<td>a&lt;b|c</td>" in found._repr_html_()


class FailingCrossEncoder(WordOverlapCrossEncoder):
    def score(self, text_pairs):
        if any(query == DATASET.queries["q2"] for query, _ in text_pairs):
            msg = "out of coffee"
            raise RuntimeError(msg)
        return super().score(text_pairs)


def test_failure_names_model_and_query():
    with pytest.raises(EvaluationError, match=r"mine failed on query 'q2' .*out of coffee"):
        sweep(a_run(DATASET), DATASET, models={"mine": FailingCrossEncoder()}, **FAST)


def test_run_that_names_a_document_outside_the_corpus():
    run = {**a_run(DATASET), "q3": {"nowhere": 1.0}}

    expected = "the first stage failed on query 'q3' .*'nowhere' is not in the corpus"
    with pytest.raises(EvaluationError, match=expected):
        sweep(run, DATASET, models={"a": WordOverlapCrossEncoder()}, **FAST)


def test_store_of_other_documents_is_refused():
    other = InMemoryVectorStore.from_documents(
        [Document("red", id="x")], DeterministicFakeEmbedding(size=4)
    )

    with pytest.raises(ValueError, match="returned no document of the data set's corpus"):
        sweep(other, DATASET, models={"a": WordOverlapCrossEncoder()}, **FAST)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"fetch_k": []}, ValueError, "fetch_k must be > 0"),
        ({"fetch_k": [5, 20]}, ValueError, "fetch_k must be at least k, got fetch_k=5 with k=10"),
        ({"fetch_k": [20.0]}, TypeError, "fetch_k must be an int"),
        ({"k": 0}, ValueError, "k must be > 0"),
        ({"first_stage_weights": [0, 1.5]}, ValueError, "must be from 0 to 1, got 1.5"),
        ({"first_stage_weights": [float("nan")]}, ValueError, "got nan"),
        ({"measure": "nDGC@10"}, ValueError, "unknown measure 'nDGC@10'"),
        ({"models": "BAAI/bge-reranker-base"}, TypeError, "models must be a sequence"),
        ({"models": []}, ValueError, "expected at least one model, got none"),
        ({"models": {"a": 3}}, TypeError, "model 'a' must be .*got int"),
        ({"models": [WordOverlapCrossEncoder()]}, TypeError, "or a mapping by names"),
        ({"source": [1, 2]}, TypeError, "source must be a VectorStore, a retriever or a run"),
        ({"dataset": Dataset(DATASET.queries, DATASET.qrels)}, ValueError, "with a corpus"),
        ({"confidence": 1}, ValueError, "confidence must be between 0 and 1"),
        ({"resamples": 1}, ValueError, "resamples must be an int of at least 2, got 1"),
        ({"seed": -1, "first_stage_weights": [0]}, ValueError, "seed must be an int of at least 0"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_scored(arguments, error, said):
    cross_encoder = WordOverlapCrossEncoder()
    given = {
        "source": a_run(DATASET),
        "dataset": DATASET,
        "models": {"a": cross_encoder},
        **FAST,
        **arguments,
    }

    with pytest.raises(error, match=said):
        sweep(given.pop("source"), given.pop("dataset"), **given)

    assert cross_encoder.calls == []


@pytest.mark.parametrize("tolerance", [-0.1, float("nan"), float("inf")])
def test_tolerance_is_a_distance(tolerance):
    with pytest.raises(ValueError, match="tolerance must be"):
        a_sweep().recommend(tolerance)
