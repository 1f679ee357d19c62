"""Whose turn it is: requests in line, and the pairs of them that the next pass takes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    Pair = tuple[str, str]

# Pairs of a pass: enough to fill batches, few enough that a newcomer does not wait long.
PASS_PAIRS = 128
# Pairs that a request may put into a pass before the next one has its turn.
QUANTUM_PAIRS = 32


@dataclass(frozen=True, slots=True)
class Scored:
    """What a request gets: a raw score a pair, in order, and its share of the tokens read."""

    scores: list[float]
    tokens: float | None


@dataclass(slots=True, eq=False)
class WaitingRequest:
    """A request on its way: `pairs[:taken]` are in a pass or scored."""

    pairs: Sequence[Pair]
    future: asyncio.Future[Scored]
    arrived: float
    taken: int = 0
    scores: list[float] = field(default_factory=list)
    tokens: float | None = 0.0

    @property
    def left(self) -> int:
        """Count the pairs that no pass has taken."""
        return len(self.pairs) - self.taken

    @property
    def chunk(self) -> Sequence[Pair]:
        """The pairs that are in the pass."""
        return self.pairs[len(self.scores) : self.taken]

    @property
    def characters(self) -> int:
        """Length of the chunk; at least one a pair, so that shares of it exist."""
        return sum(len(query) + len(passage) + 1 for query, passage in self.chunk)

    @property
    def complete(self) -> bool:
        """Tell whether every pair has its score."""
        return len(self.scores) == len(self.pairs)

    @property
    def scored(self) -> Scored:
        """What the request gets, once complete."""
        return Scored(self.scores, self.tokens)

    def add(self, scores: list[float], tokens: float | None) -> None:
        """Take the scores of the chunk."""
        self.scores += scores
        self.tokens = None if tokens is None or self.tokens is None else self.tokens + tokens


class WaitingLine:
    """Requests that have pairs which no pass has taken, in order. Not thread-safe.

    A pass takes up to `QUANTUM_PAIRS` of each request in order of arrival until it is full. What a
    large request has left goes behind those that came meanwhile (round robin by quanta, as in
    Shreedhar and Varghese's deficit round robin, SIGCOMM 1995). So a request waits for a turn of
    each one before it, never for the whole of a large one, and a small one is never cut.
    """

    def __init__(self) -> None:
        """Start with nobody in line."""
        self._waiting: deque[WaitingRequest] = deque()

    def __len__(self) -> int:
        """Count the requests."""
        return len(self._waiting)

    @property
    def pairs_left(self) -> int:
        """Count the pairs of all requests that no pass has taken."""
        return sum(request.left for request in self._waiting)

    def add(self, request: WaitingRequest) -> None:
        """Let a request stand behind all others."""
        self._waiting.append(request)

    def remove(self, request: WaitingRequest) -> None:
        """Let a request leave, if it is in the line."""
        if request in self._waiting:
            self._waiting.remove(request)

    def clear(self) -> list[WaitingRequest]:
        """Send all away, and give them."""
        left = list(self._waiting)
        self._waiting.clear()
        return left

    def next_pass(self) -> list[WaitingRequest]:
        """Take pairs of the foremost requests until a pass is full.

        Returns:
            The requests; each one's `chunk` is its part of the pass.
        """
        taken: dict[WaitingRequest, None] = {}
        room = PASS_PAIRS
        while self._waiting:
            request = self._waiting[0]
            size = min(QUANTUM_PAIRS, request.left)
            if size > room:
                break
            self._waiting.popleft()
            request.taken += size
            room -= size
            taken[request] = None
            if request.left:
                self._waiting.append(request)
        return list(taken)

    def next_alone(self) -> list[WaitingRequest]:
        """Take all pairs of the foremost request."""
        request = self._waiting.popleft()
        request.taken = len(request.pairs)
        return [request]
