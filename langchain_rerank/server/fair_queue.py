"""Whose turn it is: requests in line, and the pairs of them that the next pass takes."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator, Sequence

    from langchain_rerank.errors import RerankError

    Pair = tuple[str, str]

# Characters of a pair that count: about what most models read of it, whatever its length.
READ_CHARACTERS = 4000
# What a pair costs beside its characters, so that empty texts cost something.
_PAIR_CHARACTERS = 20


def cost_of(pair: Pair) -> float:
    """What a pair takes of a pass: characters, which stand for time."""
    query, passage = pair
    return min(len(query) + len(passage), READ_CHARACTERS) + _PAIR_CHARACTERS


@dataclass(frozen=True, slots=True)
class Scored:
    """What a request gets: a raw score a pair, in order, and its share of the tokens read."""

    scores: list[float]
    tokens: float | None


@dataclass(slots=True, eq=False)
class Job:
    """A request on its way: `pairs[len(scores):taken]` are in the pass."""

    pairs: Sequence[Pair]
    future: asyncio.Future[Scored]
    arrived: float = field(default_factory=time.perf_counter)
    taken: int = 0
    scores: list[float] = field(default_factory=list)
    tokens: float | None = 0.0
    left: float = 0.0
    """Cost of the pairs that no pass has taken."""

    def __post_init__(self) -> None:
        """Count what there is to do."""
        self.left = sum(map(cost_of, self.pairs))

    @property
    def chunk(self) -> Sequence[Pair]:
        """The pairs that are in the pass."""
        return self.pairs[len(self.scores) : self.taken]

    def take(self, room: float) -> float:
        """Put pairs into the pass, one at least, and give their cost."""
        cost = 0.0
        for pair in self.pairs[self.taken :]:
            if cost and cost + cost_of(pair) > room:
                break
            cost += cost_of(pair)
            self.taken += 1
        self.left -= cost
        return cost

    def add(self, scores: list[float], tokens: float | None) -> None:
        """Take the scores of the chunk; with the last ones the request is done."""
        self.scores += scores
        self.tokens = None if tokens is None or self.tokens is None else self.tokens + tokens
        if len(self.scores) == len(self.pairs) and not self.future.done():
            self.future.set_result(Scored(self.scores, self.tokens))

    def fail(self, error: RerankError) -> None:
        """End without scores, if nobody has given it up."""
        if not self.future.done():
            self.future.set_exception(error)


class FairQueue:
    """Whose pairs the next pass takes.

    Newcomers may fill half of it, in order of arrival; the rest is shared in turn by those that
    had their first turn already (as fq_codel does with new and old flows, RFC 8290). So a small
    request waits for one pass, not for the large ones before it, and a flood of small ones can't
    starve a large one.
    """

    def __init__(self) -> None:
        """Start with nobody in line."""
        self._new: deque[Job] = deque()
        self._served: deque[Job] = deque()

    def __len__(self) -> int:
        """Count the requests that have pairs which no pass has taken."""
        return len(self._new) + len(self._served)

    def __iter__(self) -> Iterator[Job]:
        """Go through the requests."""
        yield from self._new
        yield from self._served

    def add(self, job: Job) -> None:
        """Let a request stand behind the other newcomers."""
        self._new.append(job)

    def discard(self, job: Job) -> None:
        """Let a request leave, if it is in line."""
        for line in (self._new, self._served):
            if job in line:
                line.remove(job)

    def take(self, room: float) -> list[Job]:
        """Take pairs that cost about `room` together, at least one of each of the two kinds.

        Returns:
            The requests; each one's `chunk` is its part of the pass.
        """
        taken: dict[Job, None] = {}
        turn = room / 8
        waits = bool(self._served)
        newcomers = used = self._turns(self._new, room / 2 if waits else room, turn, taken)
        if waits and newcomers:
            used += self._served[0].take(min(turn, room - used))  # one pair, if there is no room
            taken[self._next(self._served)] = None
            if not self._new:  # no longer a pass than the newcomers need for their half of it
                room = min(room, max(2 * newcomers, used))
        for line in (self._served, self._new):
            used += self._turns(line, room - used, turn, taken)
        return list(taken)

    def _turns(self, line: deque[Job], room: float, turn: float, taken: dict[Job, None]) -> float:
        """Let a line take turns until there is no room; what fits whole takes it at once."""
        used = 0.0
        while line and used < room:
            left = room - used
            used += line[0].take(left if line[0].left <= left else min(turn, left))
            taken[self._next(line)] = None
        return used

    def _next(self, line: deque[Job]) -> Job:
        """End the turn of the foremost."""
        job = line.popleft()
        if job.taken < len(job.pairs):
            self._served.append(job)
        return job

    def take_alone(self) -> list[Job]:
        """Take all pairs of the foremost request."""
        job = self._new.popleft()
        job.take(math.inf)
        return [job]
