"""What the tests of figures share: reports to draw, and what figures show."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

from matplotlib.text import Text

from langchain_rerank.evaluation import Dataset, evaluate
from langchain_rerank.evaluation.measures import Interval
from langchain_rerank.evaluation.systems import RankedDocument
from tests.evaluation.toy import QUIET

TEXTS = {
    "a": "Berlin is a city. " * 20,
    "b": "x",
    "c": "costs $5 and $x_{^ more",
    "d": "\ud800 a\nb\0",
}
# By rank: "d" comes from below rank 2, "b" goes there, "e" and "f" come and go as a whole.
OLD, NEW = ["a", "b", "c", "d", "e"], ["d", "a", "c", "b", "f"]


def by_rank(ids):
    return {one: float(-rank) for rank, one in enumerate(ids)}


def a_report():
    dataset = Dataset(
        {"q": "how many <people> cost $5 and $10?", "other": "who?"},
        {"q": {"a": 3, "b": 0, "d": 2, "c": 1}, "other": {"a": 2}},
        name="toy $x$",
    )
    systems = {
        "first": {"q": by_rank(OLD), "other": by_rank(["b", "a"])},
        "second": {"q": by_rank(NEW), "other": by_rank(["a", "b"])},
    }
    measures = ["nDCG@3", "RR", "P@1", "P@2", "P@3"]
    found = evaluate(systems, dataset, measures, min_relevance=2, **QUIET)
    return replace(found, texts=TEXTS)


def with_system(report, name, **changes):
    """The report with a further system, like its second one."""
    system = replace(report.systems["second"], **changes)
    return replace(report, systems={**report.systems, name: system})


def reranked(report, scores=(0.9, 0.8, 0.3, 0.2, None)):
    """The report with a system that reranked: "second" with a cross encoder's scores."""
    rankings = {
        query: tuple(
            RankedDocument(one.id, score, rank)
            for rank, (one, score) in enumerate(zip(found, scores, strict=False), start=1)
        )
        for query, found in report.systems["second"].rankings.items()
    }
    return with_system(report, "reranked", rankings=rankings)


def timed(report, **systems):
    """The report with systems of a latency in milliseconds and a mean of the first measure."""
    for name, (stages, mean) in systems.items():
        old = report.systems["second"].summaries
        summary = replace(old["nDCG@3"], mean=mean, interval=Interval(mean, mean + 0.1))
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
