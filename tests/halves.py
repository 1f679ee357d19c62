"""Does the advice hold? What one random half of the questions promised, against the other half.

Run by hand, on any folder in BEIR's layout with a TREC run; scores are those of the offline
reranker in int8:

    LANGCHAIN_RERANK_DATA=BEIR_FOLDER python -m tests.halves RUN [QRELS]
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import numpy as np
from langchain_core.stores import InMemoryByteStore

from langchain_rerank import CachedCrossEncoder, OnnxCrossEncoder, Reranker
from langchain_rerank.evaluation import (
    RerankedRun,
    evaluate,
    load_beir,
    read_run,
    suggest_threshold,
    sweep,
)
from langchain_rerank.evaluation.threshold import suggest_abstention
from langchain_rerank.offline import offline_reranker

HALVES = 20
WANTED = (0.3, 0.5, 0.7, 0.8, 0.9)
ANSWERED = 0.9
QUIET = {"resamples": 99}


def main():
    folder, run = os.environ["LANGCHAIN_RERANK_DATA"], read_run(sys.argv[1])
    dataset = load_beir(folder, *sys.argv[2:3], partial_corpus=True)
    dataset = dataset.subset([one for one in dataset.qrels if one in run])
    cached = CachedCrossEncoder(OnnxCrossEncoder(model=offline_reranker()), InMemoryByteStore())
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
    halves = []
    for seed in range(HALVES):
        mixed = np.random.default_rng(seed).permutation(ids).tolist()
        halves.append((mixed[: len(ids) // 2], mixed[len(ids) // 2 :]))
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

    def part(trial, queries):
        return replace(trial, per_query={one: trial.per_query[one] for one in queries})

    chosen = replace(
        found,
        first_stage=part(found.first_stage, half),
        trials=tuple(part(one, half) for one in found.trials),
    )
    advice = chosen.recommend()
    every = [found.first_stage, *found.trials]
    means = {one.setting: np.mean([one.per_query[q] for q in other]) for one in every}
    plain = means[advice.plain.setting]
    seen = means[advice.trial.setting] - plain
    best = max(every, key=lambda one: np.mean([one.per_query[q] for q in half]))
    others = {
        "in hindsight": max(means.values()) - plain,
        "the best of the half": means[best.setting] - plain,
        "not plain": advice.trial.setting != advice.plain.setting,
    }
    return advice.over_plain.mean, seen, seen >= -0.003, others


def of(report, queries):
    system = report.systems["reranked"]
    rankings = {one: system.rankings[one] for one in queries}
    return replace(report, systems={"reranked": replace(system, rankings=rankings)})


def passages(report, queries):
    """Scores by question, those of its relevant passages and those of the others."""
    for query in queries:
        scored = report.systems["reranked"].rankings[query]
        right = [one.score for one in scored if report.qrels[query].get(one.id, 0) > 0]
        wrong = [one.score for one in scored if report.qrels[query].get(one.id, 0) <= 0]
        yield np.array(right), np.array(wrong)


def precision(report, wanted, half, other):
    try:
        found = suggest_threshold(of(report, half), precision=wanted)
    except ValueError:
        return None
    right, wrong = map(np.concatenate, zip(*passages(report, other), strict=True))
    kept, dropped = (right >= found.threshold).sum(), (wrong >= found.threshold).sum()
    seen = kept / (kept + dropped) if kept + dropped else 0.0
    recall = {"recall promised": found.recall, "seen": kept / len(right)}
    return found.precision, seen, seen >= wanted, recall


def abstaining(report, half, other):
    try:
        found = suggest_abstention(of(report, half), answered=ANSWERED)
    except ValueError:
        return None
    both = [pair for pair in passages(report, other) if len(pair[0])]
    seen = np.mean([max(*right, *wrong) >= found.threshold for right, wrong in both])
    refused = np.mean([wrong.max(initial=-np.inf) < found.threshold for _, wrong in both])
    others = {"refused promised": found.refused, "seen": refused}
    return found.answered, seen, seen >= ANSWERED, others


if __name__ == "__main__":
    main()
