"""Sweeps: every setting as the real reranker would answer, each pair scored once."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from operator import gt

import pytest
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_rerank import (
    OnnxCrossEncoder,
    Reranker,
    TorchCrossEncoder,
    create_rerank_retriever,
)
from langchain_rerank.errors import EvaluationError
from langchain_rerank.evaluation import Dataset, RerankedRun, Sweep, evaluate, sweep
from langchain_rerank.evaluation.statistics import Interval
from langchain_rerank.evaluation.sweep_report import Setting, Trial, WeightChoice
from langchain_rerank.evaluation.sweeper import named_rerankers
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


def test_weight_that_gains_on_both_halves_is_recommended():
    ids = {str(number) for number in range(19)}

    found = weigh(halves(ids), first_stage_weights=[0.2, 0.8])

    [choice] = found.weight_choices
    assert choice.best_weight == choice.weight == 0.8
    assert choice.choosing_gain > 0
    assert choice.judging_gain > 0
    assert found.choosing_queries == tuple(halves(ids).split(0.5, seed=3)[0].qrels)
    # Weight 0.8 follows the first stage: 19 queries right, the last one at rank 2.
    plain, _, heavy = found.trials
    assert plain.mean == pytest.approx((1 + 19 / 2) / 20)
    assert heavy.mean == pytest.approx((19 + 1 / 2) / 20)
    gains = {one: heavy.per_query[one] - plain.per_query[one] for one in heavy.per_query}
    judging = [gain for one, gain in gains.items() if one not in found.choosing_queries]
    choosing = [gain for one, gain in gains.items() if one in found.choosing_queries]
    assert choice.judging_gain == pytest.approx(sum(judging) / 10)
    assert choice.choosing_gain == pytest.approx(sum(choosing) / 10)
    table = found.to_dataframe()
    assert table["eligible"].tolist() == [True, False, False, True]
    assert table["RR choosing half"].tolist()[1:] == [
        pytest.approx(sum(one.per_query[q] for q in found.choosing_queries) / 10)
        for one in found.trials
    ]


def test_weight_that_gains_on_the_choosing_half_alone_is_not():
    every = weigh(halves([]), first_stage_weights=[0.8])
    only_chosen = set(every.choosing_queries)

    found = weigh(halves(only_chosen), first_stage_weights=[0.8])

    assert set(found.choosing_queries) == only_chosen
    [choice] = found.weight_choices
    assert (choice.best_weight, choice.weight) == (0.8, 0)
    assert (choice.choosing_gain, choice.judging_gain) == (0.5, -0.5)
    assert found.to_dataframe()["eligible"].tolist() == [True, True, False]
    assert "does not hold, so the weight is 0: -0.5000" in str(
        dataclasses.replace(found.recommend(), weight_choice=choice)
    )


def test_without_weights_nothing_is_split():
    one_query = DATASET.subset(["q0"])

    found = sweep(
        a_run(one_query),
        one_query,
        models={"overlap": WordOverlapCrossEncoder()},
        fetch_k=[10],
        first_stage_weights=[0],
        **FAST,
    )

    assert found.weight_choices == ()
    assert found.trials[0].interval is None
    assert "weight tried" not in found.to_markdown()
    assert found.to_markdown().startswith("toy: 1 query, 10 documents returned")


def trial(model, fetch_k, mean, ms, weight=0.0):
    values = {"1": mean, "2": mean}
    return Trial(
        Setting(model, "onnx" if model else None, fetch_k, weight),
        values,
        mean,
        Interval(mean - 0.1, mean + 0.1),
        (ms / 1000, ms / 1000),
    )


def a_sweep(*trials, choices=()):
    first_stage = trial(None, 10, 0.40, 5)
    return Sweep("toy", "nDCG@10", 10, 0.95, first_stage, trials, choices, ("1",) * bool(choices))


def test_recommends_the_cheapest_close_to_the_best():
    small = [trial("small", 50, 0.655, 60), trial("small", 100, 0.660, 110)]
    large = [trial("large", 20, 0.652, 200), trial("large", 100, 0.670, 900)]
    found = a_sweep(*small, *large)

    assert found.recommend(0).trial is large[1]
    assert found.recommend(0.01).trial is small[1]
    assert found.recommend(0.015).trial is small[0]
    assert found.recommend(0.01).best is large[1]
    assert str(found.recommend(0.01)) == (
        "Rerank 100 candidates with small (onnx), first_stage_weight 0: nDCG@10 0.6600 [0.5600, "
        "0.7600], 110 ms a query (p95 110 ms). The best, rerank 100 candidates with large (onnx), "
        "first_stage_weight 0, has 0.6700, 900 ms a query (p95 900 ms); within 0.01 of it "
        "the cheapest is recommended."
    )


def test_equal_latency_goes_to_the_smaller_depth():
    deep, shallow = trial("a", 100, 0.6, 50), trial("a", 50, 0.6, 50)

    found = a_sweep(deep, shallow)
    assert found.recommend().trial is shallow
    assert repr(found).endswith(", measure='nDCG@10', trials=2)")


def test_first_stage_that_is_as_good_is_recommended():
    found = a_sweep(trial("a", 100, 0.405, 500))

    assert found.recommend(0.01).trial is found.first_stage
    assert str(found.recommend(0.01)).startswith(
        "No reranking, the first stage alone: nDCG@10 0.4000 [0.3000, 0.5000], 5 ms a query"
    )


def test_recommends_no_weight_but_the_one_that_was_found():
    plain, light, heavy = (trial("a", 50, 0.6 + 0.1 * w, 50, w) for w in (0, 0.2, 0.5))
    setting = plain.setting

    holds = WeightChoice(setting, 0.2, 0.05, 0.02, Interval(0.01, 0.03))
    fails = WeightChoice(setting, 0.5, 0.05, -0.02, Interval(-0.03, -0.01))
    unsure = WeightChoice(setting, 0.5, 0.05, 0.02, Interval(-0.01, 0.05))

    assert a_sweep(plain, light, heavy, choices=(holds,)).recommend(0).trial is light
    assert a_sweep(plain, light, heavy, choices=(fails,)).recommend(0).trial is plain
    assert a_sweep(plain, light, heavy, choices=(unsure,)).recommend(0).trial is plain
    words = str(a_sweep(plain, light, heavy, choices=(holds,)).recommend(0))
    assert "The weight 0.2 was chosen on half of the queries (+0.0500)" in words
    assert "its gain on the others holds: +0.0200 [+0.0100, +0.0300]" in words


def test_tables_say_what_was_found(store):
    found = sweep(
        store, DATASET, models={"a<b|c": WordOverlapCrossEncoder()}, fetch_k=[10, 20], **FAST
    )

    table = found.to_dataframe()
    assert table["fetch_k"].tolist() == [10] + [10] * 5 + [20] * 5
    assert table["first_stage_weight"].tolist() == [0] + [0, 0.1, 0.2, 0.3, 0.5] * 2
    assert table["nDCG@10"].tolist() == [found.first_stage.mean, *(t.mean for t in found.trials)]
    assert (table["nDCG@10 low"] <= table["nDCG@10"]).all()
    assert (table["p50 ms"] <= table["p95 ms"]).all()
    markdown = found.to_markdown()
    assert "| a<b\\|c | 20 | " in markdown
    assert f"| first stage alone | – | {found.first_stage.mean:.4f} [" in markdown
    assert markdown.count("\n| ") == 5
    assert str(found.recommend()).replace("|", "\\|") in markdown
    assert "<td>a&lt;b|c</td>" in found._repr_html_()


def test_models_by_name_run_on_each_backend(tmp_path):
    cross_encoder, reranker = WordOverlapCrossEncoder(), Reranker(model=WordOverlapCrossEncoder())
    models = {"BGE": "BAAI/bge-reranker-base", "overlap": cross_encoder, "mine": reranker}

    listed = named_rerankers(models, ["torch", "onnx", "torch"])

    named = [(name, backend) for name, backend, _ in listed]
    assert named == [("BGE", "torch"), ("BGE", "onnx"), ("overlap", None), ("mine", None)]
    torch, onnx, own, mine = (one for *_, one in listed)
    assert torch.cross_encoder == TorchCrossEncoder(model="BAAI/bge-reranker-base")
    assert onnx.cross_encoder == OnnxCrossEncoder(model="BAAI/bge-reranker-base")
    assert own.cross_encoder is cross_encoder
    assert mine is reranker
    # Folders are named by their last part.
    folder = tmp_path / "MiniLM"
    folder.mkdir()
    listed = named_rerankers([str(folder), "BAAI/bge-reranker-base"], ["onnx"])
    assert [name for name, *_ in listed] == ["MiniLM", "BAAI/bge-reranker-base"]
    with pytest.raises(ValueError, match="give a mapping by name"):
        named_rerankers([str(folder), str(folder)], ["onnx"])


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
        ({"models": []}, ValueError, "expected a model and a backend"),
        ({"models": {"a": 3}}, TypeError, "model 'a' must be .*got int"),
        ({"models": [WordOverlapCrossEncoder()]}, TypeError, "map a name of your own to it"),
        ({"models": ["a"], "backends": ["tpu"]}, ValueError, "torch, onnx, got 'tpu'"),
        ({"models": ["a"], "backends": "onnx"}, TypeError, "backends must be a sequence"),
        ({"source": [1, 2]}, TypeError, "source must be a VectorStore, a retriever or a run"),
        ({"dataset": Dataset(DATASET.queries, DATASET.qrels)}, ValueError, "with a corpus"),
        ({"dataset": DATASET.subset(["q0"])}, ValueError, "leaves both parts"),
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
