"""Sweeps: every setting as the real reranker would answer, each pair scored once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from operator import gt

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_rerank import Reranker, create_rerank_retriever
from langchain_rerank.errors import EvaluationError
from langchain_rerank.evaluation import Dataset, RerankedRun, evaluate, sweep
from tests.evaluation.toy import QUIET, a_sweep, random_run, toy
from tests.fakes import RecordingRetriever, WordOverlapCrossEncoder

TOY = toy(queries=6, documents=40)
# Every fifth document repeats the text of an earlier one, which Reranker drops.
REPEATS = {
    one.id: one if n % 5 else Document(TOY.documents[n - 1].page_content, id=one.id)
    for n, one in enumerate(TOY.documents)
}
DATASET = replace(TOY, corpus=REPEATS)
WEIGHTS = (0.2, 0.4, 0.5, 0.6, 0.7, 1)
RUN = random_run(DATASET, depth=30)
STORE = InMemoryVectorStore.from_documents(DATASET.documents, DeterministicFakeEmbedding(size=16))
FIRST = (None, 10, 0)


def swept(source=RUN, dataset=DATASET, model=None, **settings):
    models = {"overlap": model or WordOverlapCrossEncoder()}
    return sweep(source, dataset, **{"models": models, "k": 5, **QUIET, **settings})


def values_of(system, measure="nDCG@10"):
    return evaluate({"one": system}, DATASET, [measure], **QUIET).per_query[measure].tolist()


@pytest.mark.parametrize(
    "settings",
    [{}, {"deduplicate": False}, {"score_threshold": 0.3}, {"rank_fields": ("title",)}],
)
def test_every_setting_is_what_the_retriever_of_that_setting_returns(settings):
    reranker = Reranker(model=WordOverlapCrossEncoder(), **settings)
    found = swept(STORE, model=reranker, fetch_k=[20, 5, 12], first_stage_weights=WEIGHTS)
    first, *others = found.per_query
    assert [key[1:] for key in others] == [(d, w) for d in (5, 12, 20) for w in (0, *WEIGHTS)]
    for key in others:
        same = reranker.model_copy(update={"first_stage_weight": key[2]})
        retriever = create_rerank_retriever(STORE, reranker=same, k=5, fetch_k=key[1])
        assert found.per_query[key].tolist() == values_of(retriever), key
        # Retrieval counts as well.
        assert all(map(gt, found.seconds[key], found.seconds[first]))
    dense = STORE.as_retriever(search_kwargs={"k": 5})
    assert found.per_query[first].tolist() == values_of(dense)


def test_run_as_source_reads_its_texts_from_the_corpus():
    model = WordOverlapCrossEncoder()
    found = swept(model=model, fetch_k=[8, 30], first_stage_weights=[0], measure="nDCG@5")
    systems = [RUN, *(RerankedRun(RUN, Reranker(model=model), fetch_k=depth) for depth in (8, 30))]
    for key, system in zip(found.per_query, systems, strict=True):
        assert found.per_query[key].tolist() == values_of(system, "nDCG@5")
    assert found.summary["p50 ms"].iloc[0] == 0


def test_each_pair_is_scored_once_in_steps_of_depth():
    cross_encoder = WordOverlapCrossEncoder()
    found = swept(model=Reranker(model=cross_encoder, deduplicate=False), fetch_k=[10, 5, 25])
    loading, *steps = cross_encoder.calls
    assert [len(step) for step in (loading, *steps)] == [1, *[5, 5, 15] * 6]
    scored = Counter(pair[0] for step in steps for pair in step)
    asked = Counter(DATASET.queries.values())
    assert scored == {query: 25 * times for query, times in asked.items()}
    # A depth costs what the steps up to it took.
    plain = found.seconds.loc[:, found.seconds.columns.get_level_values(2) == 0]
    for shallow, deep in ((1, 2), (2, 3)):
        assert all(map(gt, plain.iloc[:, deep], plain.iloc[:, shallow]))


def test_chunks_stand_for_the_document_that_was_judged():
    dataset = Dataset.from_questions([("red tall", ["a"]), ("blue", ["b"])])
    chunks = [("red", "c"), ("blue", "b"), ("red tall", "a"), ("tall red", "a")]
    documents = [
        Document(text, id=str(n), metadata={"source": source})
        for n, (text, source) in enumerate(chunks)
    ]
    retriever = RecordingRetriever(documents=documents)
    found = swept(retriever, dataset, fetch_k=[4], k=4, id_key="source")
    # "a" stands third and is the third document; "b" second.
    first, reranked = found.summary["nDCG@10"].iloc[:2]
    assert (first, reranked) == pytest.approx(((1 / 2 + 0.6309297535714575) / 2, 1))


class SecondCrossEncoder(WordOverlapCrossEncoder):
    def score(self, text_pairs):
        return [float(passage == "second") for _, passage in text_pairs]


def weigh(helped):
    """The first stage, which puts "first" first, is right on some of 20 queries, the model else."""
    answers = ["first"] * helped + ["second"] * (20 - helped)
    corpus = [Document(one, id=one) for one in ("first", "second")]
    dataset = Dataset.from_questions([("which", [one]) for one in answers], corpus)
    run = {query: {"first": 2.0, "second": 1.0} for query in dataset.queries}
    settings = {"fetch_k": [2], "k": 2, "first_stage_weights": [0.2, 0.8], "seed": 3}
    return swept(run, dataset, SecondCrossEncoder(), measure="RR", **settings)


def test_what_gains_more_than_chance_is_recommended_and_what_hurts_is_said():
    found = weigh(helped=19)
    # Weight 0.8 follows the first stage: 19 queries right, the last one at rank 2.
    first, plain, _, heavy = found.summary["RR"]
    assert (plain, heavy) == pytest.approx(((1 + 19 / 2) / 20, (19 + 1 / 2) / 20))
    advice = found.recommend()
    # The first stage alone is as good, and costs less.
    assert str(advice.setting) == "the first stage alone"
    assert str(advice.plain) == "2 candidates reranked by overlap"
    assert advice.over_plain.mean == pytest.approx(first - plain)
    assert advice.plain_over_first_stage.high < 0
    assert str(advice).startswith("Plain reranking hurts here: RR -0.4500 [")
    assert "Take the first stage alone: RR 0.9750 [" in str(advice)
    few = replace(found, per_query=found.per_query[:5], seconds=found.seconds[:5])
    assert "But 5 questions are too few to tell: judge 6 or more." in str(few.recommend())
    assert "too few" not in str(advice)
    by_chance = weigh(helped=10).recommend()
    assert by_chance.setting == by_chance.plain
    assert by_chance.over_plain.mean <= 0


def test_what_is_expected_is_less_than_the_best_of_many_shows():
    rng = np.random.default_rng(0)
    noise = [(("a", 50, n / 40), 0.5 + rng.uniform(-0.3, 0.3, 40), 10) for n in range(40)]
    found = a_sweep((FIRST, 0.3 + rng.uniform(-0.3, 0.3, 40), 10), *noise)
    advice, means = found.recommend(), found.per_query.mean()
    assert advice.over_plain.mean < (means.max() - means.iloc[1]) / 2
    assert advice.over_first_stage.low > 0


def test_an_uncertain_gain_says_how_many_judged_questions_would_tell():
    gains = np.array([0.1] * 24 + [-0.1] * 16)
    settings = ((("a", 50, 0), 0.5, 50), (("a", 50, 0.3), 0.5 + gains, 50))
    said = str(a_sweep((FIRST, 0.1, 5), *settings).recommend())
    assert "About " in said
    assert " judged questions would tell one of this size; here are 40." in said


def test_the_cheapest_within_the_tolerance_is_recommended_with_what_others_cost():
    found = a_sweep(
        (FIRST, 0.40, 5),
        (("small", 50, 0), 0.655, 60),
        (("small", 100, 0), 0.660, 110),
        (("large", 20, 0), 0.652, 200),
        (("large", 100, 0), 0.670, 900),
    )
    settings = list(found.per_query)

    for tolerance, place in ((0, 4), (0.01, 2), (0.015, 1), (0.3, 0)):
        assert found.recommend(tolerance).setting == settings[place]
    advice = found.recommend(0.01)
    assert (advice.cheaper, advice.better) == (None, settings[4])
    assert found.recommend().cheaper == settings[2]
    assert str(found.recommend()) == (
        "Take 100 candidates reranked by large: nDCG@10 0.6700 [0.6700, 0.6700], 900 ms a question "
        "(p95 900 ms). On other questions expect +0.2700 [+0.2700, +0.2700] over the first stage "
        "alone, +0.0100 [+0.0100, +0.0100] over 100 candidates reranked by small. Cheaper: 100 "
        "candidates reranked by small, -0.0100, 110 ms a question (p95 110 ms)."
    )
    # Of equal latency the smaller depth.
    equal = a_sweep((FIRST, 0.4, 5), *((("a", depth, 0), 0.6, 50) for depth in (100, 50)))
    assert equal.recommend().setting.fetch_k == 50
    for wrong in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="tolerance must be"):
            found.recommend(wrong)


def test_tables_say_what_was_found():
    models = {"a<b|c": WordOverlapCrossEncoder()}
    found = sweep(STORE, DATASET, models=models, fetch_k=[10, 20], **QUIET)

    table = found.to_dataframe()
    assert table["fetch_k"].tolist() == [10] + [10] * 8 + [20] * 8
    weights = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8]
    assert table["first_stage_weight"].tolist() == [0, *weights, *weights]
    assert table["nDCG@10"].tolist() == pytest.approx(found.per_query.mean().tolist())
    assert (table["nDCG@10 low"] <= table["nDCG@10"]).all()
    assert (table["p50 ms"] <= table["p95 ms"]).all()
    markdown = found.to_markdown()
    assert "| a<b\\|c | 20 | " in markdown
    assert f"| the first stage alone | – | {table['nDCG@10'][0]:.4f} [" in markdown
    assert markdown.count("\n| ") == 5
    assert str(found.recommend()).replace("|", "\\|") in markdown
    assert "<td>a&lt;b|c</td>" in found._repr_html_()
    assert repr(found).endswith(", measure='nDCG@10', settings=17)")
    single = swept(dataset=DATASET.subset(["q0"]), fetch_k=[10], first_stage_weights=[0])
    assert single.summary["nDCG@10 low"].isna().all()
    assert "toy: 1 query, 5 documents returned" in single.to_markdown()


class FailingCrossEncoder(WordOverlapCrossEncoder):
    def score(self, text_pairs):
        if any(query == DATASET.queries["q2"] for query, _ in text_pairs):
            msg = "out of coffee"
            raise RuntimeError(msg)
        return super().score(text_pairs)


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        (RUN, EvaluationError, "'overlap' failed on query 'q2' .*out of coffee"),
        (
            {**RUN, "q3": {"nowhere": 1.0}},
            EvaluationError,
            "'the first stage' failed on query 'q3' .*'nowhere' is not in the corpus",
        ),
        (
            RecordingRetriever(documents=[Document("red", id="x")]),
            ValueError,
            "returned no document of the data set's corpus",
        ),
    ],
)
def test_failures_name_what_failed_and_the_query(source, error, said):
    with pytest.raises(error, match=said):
        swept(source, model=FailingCrossEncoder())


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"fetch_k": []}, ValueError, "fetch_k must be > 0"),
        ({"fetch_k": [4, 20]}, ValueError, "fetch_k must be at least k, got fetch_k=4 with k=5"),
        ({"fetch_k": [20.0]}, TypeError, "fetch_k must be an int"),
        ({"k": 0}, ValueError, "k must be > 0"),
        ({"first_stage_weights": [0, 1.5]}, ValueError, "must be from 0 to 1, got 1.5"),
        ({"first_stage_weights": [float("nan")]}, ValueError, "got nan"),
        ({"models": "BAAI/bge-reranker-base"}, TypeError, "models must be a sequence"),
        ({"models": []}, TypeError, r"a mapping by names, got \[\]"),
        ({"models": {"a": 3}}, ValueError, "model"),
        ({"source": [1, 2]}, TypeError, "source must be a VectorStore"),
        ({"dataset": Dataset(DATASET.queries, DATASET.qrels)}, ValueError, "with a corpus"),
        ({"confidence": 1}, ValueError, "confidence must be between 0 and 1"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_scored(arguments, error, said):
    cross_encoder = WordOverlapCrossEncoder()
    with pytest.raises(error, match=said):
        swept(model=cross_encoder, **arguments)
    assert cross_encoder.calls == []
