"""Which server gets the next request: spreading by load, leaving out those that fail."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from langchain_rerank.cross_encoders.remote.addresses import Address

# How long a server is left out after its first failure, and at most, in seconds.
_FIRST_OUT = 1.0
_LONGEST_OUT = 60.0
# The same for one that asks for it: a mistaken header must not leave it out for ever.
_LONGEST_ASKED = 3600.0


@dataclass(slots=True, eq=False)
class Endpoint:
    """A server and how it has been doing; times are those of the event loop's clock.

    Attributes:
        address: Where it is.
        in_flight: Requests that it has not yet answered.
        failures: How often it failed since it last answered.
        failed_at: When it last failed.
        out_until: It is left out until then.
        retry_at: It asked for no request before then.
        turn: When it was last chosen, counted in choices.
    """

    address: Address
    in_flight: int = 0
    failures: int = 0
    failed_at: float = 0.0
    out_until: float = 0.0
    retry_at: float = 0.0
    turn: int = 0

    def is_available(self, now: float) -> bool:
        """Tell whether a request may go there; one that has failed is tried by one at first."""
        return not self.failures or (now >= self.out_until and not self.in_flight)


class Endpoints:
    """The servers of one client; used by one event loop, so without locks."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        """Start with all of them in."""
        self.all = [Endpoint(address) for address in addresses]
        self._turns = 0

    def choose(self, now: float, tried: Collection[Endpoint] = ()) -> Endpoint:
        """Choose for one request.

        Of the available ones that `tried` lacks, the one with the fewest requests in flight,
        equals in turn; else of the other available ones; else the one that is due next.
        """

        def order(endpoint: Endpoint) -> tuple[float, ...]:
            if endpoint.is_available(now):
                return (0, endpoint in tried, endpoint.in_flight, endpoint.turn)
            return (1, endpoint.out_until, endpoint.in_flight, endpoint.turn)

        return min(self.all, key=order)

    @contextlib.contextmanager
    def use(self, endpoint: Endpoint) -> Iterator[None]:
        """Count a request in flight."""
        self._turns += 1
        endpoint.turn = self._turns
        endpoint.in_flight += 1
        try:
            yield
        finally:
            endpoint.in_flight -= 1

    def answered(self, endpoint: Endpoint, started: float) -> None:
        """Take a server back in, unless it has failed since the request was sent.

        Args:
            endpoint: The server.
            started: When the request that it answered was sent.
        """
        if not endpoint.failures or started >= endpoint.failed_at:
            endpoint.failures = 0
            endpoint.out_until = endpoint.retry_at = 0.0

    def failed(
        self, endpoint: Endpoint, started: float, now: float, retry_after: float | None = None
    ) -> None:
        """Leave a server out for a while.

        Args:
            endpoint: The server.
            started: When the request that failed was sent; requests that were in flight together
                fail together, and count as one failure.
            now: The time.
            retry_after: How many seconds it asked for.
        """
        if not endpoint.failures or started >= endpoint.failed_at:
            endpoint.failures += 1
            endpoint.failed_at = now
        # 2**10 is over the longest already, and no power of 2 overflows a float then.
        out = min(_FIRST_OUT * 2 ** min(endpoint.failures - 1, 10), _LONGEST_OUT)
        if retry_after is not None:
            out = min(retry_after, _LONGEST_ASKED)
        endpoint.retry_at = now + (retry_after or 0.0)
        endpoint.out_until = max(endpoint.out_until, now + out)
