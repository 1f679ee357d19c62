"""What `langchain-rerank eval` prints and writes."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from langchain_rerank.cli.console import console
from langchain_rerank.evaluation import tables
from langchain_rerank.evaluation.runs import write_run
from langchain_rerank.files import replacing
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

    from langchain_rerank.evaluation import Report, Sweep

_WORST = 3
_WORST_DEPTH = 3
_SNIPPET_CHARACTERS = 80


def make_folder(folder: Path) -> None:
    """Make the folder to write to.

    Raises:
        ValueError: It can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"expected a folder to write to in --output, {folder} can't be one: {error.strerror}"
        raise ValueError(msg) from error


def print_report(report: Report) -> None:
    """Print the tables of a report, and the queries that lost most."""
    console.print()
    console.print(Text(tables.summary_line(report)))
    for table in tables.report_tables(report):
        console.print(_in_rich(table))
    for note in report.notes:
        console.print(Text(note))
    _print_worst(report)


def print_sweep(sweep: Sweep) -> None:
    """Print the settings that were tried, and which one is recommended."""
    console.print()
    console.print(_in_rich(sweep.table()))
    for text in sweep.conclusions():
        console.print(Text(text))


def write(folder: Path, report: Report, sweep: Sweep | None) -> None:
    """Write the report, both runs and the figures, each file whole or not at all."""
    before, after = report.systems
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    texts = {
        "report.json": report.to_json(),
        "report.md": f"`{command}`\n\n{report.to_markdown()}",
    }
    if sweep is not None:
        texts["sweep.md"] = f"`{command}`\n\n{sweep.to_markdown()}"
        texts["sweep.csv"] = sweep.to_dataframe().to_csv(index=False)
    for name, text in texts.items():
        with replacing(folder / name) as file:
            file.write(well_formed(text))
    runs = {"before.trec": before, "after.trec": after}
    for name, system in runs.items():
        tag = "_".join(system.split())
        write_run(folder / name, report.systems[system].run(), tag=tag)
    figures = {f"{name}.png": draw for name, draw in _figures(report, sweep).items()}
    for name, draw in figures.items():
        _save(draw(), folder / name)
    written = ", ".join(sorted([*texts, *runs, *figures]))
    console.print(Text(well_formed(f"\nIn {folder}: {written}")))


def _in_rich(table: tables.Table) -> Table:
    title, frame = table
    # Titles and headings hold names of files, whose brackets would be taken for styles.
    first, *others = map(escape, frame.columns)
    shown = Table(first, title=escape(title))
    for heading in others:
        shown.add_column(heading, justify="right")
    for row in frame.itertuples(index=False):
        shown.add_row(*map(Text, row))
    return shown


def _print_worst(report: Report) -> None:
    measure = report.settings.measures[0]
    before, after = (system.per_query[measure] for system in report.systems.values())
    worst = report.worst_queries(_WORST)["query_id"].unique()
    if not len(worst):
        console.print(f"No query lost in {measure}.")
        return
    table = Table("query", title=f"Queries that lost most in {measure}, documents that moved")
    for heading in ("was", "now", "grade"):
        table.add_column(heading, justify="right")
    table.add_column("passage")
    for query in worst:
        table.add_section()
        words = f"{report.queries[query]}\n{before[query]:.4f} → {after[query]:.4f}"
        for move in report.moves(query, depth=_WORST_DEPTH):
            numbers = (move.old_rank, move.new_rank, move.grade)
            table.add_row(
                Text(well_formed(words)),
                *("–" if number is None else str(number) for number in numbers),
                Text(_snippet(move.text)),
            )
            words = ""
    console.print(table)


def _snippet(text: str) -> str:
    text = " ".join(well_formed(text).split())
    return text if len(text) <= _SNIPPET_CHARACTERS else text[: _SNIPPET_CHARACTERS - 1] + "…"


def _figures(report: Report, sweep: Sweep | None) -> dict[str, Callable[[], Figure]]:
    """Name the figures that can be drawn of what was found."""
    from langchain_rerank.evaluation import plots

    figures: dict[str, Callable[[], Figure]] = {
        "measures": lambda: plots.plot_measures(report),
        "differences": lambda: plots.plot_measures(report, differences=True),
        "tradeoff": lambda: plots.plot_tradeoff(sweep or report),
    }
    if report.reranking_systems:
        figures["scores"] = lambda: plots.plot_scores(report)
    worst = report.worst_queries(1)
    if not worst.empty:
        query = worst["query_id"].iloc[0]
        figures["worst_query"] = lambda: plots.plot_rank_movement(report, query)
    return figures


def _save(figure: Figure, path: Path) -> None:
    temporary = path.with_name(f".{path.stem}.{uuid4().hex}.png")
    try:
        figure.savefig(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
