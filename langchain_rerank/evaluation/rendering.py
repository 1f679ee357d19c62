"""A report as tables: rows of a data frame, Markdown, HTML."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from langchain_rerank.evaluation.records import Summary, SystemResult
    from langchain_rerank.evaluation.report import Report
    from langchain_rerank.evaluation.statistics import Interval

STAGES = ("retrieval", "reranking", "total")
_PERCENTILES = (50, 95)
_SMALL_P = 0.001


@dataclass(frozen=True, slots=True)
class Table:
    """A title and rows of text under a heading each; the first column names the system."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def row(result: SystemResult) -> dict[str, float]:
    """Return a system's numbers by column; see `Report.to_dataframe`."""
    numbers: dict[str, float] = {}
    for measure, summary in result.summaries.items():
        numbers[measure] = summary.mean
        numbers |= _ends(measure, summary.interval)
        numbers[f"{measure} difference"] = _number(summary.difference)
        numbers |= _ends(f"{measure} difference", summary.difference_interval)
        numbers[f"{measure} p"] = _number(summary.p_value)
    numbers["candidate recall"] = result.candidate_recall
    return numbers | latencies(result)


def latencies(result: SystemResult) -> dict[str, float]:
    """Return the median and 95th percentile of each stage, in milliseconds, by column."""
    return {
        f"{stage} p{percent} ms": float(np.percentile(result.seconds[stage], percent)) * 1000
        for stage in STAGES
        if stage in result.seconds
        for percent in _PERCENTILES
    }


def tables(report: Report) -> list[Table]:
    """Lay out a report: quality, differences to the first system, candidates and latency."""
    found = [_quality(report)]
    if len(report.systems) > 1:
        found.append(_differences(report))
    return [*found, _cost(report)]


def summary_line(report: Report) -> str:
    """Say what was evaluated and how, in one paragraph."""
    settings = report.settings
    name = f"{report.dataset}: " if report.dataset else ""
    line = (
        f"{name}{queries(len(report.queries))}, relevant from grade {settings.min_relevance}. "
        f"Means over queries, with {percent(settings.confidence)} bootstrap intervals."
    )
    if len(report.systems) > 1:
        line += " p: paired randomization test against the first system."
    return line


def markdown(report: Report) -> str:
    """Render the tables as GitHub's Markdown."""
    parts = [_in_markdown(summary_line(report))]
    parts += map(markdown_table, tables(report))
    if report.notes:
        parts.append("\n".join(f"- {_in_markdown(note)}" for note in report.notes))
    return "\n\n".join(parts) + "\n"


def html(report: Report) -> str:
    """Render the tables as HTML for a notebook."""
    parts = [f"<p>{escape(summary_line(report))}</p>"]
    parts += map(html_table, tables(report))
    if report.notes:
        notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
        parts.append(f"<ul>{notes}</ul>")
    return f"<div>{''.join(parts)}</div>"


def markdown_table(table: Table) -> str:
    """Render one table, under its title, as GitHub's Markdown."""
    aligned = ["---", *["---:"] * (len(table.headings) - 1)]
    lines = [table.headings, aligned, *table.rows]
    cells = [" | ".join(map(_in_markdown, line)) for line in lines]
    return f"**{_in_markdown(table.title)}**\n\n" + "\n".join(f"| {line} |" for line in cells)


def html_table(table: Table) -> str:
    """Render one table as HTML."""
    lines = ["".join(f"<th>{escape(heading)}</th>" for heading in table.headings)]
    for first, *rest in table.rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        lines.append(f"<th>{escape(first)}</th>{cells}")
    rows = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><caption>{escape(table.title)}</caption>{rows}</table>"


def with_interval(value: float, interval: Interval | None, form: str = ".4f") -> str:
    """Write a number and its interval, where it has one, in a format such as "+.4f"."""
    return f"{value:{form}}" + (
        f" [{interval.low:{form}}, {interval.high:{form}}]" if interval else ""
    )


def queries(number: int) -> str:
    """Return "1 query", "2 queries", …."""
    return f"{number} {'query' if number == 1 else 'queries'}"


def percent(confidence: float) -> str:
    """Write the confidence of intervals without rounding it: 0.995 is "99.5%", not "100%"."""
    return f"{100 * confidence:g}%"


def _quality(report: Report) -> Table:
    measures = report.settings.measures
    rows = [
        (name, *(_mean(result.summaries[measure]) for measure in measures))
        for name, result in report.systems.items()
    ]
    return Table("Quality", ("system", *measures), tuple(rows))


def _differences(report: Report) -> Table:
    measures = report.settings.measures
    rows = [
        (name, *(_difference(result.summaries[measure]) for measure in measures))
        for name, result in report.systems.items()
        if name != report.baseline
    ]
    return Table(f"Difference to {report.baseline}", ("system", *measures), tuple(rows))


def _cost(report: Report) -> Table:
    stages = [s for s in STAGES if any(s in one.seconds for one in report.systems.values())]
    columns = [f"{stage} p{percent} ms" for stage in stages for percent in _PERCENTILES]
    rows = []
    for name, result in report.systems.items():
        times = latencies(result)
        count = np.mean([len(result.candidates[query]) for query in report.queries])
        cells = [f"{times[column]:,.0f}" if column in times else "–" for column in columns]
        rows.append((name, f"{count:.0f}", f"{result.candidate_recall:.4f}", *cells))
    return Table(
        "Candidates and latency", ("system", "candidates", "their recall", *columns), tuple(rows)
    )


def _mean(summary: Summary) -> str:
    return with_interval(summary.mean, summary.interval)


def _difference(summary: Summary) -> str:
    if summary.difference is None or summary.p_value is None:
        return "–"
    p = f"p = {summary.p_value:.3f}" if summary.p_value >= _SMALL_P else "p < 0.001"
    return f"{with_interval(summary.difference, summary.difference_interval, '+.4f')}, {p}"


def _ends(name: str, interval: Interval | None) -> dict[str, float]:
    low, high = (interval.low, interval.high) if interval else (math.nan, math.nan)
    return {f"{name} low": low, f"{name} high": high}


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _in_markdown(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
