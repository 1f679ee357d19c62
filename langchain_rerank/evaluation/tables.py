"""Reports as tables: frames of text, which Markdown, notebooks and the command line show alike."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from langchain_rerank.evaluation.runs import require_eval
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pandas as pd

    from langchain_rerank.evaluation.report import Report
    from langchain_rerank.evaluation.results import Summary, SystemResult
    from langchain_rerank.evaluation.statistics import Interval

    Table = tuple[str, pd.DataFrame]

STAGES = ("retrieval", "reranking", "total")
NOTHING = "–"
_PERCENTILES = (50, 95)
_SMALL_P = 0.001


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


def report_tables(report: Report) -> list[Table]:
    """Lay out a report: quality, differences to the first system, candidates and latency."""
    measures = report.settings.measures
    systems = {name: one.summaries for name, one in report.systems.items()}
    shown = {name: [_mean(found[one]) for one in measures] for name, found in systems.items()}
    tables = [("Quality", _by_system(shown, measures))]
    others = {name: found for name, found in systems.items() if name != report.baseline}
    if others:
        shown = {
            name: [_difference(found[one]) for one in measures] for name, found in others.items()
        }
        tables.append((f"Difference to {report.baseline}", _by_system(shown, measures)))
    stages = [s for s in STAGES if any(s in one.seconds for one in report.systems.values())]
    columns = [f"{stage} p{percent} ms" for stage in stages for percent in _PERCENTILES]
    shown = {name: _cost(one, columns) for name, one in report.systems.items()}
    cost = _by_system(shown, ["candidates", "their recall", *columns])
    return [*tables, ("Candidates and latency", cost)]


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


def markdown(intro: str, tables: Sequence[Table], notes: Sequence[str]) -> str:
    """Render tables as GitHub's Markdown, notes as a list below."""
    parts = [_in_markdown(intro)]
    for title, found in tables:
        aligned = ["---", *["---:"] * (len(found.columns) - 1)]
        rows = [map(_in_markdown, row) for row in found.to_numpy().tolist()]
        lines = [" | ".join(row) for row in (map(_in_markdown, found.columns), aligned, *rows)]
        parts += [f"**{_in_markdown(title)}**", "\n".join(f"| {line} |" for line in lines)]
    if notes:
        parts.append("\n".join(f"- {_in_markdown(note)}" for note in notes))
    return well_formed("\n\n".join(parts) + "\n")


def html(intro: str, tables: Sequence[Table], notes: Sequence[str]) -> str:
    """Render tables for a notebook."""
    parts = [f"<p>{escape(intro)}</p>"]
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


def _by_system(rows: Mapping[str, Sequence[str]], columns: Sequence[str]) -> pd.DataFrame:
    return frame([[name, *row] for name, row in rows.items()], ["system", *columns])


def _cost(result: SystemResult, columns: Sequence[str]) -> list[str]:
    times = latencies(result)
    count = np.mean([len(found) for found in result.candidates.values()])
    cells = [f"{times[one]:,.0f}" if one in times else NOTHING for one in columns]
    return [f"{count:.0f}", f"{result.candidate_recall:.4f}", *cells]


def _mean(summary: Summary) -> str:
    return with_interval(summary.mean, summary.interval)


def _difference(summary: Summary) -> str:
    if summary.difference is None or summary.p_value is None:
        return NOTHING
    p = f"p = {summary.p_value:.3f}" if summary.p_value >= _SMALL_P else "p < 0.001"
    return f"{with_interval(summary.difference, summary.difference_interval, '+.4f')}, {p}"


def _in_markdown(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
