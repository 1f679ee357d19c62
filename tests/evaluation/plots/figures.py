"""What the tests of figures share: reports to draw, and what figures show."""

from __future__ import annotations

import dataclasses
from io import BytesIO

from matplotlib.text import Text

from langchain_rerank.evaluation.results import RankedDocument
from langchain_rerank.evaluation.statistics import Interval

QUERY = "how many <people> cost $5 and $10?"
TEXTS = {
    "a": "Berlin is a city. " * 20,
    "b": "x",
    "c": "costs $5 and $x_{^ more",
    "d": "\ud800 lone\nline\x00",
}
# By rank: "d" comes from below rank 2, "b" goes there, "e" and "f" come and go as a whole.
OLD, NEW = ["a", "b", "c", "d", "e"], ["d", "a", "c", "b", "f"]


def by_rank(ids):
    return {one: float(-rank) for rank, one in enumerate(ids)}


def with_system(report, name, **changes):
    """Return the report with a further system, like its second one."""
    system = dataclasses.replace(report.systems["second"], **changes)
    return dataclasses.replace(report, systems={**report.systems, name: system})


def reranked(report, scores=(0.9, 0.8, 0.3, 0.2, None)):
    """Return the report with a system that reranked: "second" with a cross encoder's scores."""
    rankings = {
        query: tuple(
            RankedDocument(one.id, score, rank)
            for rank, (one, score) in enumerate(zip(ranking, scores, strict=False), start=1)
        )
        for query, ranking in report.systems["second"].rankings.items()
    }
    return with_system(report, "reranked", rankings=rankings)


def timed(report, **systems):
    """Return the report with systems of a latency in milliseconds and a mean of the measure."""
    for name, (stages, mean) in systems.items():
        old = report.systems["second"].summaries
        summary = dataclasses.replace(old["nDCG@3"], mean=mean, interval=Interval(mean, mean + 0.1))
        seconds = {stage: (ms / 1000, ms / 1000) for stage, ms in stages.items()}
        report = with_system(report, name, seconds=seconds, summaries={**old, "nDCG@3": summary})
    return report


def drawn(figure):
    """Write a figure in all ways, and return the texts that it shows."""
    for form in ("png", "pdf", "svg"):
        buffer = BytesIO()
        figure.savefig(buffer, format=form)
        assert len(buffer.getvalue()) > 1000
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def lines(axes):
    return {line.get_gid(): line for line in axes.lines if line.get_gid()}
