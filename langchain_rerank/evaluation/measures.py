"""Measures by ir_measures, how far their means can be trusted by scipy, and their one number."""

from __future__ import annotations

import ast
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from langchain_rerank.evaluation.datasets import LARGEST_GRADE
from langchain_rerank.evaluation.runs import falling_scores, require_eval

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import ir_measures

# A name, its parameters in brackets, and its cutoff, as in P(rel=2)@5.
_NAME = re.compile(r"(?P<name>\w+)(?:\((?P<parameters>.*)\))?(?:@(?P<at>[\w.]+))?")
# Numbers drawn at a time, so that thousands of queries don't take gigabytes.
_BATCH_NUMBERS = 2_000_000


def parse_measures(
    measures: Iterable[str | ir_measures.Measure], *, min_relevance: int = 1
) -> list[ir_measures.Measure]:
    """Turn names of measures into ir_measures' own, each once."""
    require_eval("ir_measures", purpose="Evaluation")
    from ir_measures import Measure

    if isinstance(measures, str):
        msg = f"measures must be a sequence of names, got the single str {measures!r}"
        raise TypeError(msg)
    check_min_relevance(min_relevance)
    parsed = []
    for given in measures:
        if not isinstance(given, str | Measure):
            msg = f"a measure must be a str or an ir_measures.Measure, got {type(given).__name__}"
            raise TypeError(msg)
        measure = _parse(given) if isinstance(given, str) else given
        if "rel" in measure.SUPPORTED_PARAMS and "rel" not in measure.params:
            measure = measure(rel=min_relevance)
        _check(measure)
        parsed.append(measure)
    if not parsed:
        msg = 'measures must name at least one measure, such as "nDCG@10", got none'
        raise ValueError(msg)
    return list(dict.fromkeys(parsed))


def _parse(text: str) -> ir_measures.Measure:
    """Read a measure's name.

    ir_measures' own parser uses parts of `ast` that warn from Python 3.12 on and are gone in 3.14.
    """
    from ir_measures.measures import registry

    found = _NAME.fullmatch(text.strip())
    base = registry.get(found["name"]) if found else None
    if found is None or base is None:
        msg = f'unknown measure {text!r}: expected ir_measures\' names, such as "nDCG@10" or "RR"'
        raise ValueError(msg)
    try:
        call: Any = ast.parse(f"_({found['parameters'] or ''})", mode="eval").body
        # An argument without a name fails as one that `dict` can't take.
        given = {str(one.arg): ast.literal_eval(one.value) for one in [*call.keywords, *call.args]}
        measure: ir_measures.Measure = base(**given)
        return measure if found["at"] is None else measure @ ast.literal_eval(found["at"])
    except (AttributeError, ValueError, SyntaxError) as error:
        msg = f'measure {text!r} has parameters that can\'t be read, expected such as "P(rel=2)@5"'
        raise ValueError(msg) from error


def _check(measure: ir_measures.Measure) -> None:
    from ir_measures.measures import MeanAgg

    known = measure.SUPPORTED_PARAMS
    missing = [name for name, info in known.items() if info.required and name not in measure.params]
    if missing:
        parameters = "@10" if measure.AT_PARAM in missing else f"({missing[0]}=…)"
        names = ", ".join(missing)
        msg = f'measure {measure} lacks {names}: write such as "{measure.NAME}{parameters}"'
        raise ValueError(msg)
    try:
        measure.validate_params()  # type: ignore[no-untyped-call]  # theirs has no types
    except AssertionError as error:
        msg = f"measure {measure.NAME} has wrong parameters {measure.params}: {error}"
        raise ValueError(msg) from error
    if "rel" in measure.params:
        check_min_relevance(measure.params["rel"])
    cutoff = depth(measure)
    if cutoff is not None and cutoff < 1:
        msg = f"measure {measure} must look at 1 rank or more"
        raise ValueError(msg)
    if not isinstance(measure.aggregator(), MeanAgg):
        msg = f"measure {measure} is a sum over queries, not a mean: leave it out"
        raise ValueError(msg)  # noqa: TRY004  # the type is right, the choice isn't


def check_min_relevance(min_relevance: int) -> None:
    """Raise `ValueError` unless it is an int from 1 to the largest grade."""
    if type(min_relevance) is not int or not 1 <= min_relevance <= LARGEST_GRADE:
        msg = (
            f"min_relevance must be an int of at least 1 and at most {LARGEST_GRADE:,}, "
            f"got {min_relevance!r}"
        )
        raise ValueError(msg)


def depth(measure: ir_measures.Measure) -> int | None:
    """Return how many ranks a measure looks at; None if it looks at all of them."""
    cutoff: int | None = measure.params.get("cutoff")
    return cutoff


def per_query_values(
    measures: Sequence[ir_measures.Measure],
    rankings: Mapping[str, Sequence[str]],
    qrels: Mapping[str, Mapping[str, int]],
) -> dict[str, dict[str, float]]:
    """Measure each query.

    The order of `rankings` is what is measured: it reaches ir_measures as scores that fall from
    rank to rank, so that no measure orders ties its own way.
    """
    import ir_measures

    # C code ends ids at a NUL, and the process at a lone surrogate; gdeval asks for numbers.
    numbers = {query: str(number) for number, query in enumerate(qrels, start=1)}
    ids = dict.fromkeys(one for given in (*rankings.values(), *qrels.values()) for one in given)
    names = {one: f"d{number}" for number, one in enumerate(ids)}
    grades = {
        numbers[query]: {names[one]: grade for one, grade in judged.items()}
        for query, judged in qrels.items()
    }
    run = {
        numbers[query]: falling_scores([names[one] for one in given])
        for query, given in rankings.items()
        if given and query in numbers
    }
    values = {}
    for measure in measures:
        try:
            found = {
                metric.query_id: float(metric.value)
                for metric in ir_measures.iter_calc([measure], grades, run)
            }
        except Exception as error:
            msg = f"ir_measures can't compute {measure} here: {type(error).__name__}: {error}"
            raise ValueError(msg) from error
        if not all(map(math.isfinite, found.values())):
            msg = f"ir_measures gives no finite value of {measure} for some query: leave it out"
            raise ValueError(msg)
        values[str(measure)] = {query: found[number] for query, number in numbers.items()}
    return values


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


def paired_test(differences: Sequence[float], *, resamples: int = 9999, seed: int = 0) -> float:
    """Return the two-sided p-value of Fisher's paired randomization test of a mean difference.

    Were the two systems alike, each query's difference could as well have the other sign: p is the
    share of sign flips whose mean difference is at least as large. All flips are tried where there
    are no more than `resamples`, else that many random ones, and then p is at least
    2 / (resamples + 1). It is not corrected for the number of systems or measures compared.

    Source: Smucker, Allan and Carterette, "A comparison of statistical significance tests for
    information retrieval evaluation", CIKM 2007.
    """
    require_eval("scipy", purpose="Statistics")
    from scipy.stats import permutation_test

    if not any(differences) or len(differences) == 1:
        # Both flips of one difference are as large as itself; scipy asks for two.
        return 1.0
    test = permutation_test(
        (np.asarray(differences, float),),
        np.mean,
        permutation_type="samples",
        n_resamples=resamples,
        batch=max(1, _BATCH_NUMBERS // len(differences)),
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


def check_draws(confidence: float, resamples: int, seed: int) -> None:
    """Raise `ValueError` for settings of the bootstrap and the test that are out of range."""
    if not 0 < confidence < 1:
        msg = f"confidence must be between 0 and 1, got {confidence!r}"
        raise ValueError(msg)
    for name, value, least in (("resamples", resamples, 2), ("seed", seed, 0)):
        if type(value) is not int or value < least:
            msg = f"{name} must be an int of at least {least}, got {value!r}"
            raise ValueError(msg)
