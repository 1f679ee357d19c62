"""Measures by ir_measures: names as papers write them in, one value a query out."""

from __future__ import annotations

import ast
import math
import re
from typing import TYPE_CHECKING

from langchain_rerank.evaluation.datasets import LARGEST_GRADE
from langchain_rerank.evaluation.runs import falling_scores, require_eval

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import ir_measures

# A name, its parameters in brackets, and its cutoff, as in P(rel=2)@5.
_NAME = re.compile(r"(?P<name>\w+)(?:\((?P<parameters>.*)\))?(?:@(?P<at>[\w.]+))?")


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


def check_min_relevance(min_relevance: int) -> None:
    """Raise `ValueError` unless it is an int from 1 to the largest grade."""
    if type(min_relevance) is not int or not 1 <= min_relevance <= LARGEST_GRADE:
        msg = (
            f"min_relevance must be an int of at least 1 and at most {LARGEST_GRADE:,}, "
            f"got {min_relevance!r}"
        )
        raise ValueError(msg)


def per_query_values(
    measures: Sequence[ir_measures.Measure],
    rankings: Mapping[str, Sequence[str]],
    qrels: Mapping[str, Mapping[str, int]],
) -> dict[str, dict[str, float]]:
    """Measure each query.

    The order of `rankings` is what is measured: it reaches ir_measures as scores that fall from
    rank to rank, so that no measure orders ties its own way; see `falling_scores`.
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


def depth(measure: ir_measures.Measure) -> int | None:
    """Return how many ranks a measure looks at; None if it looks at all of them."""
    cutoff: int | None = measure.params.get("cutoff")
    return cutoff


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
        measure: ir_measures.Measure = base(**_parameters(found["parameters"]))
        return measure if found["at"] is None else measure @ ast.literal_eval(found["at"])
    except (ValueError, SyntaxError) as error:
        msg = f'measure {text!r} has parameters that can\'t be read, expected such as "P(rel=2)@5"'
        raise ValueError(msg) from error


def _parameters(text: str | None) -> dict[str, object]:
    """Read `rel=2,judged_only=True`."""
    call = ast.parse(f"_({text or ''})", mode="eval").body
    if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
        msg = f"expected name=value, got {text!r}"
        raise ValueError(msg)
    return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}


def _check(measure: ir_measures.Measure) -> None:
    from ir_measures.measures import MeanAgg

    known = measure.SUPPORTED_PARAMS
    missing = [name for name, info in known.items() if info.required and name not in measure.params]
    if missing:
        how = (
            f"{measure.NAME}@10"
            if measure.AT_PARAM in missing
            else f"{measure.NAME}({missing[0]}=…)"
        )
        msg = f'measure {measure} lacks {", ".join(missing)}: write such as "{how}"'
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
