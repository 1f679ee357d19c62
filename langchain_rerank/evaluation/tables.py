"""Reports as text: what they mean in words, and tables for Markdown, notebooks and terminals."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from langchain_rerank.evaluation.runs import require_eval
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd

    from langchain_rerank.evaluation.measures import Interval
    from langchain_rerank.evaluation.report import Report, Summary, SystemResult

    Table = tuple[str, pd.DataFrame]

STAGES = ("retrieval", "reranking", "total")
NOTHING = "–"
_PERCENTILES = (50, 95)
_SMALL_P = 0.001
_POWER = (1.96 + 0.84) ** 2
"""Of a two-sided test at 5 % that finds a difference 8 times of 10 (Cohen, 1988)."""


def pandas() -> Any:
    """Import pandas."""
    require_eval("pandas", purpose="A table")
    import pandas as pd

    return pd


def frame(rows: Iterable[Sequence[object]], columns: Sequence[str]) -> pd.DataFrame:
    """Make a frame of text; pandas' strings are UTF-8, so lone surrogates are replaced."""
    cells = [[well_formed(str(cell)) for cell in row] for row in rows]
    return pandas().DataFrame(cells, columns=[well_formed(name) for name in columns])


def latencies(result: SystemResult) -> dict[str, float]:
    """Return the median and 95th percentile of each stage, in milliseconds, by column."""
    return {
        f"{stage} p{percent} ms": float(np.percentile(result.seconds[stage], percent)) * 1000
        for stage in STAGES
        if stage in result.seconds
        for percent in _PERCENTILES
    }


def numbers(result: SystemResult) -> dict[str, float]:
    """Return a system's numbers by column; see `Report.to_dataframe`."""
    row: dict[str, float] = {}
    for measure, found in result.summaries.items():
        for name, value, interval in (
            (measure, found.mean, found.interval),
            (f"{measure} difference", found.difference, found.difference_interval),
        ):
            row[name] = math.nan if value is None else value
            row[f"{name} low"] = interval.low if interval else math.nan
            row[f"{name} high"] = interval.high if interval else math.nan
        row[f"{measure} p"] = math.nan if found.p_value is None else found.p_value
    return {**row, "candidate recall": result.candidate_recall, **latencies(result)}


def report_tables(report: Report) -> list[Table]:
    """Lay out a report: quality, differences to the first system, candidates and latency."""
    measures, systems = report.settings.measures, report.systems
    columns = dict.fromkeys(column for one in systems.values() for column in latencies(one))
    quality, differences, cost = [], [], []
    for name, one in systems.items():
        found, times = [one.summaries[measure] for measure in measures], latencies(one)
        quality.append([name, *(with_interval(each.mean, each.interval) for each in found)])
        if name != report.baseline:
            differences.append([name, *map(_difference, found)])
        count = np.mean([len(ids) for ids in one.candidates.values()])
        cells = [f"{times[column]:,.0f}" if column in times else NOTHING for column in columns]
        cost.append([name, f"{count:.0f}", f"{one.candidate_recall:.4f}", *cells])
    laid_out = [
        ("Quality", frame(quality, ["system", *measures])),
        (f"Difference to {report.baseline}", frame(differences, ["system", *measures])),
        ("Candidates and latency", frame(cost, ["system", "candidates", "their recall", *columns])),
    ]
    return [(title, table) for title, table in laid_out if len(table)]


def introduction(report: Report) -> list[str]:
    """Say what was found, then what was evaluated and how."""
    settings = report.settings
    name = f"{report.dataset}: " if report.dataset else ""
    line = (
        f"{name}{queries(len(report.queries))}, relevant from grade {settings.min_relevance}. "
        f"Means over queries, with {percent(settings.confidence)} bootstrap intervals."
    )
    if len(report.systems) > 1:
        line += " p: paired randomization test against the first system."
    return [*(_verdict(report, one) for one in report.systems if one != report.baseline), line]


def _verdict(report: Report, name: str) -> str:
    """Say whether a system helps, what it costs, and what to do where it doesn't."""
    measure, first, result = report.settings.measures[0], report.baseline, report.systems[name]
    found = result.summaries[measure]
    change = f"{measure} {with_interval(found.difference or 0, found.difference_interval, '+.4f')}"
    times = latencies(result)
    stage = "reranking" if "reranking p50 ms" in times else "total"
    cost = "."
    if f"{stage} p50 ms" in times:
        middle, slow = (times[f"{stage} p{percent} ms"] for percent in _PERCENTILES)
        cost = f", for {middle:,.0f} ms of {stage} a question (p95 {slow:,.0f} ms) here."
    interval = found.difference_interval
    if interval and interval.low > 0:
        return f"{name} helps: {change} over {first}{cost}"
    if interval and interval.high < 0:
        return (
            f"{name} hurts: {change} against {first}{cost} Keep {first}, let its order count for "
            "more (a first_stage_weight, which sweep() finds), or try another model."
        )
    before, after = (report.systems[one].per_query[measure] for one in (first, name))
    needed = questions_needed([after[query] - before[query] for query in report.queries])
    more = f" About {needed:,} questions would tell one of this size." if needed else ""
    return f"No difference between {name} and {first} is shown: {change}{cost}{more}"


def questions_needed(differences: Sequence[float]) -> int | None:
    """Return about how many questions would tell a mean difference of this size from none."""
    mean = float(np.mean(differences))
    if not mean or len(differences) < 2:  # noqa: PLR2004  # one value tells nothing of the spread
        return None
    wanted = _POWER * float(np.var(differences, ddof=1)) / mean**2
    return int(float(f"{max(wanted, len(differences) + 1):.2g}"))


def markdown(intro: Sequence[str], tables: Sequence[Table], notes: Sequence[str]) -> str:
    """Render tables as GitHub's Markdown, notes as a list below."""
    parts = list(map(_in_markdown, intro))
    for title, found in tables:
        aligned = ["---", *["---:"] * (len(found.columns) - 1)]
        rows = [map(_in_markdown, row) for row in found.to_numpy().tolist()]
        lines = [" | ".join(row) for row in (map(_in_markdown, found.columns), aligned, *rows)]
        parts += [f"**{_in_markdown(title)}**", "\n".join(f"| {line} |" for line in lines)]
    if notes:
        parts.append("\n".join(f"- {_in_markdown(note)}" for note in notes))
    return well_formed("\n\n".join(parts) + "\n")


def html(intro: Sequence[str], tables: Sequence[Table], notes: Sequence[str]) -> str:
    """Render tables for a notebook."""
    parts = [f"<p>{escape(line)}</p>" for line in intro]
    with pandas().option_context("display.max_colwidth", None):
        for title, found in tables:
            parts += [f"<p>{escape(title)}</p>", found.to_html(index=False, border=0)]
    parts += [f"<p>{escape(note)}</p>" for note in notes]
    return well_formed(f"<div>{''.join(parts)}</div>")


def with_interval(value: float, interval: Interval | None, form: str = ".4f") -> str:
    """Write a number and its interval, where it has one, in a format such as "+.4f"."""
    ends = f" [{interval.low:{form}}, {interval.high:{form}}]" if interval else ""
    return f"{value:{form}}{ends}"


def queries(number: int) -> str:
    """Return "1 query", "2 queries", …."""
    return f"{number} {'query' if number == 1 else 'queries'}"


def percent(confidence: float) -> str:
    """Write the confidence of intervals without rounding it: 0.995 is "99.5%", not "100%"."""
    return f"{100 * confidence:g}%"


def _difference(summary: Summary) -> str:
    p = summary.p_value or 0
    shown = f"p = {p:.3f}" if p >= _SMALL_P else "p < 0.001"
    change = with_interval(summary.difference or 0, summary.difference_interval, "+.4f")
    return f"{change}, {shown}"


def _in_markdown(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
