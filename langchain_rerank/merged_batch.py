"""A batch of queries: concurrent first stages, then one pass over the pairs of all queries."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, cast

from langchain_core.documents import Document
from langchain_core.runnables import Runnable, RunnableConfig

from langchain_rerank.compressor import RerankInput
from langchain_rerank.ranking import check_query
from langchain_rerank.text import well_formed

# What one query comes to; one step of a batch (what to run, on which inputs, with which configs);
# and the steps themselves, which a driver runs, sync or async, and answers with their outcomes.
Outcome = list[Document] | Exception
Step = tuple[Runnable[Any, list[Document]], list[Any], list[RunnableConfig]]
Steps = Generator[Step, list[Outcome], list[Outcome]]


def batch_steps(
    first_stage: Runnable[str, list[Document]],
    reranker: Runnable[RerankInput, list[Document]],
    fetch_k: int,
    queries: list[str],
    configs: list[RunnableConfig],
) -> Steps:
    """Retrieve for every query that can be asked, then rerank for every one that found something.

    Returns:
        By way of the driver, one outcome a query.
    """
    outcomes: list[Outcome] = [_query_error(query) or [] for query in queries]
    asked = [i for i, outcome in enumerate(outcomes) if not isinstance(outcome, Exception)]
    searches = [well_formed(queries[i]) for i in asked]
    found = yield first_stage, searches, [configs[i] for i in asked]
    for i, outcome in zip(asked, found, strict=True):
        outcomes[i] = outcome if isinstance(outcome, Exception) else outcome[:fetch_k]

    candidates = {i: found for i, found in enumerate(outcomes) if isinstance(found, list) and found}
    kept = yield (
        reranker,
        [RerankInput(query=queries[i], documents=found) for i, found in candidates.items()],
        [configs[i] for i in candidates],
    )
    for i, outcome in zip(candidates, kept, strict=True):
        outcomes[i] = outcome
    return outcomes


def drive(steps: Steps) -> list[Outcome]:
    """Run the steps of a batch."""
    try:
        runnable, inputs, configs = next(steps)
        while True:
            results = runnable.batch(inputs, configs, return_exceptions=True)
            runnable, inputs, configs = steps.send(cast("list[Outcome]", results))
    except StopIteration as done:
        return cast("list[Outcome]", done.value)


async def adrive(steps: Steps) -> list[Outcome]:
    """Run the steps of a batch without blocking the event loop."""
    try:
        runnable, inputs, configs = next(steps)
        while True:
            results = await runnable.abatch(inputs, configs, return_exceptions=True)
            runnable, inputs, configs = steps.send(cast("list[Outcome]", results))
    except StopIteration as done:
        return cast("list[Outcome]", done.value)


def results_or_error(outcomes: list[Outcome], *, return_exceptions: bool) -> list[list[Document]]:
    """Raise the first error, unless errors are to be returned in their places."""
    for outcome in outcomes:
        if isinstance(outcome, Exception) and not return_exceptions:
            raise outcome
    return cast("list[list[Document]]", outcomes)


def _query_error(query: str) -> Exception | None:
    try:
        check_query(query)
    except (TypeError, ValueError) as error:
        return error
    return None
