"""Measures by ir_measures, and how far their means can be trusted by scipy."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from ctypes import c_float
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from langchain_rerank.errors import require
from langchain_rerank.evaluation.datasets import LARGEST_GRADE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import ir_measures
    import numpy.typing as npt
    import pandas as pd

Run = Mapping[str, Mapping[str, float]]
"""Query id → document id → score, higher is better."""
Draws = dict[str, Any]
"""Of bootstrap and test: confidence, resamples and seed."""
# A name, its parameters in brackets, and its cutoff, as in P(rel=2)@5.
_NAME = re.compile(r"(?P<name>\w+)(?:\((?P<parameters>.*)\))?(?:@(?P<at>[\w.]+))?")
# Numbers drawn at a time, so that thousands of queries don't take gigabytes.
_BATCH_NUMBERS = 2_000_000
_POWER = (1.96 + 0.84) ** 2
"""Of a two-sided test at 5 % that finds a difference 8 times of 10 (Cohen, 1988)."""
FEWEST = 6
"""Questions: of 5, even equal gains on all show no difference, as 2 of their 32 sign flips do."""


def require_eval(purpose: str) -> None:
    """Raise `MissingDependencyError` unless all of the extra `eval` is installed."""
    packages = ("ir_measures", "matplotlib", "pandas", "scipy")
    require(*packages, install="langchain-rerank[eval]", purpose=purpose)


def parse_measures(
    measures: Iterable[str | ir_measures.Measure], *, min_relevance: int = 1
) -> list[ir_measures.Measure]:
    """Turn names of measures into ir_measures' own, each once."""
    require_eval("Evaluation")
    if isinstance(measures, str):
        msg = f"measures must be a sequence of names, got the single str {measures!r}"
        raise TypeError(msg)
    parsed = list(dict.fromkeys(_checked(given, min_relevance) for given in measures))
    if not parsed:
        msg = 'measures must name at least one measure, such as "nDCG@10", got none'
        raise ValueError(msg)
    return parsed


def _checked(given: str | ir_measures.Measure, min_relevance: int) -> ir_measures.Measure:
    from ir_measures import evaluator
    from ir_measures.measures import MeanAgg, Measure

    measure = _parse(given) if isinstance(given, str) else given
    if not isinstance(measure, Measure):
        msg = f"a measure must be a str or an ir_measures.Measure, got {type(given).__name__}"
        raise TypeError(msg)
    if "rel" in measure.SUPPORTED_PARAMS and "rel" not in measure.params:
        measure = measure(rel=min_relevance)
    # C code takes memory by grade.
    check_int("min_relevance", measure.params.get("rel", min_relevance), 1, LARGEST_GRADE)
    try:
        measure.validate_params()  # type: ignore[no-untyped-call]  # theirs has no types
    except AssertionError as error:
        msg = f"measure {measure.NAME}: {error}; write such as nDCG@10 or P(rel=2)@5"
        raise ValueError(msg) from error
    if depth(measure) < 1 or not isinstance(measure.aggregator(), MeanAgg):
        msg = f"measure {measure} must look at 1 rank or more, and be a mean over queries"
        raise ValueError(msg)
    try:
        # Now, as a missing provider would end an evaluation only after all was scored.
        evaluator([measure], {"1": {"d0": 1}})
    except Exception as error:
        raise _not_computed(measure, error) from error
    return measure


def _parse(text: str) -> ir_measures.Measure:
    """Read a name, as ir_measures' own parser can't in Python 3.14."""
    from ir_measures.measures import registry

    found = _NAME.fullmatch(text.strip())
    if found is None or found["name"] not in registry:
        msg = f'unknown measure {text!r}: expected ir_measures\' names, such as "nDCG@10" or "RR"'
        raise ValueError(msg)
    try:
        # An argument without a name fails as one that `dict` can't take.
        call: Any = ast.parse(f"_({found['parameters'] or ''})", mode="eval").body
        given = {str(one.arg): ast.literal_eval(one.value) for one in [*call.keywords, *call.args]}
        measure: ir_measures.Measure = registry[found["name"]](**given)
        return measure if found["at"] is None else measure @ ast.literal_eval(found["at"])
    except (AttributeError, KeyError, ValueError, SyntaxError) as error:
        msg = f'measure {text!r} has parameters that can\'t be read, expected such as "P(rel=2)@5"'
        raise ValueError(msg) from error


def depth(measure: ir_measures.Measure) -> float:
    """Return how many ranks a measure looks at; infinitely many if at all of them."""
    cutoff: float = measure.params.get("cutoff", math.inf)
    return cutoff


def ranking(scores: Mapping[str, float]) -> list[str]:
    """Return one query's document ids, best first, as trec_eval orders them.

    By falling score in single precision, equal scores by falling id; neither the order of a mapping
    nor a file's rank column counts.
    """
    for doc_id, score in scores.items():
        if math.isnan(score):
            msg = f"expected a number as score of document {doc_id!r}, got NaN"
            raise ValueError(msg)
    return sorted(scores, key=lambda doc_id: (c_float(scores[doc_id]).value, doc_id), reverse=True)


def run_of(rankings: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
    """Make a run of rankings, with scores that fall by 1 from rank to rank down to 1.

    Measures don't agree on ties (RR@10 is MS MARCO's script, which goes by rising id): it has none.
    """
    return {
        query: {one: float(len(ids) - place) for place, one in enumerate(ids)}
        for query, ids in rankings.items()
    }


def per_query_values(
    measures: Sequence[ir_measures.Measure],
    rankings: Mapping[str, Sequence[str]],
    qrels: Mapping[str, Mapping[str, int]],
) -> pd.DataFrame:
    """Measure each query of the judgments: a row a query, a column a measure."""
    import ir_measures
    import pandas as pd

    # C code ends ids at a NUL; gdeval asks for numbers.
    numbers = {query: str(number) for number, query in enumerate(qrels, start=1)}
    ids = dict.fromkeys(one for given in (*rankings.values(), *qrels.values()) for one in given)
    names = {one: f"d{number}" for number, one in enumerate(ids)}
    grades = {
        numbers[query]: {names[one]: grade for one, grade in judged.items()}
        for query, judged in qrels.items()
    }
    run = run_of({numbers[q]: [names[one] for one in given] for q, given in rankings.items()})
    values = pd.DataFrame(index=pd.Index(list(qrels), name="query"))
    for measure in measures:
        try:
            metrics = ir_measures.iter_calc([measure], grades, run)
            found = {one.query_id: float(one.value) for one in metrics}
        except Exception as error:
            raise _not_computed(measure, error) from error
        values[str(measure)] = [found[number] for number in numbers.values()]
        if not np.isfinite(values[str(measure)]).all():
            msg = f"ir_measures gives no finite value of {measure} for some query: leave it out"
            raise ValueError(msg)
    return values


def _not_computed(measure: ir_measures.Measure, error: Exception) -> ValueError:
    return ValueError(f"ir_measures can't compute {measure} here: {type(error).__name__}: {error}")


class Estimate(NamedTuple):
    """A mean over queries, and the ends of its interval: NaN for a single query."""

    mean: float
    low: float
    high: float

    def __format__(self, form: str) -> str:
        ends = "" if math.isnan(self.low) else f" [{self.low:{form}}, {self.high:{form}}]"
        return f"{self.mean:{form}}{ends}"


class SystemResult(NamedTuple):
    """What one system did: the report's frames by name."""

    summaries: Mapping[str, Estimate]
    """The mean of each measure, with its interval."""
    per_query: Mapping[str, Mapping[str, float]]
    """By measure, then by query id."""
    rankings: Mapping[str, Sequence[Any]]
    """Rows of `Report.documents` by query id, best first: their `id`, `score`, `rank`, `grade`."""


def estimate(
    values: npt.ArrayLike, *, confidence: float = 0.95, resamples: int = 9999, seed: int = 0
) -> Estimate:
    """Return a mean over queries with its percentile bootstrap interval.

    For a difference of two systems, give the differences query by query: the interval is then
    that of the paired comparison.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13; for
    retrieval measures, Sakai, "Evaluating evaluation metrics based on the bootstrap", SIGIR 2006.
    """
    from scipy.stats import bootstrap

    numbers = np.asarray(values, float)
    if len(numbers) == 1:
        return Estimate(float(numbers[0]), math.nan, math.nan)
    interval = bootstrap(
        (numbers,),
        np.mean,
        confidence_level=confidence,
        n_resamples=resamples,
        batch=max(1, _BATCH_NUMBERS // len(numbers)),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(float(np.mean(numbers)), float(interval.low), float(interval.high))


def paired_test(differences: npt.ArrayLike, *, resamples: int = 9999, seed: int = 0) -> float:
    """Return the two-sided p-value of Fisher's paired randomization test of a mean difference.

    Were the two systems alike, each query's difference could as well have the other sign: p is the
    share of sign flips whose mean difference is at least as large. All flips are tried where there
    are no more than `resamples`, else that many random ones, and then p is at least
    2 / (resamples + 1). It is not corrected for the number of systems or measures compared.

    Source: Smucker, Allan and Carterette, "A comparison of statistical significance tests for
    information retrieval evaluation", CIKM 2007.
    """
    from scipy.stats import permutation_test

    numbers = np.asarray(differences, float)
    if not numbers.any() or len(numbers) == 1:
        # Both flips of one difference are as large as itself; scipy asks for two.
        return 1.0
    test = permutation_test(
        (numbers,),
        np.mean,
        permutation_type="samples",
        n_resamples=resamples,
        batch=max(1, _BATCH_NUMBERS // len(numbers)),
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


def questions_needed(differences: npt.NDArray[np.float64]) -> int | None:
    """Return about how many questions would tell a mean difference of this size from none."""
    mean = float(np.mean(differences))
    if not mean or len(differences) == 1:
        return None
    wanted = _POWER * float(np.var(differences, ddof=1)) / mean**2
    return int(float(f"{max(wanted, len(differences) + 1, FEWEST):.2g}"))


def check_draws(confidence: float, resamples: int, seed: int) -> Draws:
    """Return settings of bootstrap and test; a `ValueError` for one that is out of range."""
    if not 0 < confidence < 1:
        msg = f"confidence must be between 0 and 1, got {confidence!r}"
        raise ValueError(msg)
    check_int("resamples", resamples, 2)
    check_int("seed", seed, 0)
    return {"confidence": confidence, "resamples": resamples, "seed": seed}


def check_int(name: str, value: object, least: int, most: float = math.inf) -> None:
    """Raise a `ValueError` for what is no int (a bool is none) or out of range."""
    if type(value) is not int or not least <= value <= most:
        upto = "" if most == math.inf else f" and at most {most:,}"
        msg = f"{name} must be an int of at least {least}{upto}, got {value!r}"
        raise ValueError(msg)
