"""Does the advice hold? What one random half of the questions promised, against the other half.

Run by hand, on any folder in BEIR's layout with a TREC run; scores are those of the offline
reranker in int8, and where LANGCHAIN_RERANK_SCORES names a folder they are kept there:

    LANGCHAIN_RERANK_DATA=BEIR_FOLDER python -m tests.halves RUN [QRELS]
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import numpy as np
from langchain_classic.storage import LocalFileStore
from langchain_core.stores import InMemoryByteStore

from langchain_rerank import CachedCrossEncoder, OnnxCrossEncoder, Reranker
from langchain_rerank.evaluation import (
    RerankedRun,
    evaluate,
    load_beir,
    read_run,
    suggest_abstention,
    suggest_threshold,
    sweep,
)
from langchain_rerank.offline import offline_reranker

HALVES = 20
WANTED = (0.3, 0.5, 0.7, 0.8, 0.9)
ANSWERED = 0.9
QUIET = {"resamples": 99}


def main():
    folder, run = os.environ["LANGCHAIN_RERANK_DATA"], read_run(sys.argv[1])
    dataset = load_beir(folder, *sys.argv[2:3], partial_corpus=True)
    dataset = dataset.subset([one for one in dataset.qrels if one in run])
    kept = os.environ.get("LANGCHAIN_RERANK_SCORES")
    store = LocalFileStore(kept) if kept else InMemoryByteStore()
    cached = CachedCrossEncoder(OnnxCrossEncoder(model=offline_reranker()), store)
    reranker = Reranker(model=cached, deduplicate=False)
    deepest = min(100, max(map(len, run.values())))
    depths = [depth for depth in (10, 20, 50, 100) if depth <= deepest]
    found = sweep(run, dataset, models={"offline int8": reranker}, fetch_k=depths, **QUIET)
    systems = {"first": run, "reranked": RerankedRun(run, reranker, fetch_k=deepest)}
    report = evaluate(systems, dataset, ["nDCG@10"], **QUIET)
    print(f"\n{len(dataset.qrels)} questions, {HALVES} random halves\n")
    print("| asked for | refused | promised | seen | kept its word | besides |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    ids = list(dataset.qrels)
    mixed = [np.random.default_rng(seed).permutation(ids).tolist() for seed in range(HALVES)]
    halves = [(one[: len(ids) // 2], one[len(ids) // 2 :]) for one in mixed]
    print(row("depth and weight", [settings(found, *half) for half in halves]))
    for wanted in WANTED:
        print(row(f"precision {wanted}", [precision(report, wanted, *half) for half in halves]))
    print(row(f"{ANSWERED:.0%} answered", [abstaining(report, *half) for half in halves]))


def row(name, results):
    told = [one for one in results if one]
    if not told:
        return f"| {name} | {len(results)} | | | | |"
    promised, seen, kept = (np.mean([one[place] for one in told]) for place in range(3))
    besides = {key: np.mean([one[3][key] for one in told]) for key in told[0][3]}
    said = ", ".join(f"{key} {value:.4f}" for key, value in besides.items())
    refused = len(results) - len(told)
    return f"| {name} | {refused} | {promised:.4f} | {seen:.4f} | {kept:.0%} | {said} |"


def settings(found, half, other):
    """Gains over plain reranking; its word is kept where no more than .003 is lost."""
    advice = replace(found, per_query=found.per_query.loc[half]).recommend()
    gains = found.per_query.loc[other].mean()
    gains -= gains[advice.plain]
    seen = gains[advice.setting]
    others = {
        "in hindsight": gains.max(),
        "the best of the half": gains[found.per_query.loc[half].mean().idxmax()],
        "not plain": advice.setting != advice.plain,
    }
    return advice.over_plain.mean, seen, seen >= -0.003, others


def advised(suggest, report, half, other, **wanted):
    """What one half suggests, and the scored passages of the other; or None."""
    part = replace(report, documents=report.documents[report.documents["query"].isin(half)])
    _, scored = report.scored("reranked")
    scored = scored[scored["query"].isin(other)].assign(relevant=scored["grade"] > 0)
    try:
        return suggest(part, **wanted), scored
    except ValueError:
        return None


def precision(report, wanted, half, other):
    if not (advice := advised(suggest_threshold, report, half, other, precision=wanted)):
        return None
    found, scored = advice
    kept = scored[scored["score"] >= found.threshold]
    seen = kept["relevant"].mean() if len(kept) else 0.0
    recall = kept["relevant"].sum() / scored["relevant"].sum()
    return found.precision, seen, seen >= wanted, {"recall promised": found.recall, "seen": recall}


def abstaining(report, half, other):
    if not (advice := advised(suggest_abstention, report, half, other, answered=ANSWERED)):
        return None
    found, scored = advice
    best, wrong = (
        one.groupby("query")["score"].max() for one in (scored, scored[~scored["relevant"]])
    )
    answerable = scored.loc[scored["relevant"], "query"].unique()
    seen = (best[answerable] >= found.threshold).mean()
    refused = (wrong.reindex(answerable, fill_value=-np.inf) < found.threshold).mean()
    others = {"refused promised": found.refused, "seen": refused}
    return found.answered, seen, seen >= ANSWERED, others


if __name__ == "__main__":
    main()
