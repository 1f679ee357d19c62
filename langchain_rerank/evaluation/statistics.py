"""How far a mean can be trusted: bootstrap intervals and a paired test, by scipy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from langchain_rerank.evaluation.runs import require_eval

if TYPE_CHECKING:
    from collections.abc import Sequence

# Numbers drawn at a time, so that thousands of queries don't take gigabytes.
_BATCH_NUMBERS = 2_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """The two ends of a confidence interval."""

    low: float
    high: float


def bootstrap_interval(
    values: Sequence[float], *, confidence: float = 0.95, resamples: int = 9999, seed: int = 0
) -> Interval | None:
    """Return the percentile bootstrap interval of a mean over queries; None for fewer than two.

    For a difference of two systems, give the differences query by query: the interval is then
    that of the paired comparison.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13; for
    retrieval measures, Sakai, "Evaluating evaluation metrics based on the bootstrap", SIGIR 2006.
    """
    require_eval("scipy", purpose="Statistics")
    from scipy.stats import bootstrap

    check_confidence(confidence)
    check_draws(resamples, seed)
    if len(values) < 2:  # noqa: PLR2004  # one value tells nothing of the spread
        return None
    interval = bootstrap(
        (np.asarray(values, float),),
        np.mean,
        confidence_level=confidence,
        n_resamples=resamples,
        batch=max(1, _BATCH_NUMBERS // len(values)),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(interval.low), float(interval.high))


def paired_test(
    values: Sequence[float], baseline: Sequence[float], *, resamples: int = 9999, seed: int = 0
) -> float:
    """Return the two-sided p-value of Fisher's paired randomization test of two means.

    Were the two systems alike, each query's difference could as well have the other sign: p is the
    share of sign flips whose mean difference is at least as large. All flips are tried where there
    are no more than `resamples`, else that many random ones, and then p is at least
    2 / (resamples + 1). It is not corrected for the number of systems or measures compared.

    Source: Smucker, Allan and Carterette, "A comparison of statistical significance tests for
    information retrieval evaluation", CIKM 2007.
    """
    require_eval("scipy", purpose="Statistics")
    from scipy.stats import permutation_test

    check_draws(resamples, seed)
    if not values or len(values) != len(baseline):
        msg = f"expected as many values as the baseline has, got {len(values)} and {len(baseline)}"
        raise ValueError(msg)
    differences = np.asarray(values, float) - np.asarray(baseline, float)
    if not differences.any() or len(differences) == 1:
        # Both flips of one difference are as large as itself; scipy asks for two.
        return 1.0
    test = permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=resamples,
        batch=max(1, _BATCH_NUMBERS // len(differences)),
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


def check_confidence(confidence: float) -> None:
    """Raise `ValueError` unless 0 < confidence < 1."""
    if not 0 < confidence < 1:
        msg = f"confidence must be between 0 and 1, got {confidence!r}"
        raise ValueError(msg)


def check_draws(resamples: int, seed: int) -> None:
    """Raise `ValueError` unless resamples and seed are ints, at least 2 and at least 0."""
    for name, value, least in (("resamples", resamples, 2), ("seed", seed, 0)):
        if type(value) is not int or value < least:
            msg = f"{name} must be an int of at least {least}, got {value!r}"
            raise ValueError(msg)
