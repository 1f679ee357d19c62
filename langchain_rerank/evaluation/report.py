"""What an evaluation found, in words and in three tables, from means down to single documents."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from langchain_rerank.evaluation.measures import (
    Draws,
    Estimate,
    SystemResult,
    check_int,
    require_eval,
    run_of,
)
from langchain_rerank.evaluation.tables import NOTHING, Shown, more_questions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

STAGES = ("retrieval", "reranking", "total")
_SMALL_P = 0.001


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Report(Shown):
    """The outcome of `evaluate`; shows itself as tables in Jupyter, what it means in words on top.

    Example:
        >>> from langchain_rerank.evaluation import Dataset, evaluate
        >>> dataset = Dataset({"1": "How many people live in Berlin?"}, {"1": {"people": 1}})
        >>> before = {"1": {"people": 2.0, "museums": 1.0}}
        >>> after = {"1": {"museums": 2.0, "people": 1.0}}
        >>> systems = {"before": before, "after": after}
        >>> report = evaluate(systems, dataset, ["RR"], show_progress=False)
        >>> report.per_query["RR"].to_dict()
        {('before', '1'): 1.0, ('after', '1'): 0.5}
        >>> report.moves("1")[["id", "old_rank", "new_rank"]].values.tolist()
        [['museums', 2, 1], ['people', 1, 2]]
    """

    dataset: str
    """The data set's name."""
    queries: Mapping[str, str]
    """Texts by query id, in the order in which they were asked."""
    measures: Sequence[str]
    min_relevance: int
    draws: Draws
    """Confidence, resamples and seed of the bootstrap and the test."""
    summary: pd.DataFrame
    """A row a system, as `to_dataframe` says."""
    per_query: pd.DataFrame
    """A row for each system and query: the measures, 0 for a query without results; "candidates",
    how many documents the reranker saw, and "candidate recall"; seconds by stage, NaN for a run."""
    documents: pd.DataFrame
    """A row for each document returned, no document twice for a query: system, query, rank from 1,
    id; score (the cross encoder's, or the run's), retrieval_rank among the candidates, and grade,
    each NaN where there is none."""
    texts: Mapping[str, str]
    """By document id, of the documents in the rankings, where they are known. None for
    an id that several passages share (`id_key`)."""
    notes: Sequence[str] = ()
    """What a reader should know before trusting the numbers."""

    def __repr__(self) -> str:
        return (
            f"Report(dataset={self.dataset!r}, queries={len(self.queries)}, "
            f"systems={self.names}, measures={list(self.measures)})"
        )

    @property
    def names(self) -> list[str]:
        """The systems' names, in the order given; the first is the baseline."""
        return list(self.summary.index)

    @property
    def systems(self) -> Mapping[str, SystemResult]:
        """What each system did, by name, in the order given."""
        rows = {
            key: list(found.itertuples(index=False))
            for key, found in self.documents.groupby(["system", "query"])
        }
        return {
            name: SystemResult(
                {one: self.estimate(name, one) for one in self.measures},
                self.per_query.loc[name, list(self.measures)].to_dict(),
                {query: rows.get((name, query), []) for query in self.queries},
            )
            for name in self.names
        }

    @property
    def reranking_systems(self) -> list[str]:
        """Names of the systems that a cross encoder scored documents for."""
        scored = self.documents.dropna(subset=["score", "retrieval_rank"])
        return list(scored["system"].unique())

    def scored(self, system: str | None = None) -> tuple[str, pd.DataFrame]:
        """Return a system's name and its scored documents; None takes the first that reranks.

        Raises:
            ValueError: There is no such system, or it reranked nothing.
        """
        known = self.reranking_systems
        name = known[0] if system is None and known else system
        if name not in known:
            msg = f"expected a system that reranks, one of {known}, got {system!r}"
            raise ValueError(msg)
        found = self.documents[self.documents["system"] == name]
        return name, found.dropna(subset=["score", "retrieval_rank"])

    def estimate(self, system: str, column: str) -> Estimate:
        """Return a mean of the summary, such as that of "RR difference", with its interval."""
        row = self.summary.loc[system]
        return Estimate(*(float(row[f"{column}{end}"]) for end in ("", " low", " high")))

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row a system.

        Columns: each measure's mean under its name, then "<measure> low", "… high",
        "… difference", "… difference low", "… difference high" and "… p"; "candidate recall", the
        ceiling of reranking; and "<stage> p50 ms" and "<stage> p95 ms". What a system doesn't have
        is NaN.
        """
        return self.summary.copy()

    def to_json(self) -> str:
        """Return everything as ASCII; `from_json` makes the same report of it."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return json.dumps(parts, indent=1, default=_columns)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read what `to_json` wrote; a ValueError for another text."""
        require_eval("Report.from_json")
        import pandas as pd

        try:
            parts = json.loads(text)
            for name in ("summary", "per_query", "documents"):
                frame = pd.DataFrame(parts[name])
                texts = {"system", "query", "id", "rank"}
                parts[name] = frame.astype({one: float for one in frame if one not in texts})
            parts["summary"] = parts["summary"].set_index("system")
            parts["per_query"] = parts["per_query"].set_index(["system", "query"])
            return cls(**parts)
        except (ValueError, TypeError, KeyError) as error:
            msg = f"expected the JSON of a Report, which to_json writes: {error!r}"
            raise ValueError(msg) from error

    def run(self, system: str) -> dict[str, dict[str, float]]:
        """Return a system's rankings as a run for `write_run`, with scores that fall by 1."""
        found = self.documents[self.documents["system"] == system]
        return run_of(found.groupby("query", sort=False)["id"].apply(list).to_dict())

    def moves(
        self, query_id: str, system: str | None = None, *, depth: int = 10, unmoved: bool = False
    ) -> pd.DataFrame:
        """Compare one query's ranking with the first system's.

        Args:
            query_id: Which query.
            system: Which other system; None takes the second one.
            depth: How many ranks of either ranking to look at.
            unmoved: List also the documents that stay where they are.

        Returns:
            A row for each document among the first `depth` of either ranking whose ranks differ, in
            the order of their new ranks, those that are gone last: id, old_rank, new_rank (from 1),
            grade and text. None where a system doesn't return it, or nobody judged it.

        Raises:
            ValueError: There is no such query or system, or only one system, or `depth` is not
                positive.
        """
        import pandas as pd

        check_int("depth", depth, 1)
        if query_id not in self.queries:
            such = ", ".join(map(repr, list(self.queries)[:3]))
            msg = f"no query {query_id!r} in this report, which has such as {such}"
            raise ValueError(msg)
        pair = self.names[0], self.other_system(system)
        asked = self.documents[self.documents["query"] == query_id].set_index("id")
        old, new = (asked.loc[asked["system"] == one, "rank"].to_dict() for one in pair)
        grades = asked["grade"].dropna().astype(int).to_dict()
        rows = [
            (one, old.get(one), new.get(one), grades.get(one), self.texts.get(one, ""))
            for one in dict.fromkeys([*list(new)[:depth], *list(old)[:depth]])
            if unmoved or old.get(one) != new.get(one)
        ]
        return pd.DataFrame(rows, None, ["id", "old_rank", "new_rank", "grade", "text"], object)

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
            ValueError: There is no such measure or system, or only one system, or `n` is not
                positive.
        """
        import pandas as pd

        check_int("n", n, 1)
        measure = self.measures[0] if measure is None else measure
        if measure not in self.measures:
            msg = f"no measure {measure!r} in this report, which has {', '.join(self.measures)}"
            raise ValueError(msg)
        pair = self.names[0], self.other_system(system)
        before, after = (self.per_query.loc[one, measure] for one in pair)
        found = pd.DataFrame({"query": self.queries, "before": before, "after": after})
        lost = (after - before).sort_values(kind="stable")
        return found.loc[lost.index[lost < 0][:n]].rename_axis("query_id").reset_index()

    def other_system(self, system: str | None = None) -> str:
        """Return the system to compare with the first one; None takes the second.

        Raises:
            ValueError: There is no such system, or only one.
        """
        first, *others = self.names
        name = others[0] if system is None and others else system
        if name not in others:
            msg = f"expected a system to compare with '{first}', one of {others}, got {system!r}"
            raise ValueError(msg)
        return name

    def _introduction(self) -> list[str]:
        line = f"{self.title}, relevant from grade {self.min_relevance}. "
        line += f"Means over queries, with {self.intervals}."
        if len(self.names) > 1:
            line += " p: paired randomization test against the first system."
        return [*map(self._verdict, self.names[1:]), line]

    def _verdict(self, name: str) -> str:
        """Say whether a system helps, what it costs, and what to do where it doesn't."""
        measure, first, row = self.measures[0], self.names[0], self.summary.loc[name].dropna()
        found = self.estimate(name, f"{measure} difference")
        change, cost = f"{measure} {found:+.4f}", "."
        stage = next((one for one in ("reranking", "total") if f"{one} p50 ms" in row), None)
        if stage:
            middle, slow = row[[f"{stage} p50 ms", f"{stage} p95 ms"]]
            cost = f", for {middle:,.0f} ms of {stage} a question (p95 {slow:,.0f} ms) here."
        # The bootstrap of a few questions is too sure of itself, the test is not.
        is_shown = row[f"{measure} p"] <= 1 - self.draws["confidence"]
        if is_shown and found.low > 0:
            return f"{name} helps: {change} over {first}{cost}"
        if is_shown and found.high < 0:
            return (
                f"{name} hurts: {change} against {first}{cost} Keep {first}, let its order count "
                "for more (a first_stage_weight, which sweep() finds), or try another model."
            )
        before, after = (self.per_query.loc[one, measure] for one in (first, name))
        more = more_questions((after - before).to_numpy())
        return f"No difference between {name} and {first} is shown: {change}{cost}{more}"

    def _tables(self) -> dict[str, pd.DataFrame]:
        import pandas as pd

        first, *others = self.names
        quality, differences = pd.DataFrame(index=self.names), pd.DataFrame(index=others)
        for one in self.measures:
            quality[one] = [f"{self.estimate(name, one):.4f}" for name in self.names]
            tests = self.summary.loc[others, f"{one} p"]
            differences[one] = [
                f"{self.estimate(name, f'{one} difference'):+.4f}, "
                + (f"p = {p:.3f}" if p >= _SMALL_P else "p < 0.001")
                for name, p in tests.items()
            ]
        cost = self.summary.filter(like=" ms").map("{:,.0f}".format).replace("nan", NOTHING)
        counts = self.per_query["candidates"].groupby("system", sort=False).mean()
        cost.insert(0, "candidates", counts.map("{:.0f}".format))
        cost.insert(1, "their recall", self.summary["candidate recall"].map("{:.4f}".format))
        tables = {"Quality": quality, f"Difference to {first}": differences}
        tables["Candidates and latency"] = cost
        return {t: one.rename_axis("system").reset_index() for t, one in tables.items() if len(one)}


def _columns(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """Make JSON's values of a frame: no NaN, infinite numbers as text."""

    def value(one: Any) -> Any:
        if isinstance(one, float) and not math.isfinite(one):
            return None if math.isnan(one) else str(one)
        return one

    frame = frame.reset_index(drop=frame.index.names == [None])
    return {name: list(map(value, column.tolist())) for name, column in frame.items()}
