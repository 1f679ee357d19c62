"""What an evaluation found, query by query, with everything needed to look again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from langchain_rerank.evaluation import tables
from langchain_rerank.evaluation.measures import Interval  # noqa: TC001  # pydantic reads it
from langchain_rerank.evaluation.runs import falling_scores
from langchain_rerank.evaluation.systems import RankedDocument  # noqa: TC001  # pydantic reads it
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Summary:
    """One measure of one system over all queries, and how it compares to the first system's."""

    mean: float
    interval: Interval | None = None
    """Bootstrap interval of the mean; None for a single query."""
    difference: float | None = None
    """Mean minus the first system's; None, as what follows, for the first system itself."""
    difference_interval: Interval | None = None
    """Bootstrap interval of the difference, over queries in pairs."""
    p_value: float | None = None
    """Of the paired randomization test of the difference."""


@dataclass(frozen=True, slots=True)
class SystemResult:
    """What one system gave for each query, and what that is worth."""

    rankings: Mapping[str, tuple[RankedDocument, ...]]
    """By query id, best first; no document twice."""
    candidates: Mapping[str, tuple[str, ...]]
    """By query id, the documents that the reranker saw; without one, those of the ranking."""
    seconds: Mapping[str, tuple[float, ...]]
    """By stage ("retrieval", "reranking", "total"), one time a query; empty for a run."""
    per_query: Mapping[str, Mapping[str, float]]
    """By measure and query id; 0 for a query without results."""
    summaries: Mapping[str, Summary]
    """By measure."""
    candidate_recall: float
    """Mean recall of the candidates: the ceiling, no reranking of them can find more."""

    def run(self) -> dict[str, dict[str, float]]:
        """Return the rankings as a run, to be written by `write_run`.

        Scores are the documents' own where they fall from rank to rank; see `falling_scores`.
        """
        run = {}
        for query, ranking in self.rankings.items():
            scores = [math.nan if one.score is None else one.score for one in ranking]
            run[query] = falling_scores([one.id for one in ranking], scores)
        return run


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """How an evaluation was made."""

    measures: tuple[str, ...]
    min_relevance: int
    confidence: float
    resamples: int
    seed: int


@dataclass(frozen=True, slots=True)
class Move:
    """A document that stands elsewhere than in the first system's ranking."""

    id: str
    old_rank: int | None
    """From 1; None if the first system doesn't return it."""
    new_rank: int | None
    """From 1; None if the other system doesn't return it."""
    grade: int | None
    """None if nobody judged it for this query."""
    text: str
    """Empty where it is not known."""


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of `evaluate`; shows itself as tables in Jupyter, what it means in words on top.

    The first system is the baseline that the others are compared to.

    Example:
        >>> from langchain_rerank.evaluation import Dataset, evaluate
        >>> dataset = Dataset({"1": "How many people live in Berlin?"}, {"1": {"people": 1}})
        >>> before = {"1": {"people": 2.0, "museums": 1.0}}
        >>> after = {"1": {"museums": 2.0, "people": 1.0}}
        >>> systems = {"before": before, "after": after}
        >>> report = evaluate(systems, dataset, ["RR"], show_progress=False)
        >>> report.to_dataframe()["RR"].to_dict()
        {'before': 1.0, 'after': 0.5}
        >>> [(move.id, move.old_rank, move.new_rank) for move in report.moves("1")]
        [('museums', 2, 1), ('people', 1, 2)]
    """

    dataset: str
    """The data set's name."""
    queries: Mapping[str, str]
    """Texts by query id, in the order in which they were asked."""
    qrels: Mapping[str, Mapping[str, int]]
    """Grades by query and document."""
    systems: Mapping[str, SystemResult]
    """By name, in the order given."""
    settings: EvaluationSettings
    texts: Mapping[str, str] = field(default_factory=dict)
    """By document id, of the documents in the rankings, where they are known. None for
    an id that several passages share (`id_key`)."""
    notes: tuple[str, ...] = ()
    """What a reader should know before trusting the numbers."""

    def __repr__(self) -> str:
        return (
            f"Report(dataset={self.dataset!r}, queries={len(self.queries)}, "
            f"systems={list(self.systems)}, measures={list(self.settings.measures)})"
        )

    @property
    def baseline(self) -> str:
        """Name of the first system."""
        return next(iter(self.systems))

    @property
    def reranking_systems(self) -> list[str]:
        """Names of the systems that a cross encoder scored documents for."""
        return [
            name
            for name, result in self.systems.items()
            if any(one.was_reranked for found in result.rankings.values() for one in found)
        ]

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row a system.

        Columns: each measure's mean under its name, then "<measure> low", "… high",
        "… difference", "… difference low", "… difference high" and "… p"; "candidate recall"; and
        "<stage> p50 ms" and "<stage> p95 ms". What a system doesn't have is NaN.
        """
        pd = tables.pandas()
        rows = [tables.numbers(result) for result in self.systems.values()]
        return pd.DataFrame(rows, index=pd.Index(list(map(_utf8, self.systems)), name="system"))

    def to_markdown(self) -> str:
        """Return what it means and the tables as GitHub's Markdown."""
        return tables.markdown(tables.introduction(self), tables.report_tables(self), self.notes)

    def _repr_html_(self) -> str:
        return tables.html(tables.introduction(self), tables.report_tables(self), self.notes)

    def to_json(self) -> str:
        r"""Return everything as JSON; `from_json` makes the same report of it.

        No file can hold lone surrogates: in the texts of queries and documents they become U+FFFD,
        in ids and names, which stay apart, six characters such as \ud800.
        """
        queries, texts = (
            {key: well_formed(text) for key, text in some.items()}
            for some in (self.queries, self.texts)
        )
        report = replace(self, queries=queries, texts=texts)
        return json.dumps(_writable(asdict(report)), indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read what `to_json` wrote.

        Raises:
            ValueError: The text is not such a report; the message names the fields.
        """
        return TypeAdapter(Report).validate_json(text)

    def moves(
        self,
        query_id: str,
        system: str | None = None,
        *,
        depth: int = 10,
        unmoved: bool = False,
    ) -> list[Move]:
        """Compare one query's ranking with the first system's.

        Args:
            query_id: Which query.
            system: Which other system; None takes the second one.
            depth: How many ranks of either ranking to look at.
            unmoved: List also the documents that stay where they are.

        Returns:
            The documents among the first `depth` of either ranking whose ranks differ, in the
            order of their new ranks; those that are gone come last.

        Raises:
            ValueError: There is no such query or system, or only one system, or `depth` is not a
                positive int.
        """
        system = self.other_system(system)
        _check_count("depth", depth)
        if query_id not in self.queries:
            such = ", ".join(map(repr, list(self.queries)[:3]))
            msg = f"no query {query_id!r} in this report, which has such as {such}"
            raise ValueError(msg)
        rankings = (self.systems[name].rankings[query_id] for name in (self.baseline, system))
        old, new = ({one.id: rank for rank, one in enumerate(found, 1)} for found in rankings)
        grades = self.qrels[query_id]
        return [
            Move(one, old.get(one), new.get(one), grades.get(one), self.texts.get(one, ""))
            for one in dict.fromkeys([*list(new)[:depth], *list(old)[:depth]])
            if unmoved or old.get(one) != new.get(one)
        ]

    def worst_queries(
        self, n: int = 5, *, measure: str | None = None, system: str | None = None
    ) -> pd.DataFrame:
        """Show where a system did worse than the first one; `moves` tells how.

        Args:
            n: How many queries.
            measure: By which measure; None takes the first one.
            system: Which system; None takes the second one.

        Returns:
            A row for each query that lost, the one that lost most first: query_id, query, before,
            after (the measure's values).

        Raises:
            ValueError: There is no such measure or system, or only one system, or `n` is not a
                positive int.
        """
        system = self.other_system(system)
        _check_count("n", n)
        measure = self.settings.measures[0] if measure is None else measure
        if measure not in self.settings.measures:
            known = ", ".join(self.settings.measures)
            msg = f"no measure {measure!r} in this report, which has {known}"
            raise ValueError(msg)
        before, after = (self.systems[one].per_query[measure] for one in (self.baseline, system))
        rows = [
            (_utf8(query), well_formed(text), before[query], after[query])
            for query, text in self.queries.items()
            if after[query] < before[query]
        ]
        rows.sort(key=lambda row: row[3] - row[2])
        columns = ["query_id", "query", "before", "after"]
        return tables.pandas().DataFrame(rows[:n], columns=columns)

    def other_system(self, system: str | None = None) -> str:
        """Return the system to compare with the first one; None takes the second.

        Raises:
            ValueError: There is no such system, or only one.
        """
        others = [name for name in self.systems if name != self.baseline]
        if system is None and others:
            return others[0]
        if system not in others:
            msg = (
                f"expected a system to compare with '{self.baseline}', one of {others}, "
                f"got {system!r}"
            )
            raise ValueError(msg)
        return system


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        msg = f"{name} must be a positive int, got {value!r}"
        raise ValueError(msg)


def _utf8(text: str) -> str:
    """Escape lone surrogates; `well_formed` would make one id of two."""
    return text.encode("utf-8", "backslashreplace").decode()


def _writable(value: Any) -> Any:
    """Return a record as JSON holds it: without None, infinite numbers as text."""
    if isinstance(value, str):
        return _utf8(value)
    if isinstance(value, Mapping):
        items = value.items()
        return {_utf8(key): _writable(one) for key, one in items if one is not None}
    if isinstance(value, list | tuple):
        return [_writable(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
