"""The service behind the routes: one model, its queue, and what a request becomes."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from langchain_rerank import telemetry
from langchain_rerank.errors import RerankError
from langchain_rerank.ranking import best_first
from langchain_rerank.server.metrics import Metrics
from langchain_rerank.server.parsing import check_characters
from langchain_rerank.server.replies import CLIENT_GONE, Refusal
from langchain_rerank.server.scoring_queue import QueueFullError, ScoringQueue, StoppedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from starlette.requests import Request
    from starlette.types import Receive

    from langchain_rerank.server.limits import Limits
    from langchain_rerank.server.waiting_line import Scored
    from langchain_rerank.server.served_model import ServedModel

logger = logging.getLogger(__name__)

_JOIN_SECONDS = 2


class Service:
    """One model and the requests that wait for it."""

    def __init__(self, model: ServedModel, limits: Limits, *, joint_scoring: bool) -> None:
        """Store the settings; `running` loads the model."""
        self.model = model
        self.limits = limits
        self.metrics = Metrics(lambda: len(self._queue))
        self._queue = ScoringQueue(
            model,
            max_waiting=limits.waiting,
            joint=joint_scoring,
            on_pass=self.metrics.observe_pass,
        )
        self.ready = False
        self.load_error: BaseException | None = None
        self.on_load_error: Callable[[BaseException], None] = lambda _: None
        """Called in the event loop if the model can't be loaded; whoever runs the app sets it."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load the model in the background and score, until the block ends."""
        self._queue.start().add_done_callback(self._loaded)
        try:
            yield
        finally:
            self.stop()
            # A pass that still runs holds the model, and must not hold up the end.
            if await asyncio.to_thread(self._queue.join, _JOIN_SECONDS):
                self.model.close()

    def stop(self) -> None:
        """Be no longer ready, and refuse what waits and what comes."""
        self.ready = False
        self._queue.stop()

    def _loaded(self, loading: asyncio.Future[None]) -> None:
        self.load_error = loading.exception()
        if self.load_error is None:
            self.ready = True
            logger.info("'%s' is loaded", self.model.name)
        else:
            logger.error("'%s' could not be loaded: %s", self.model.name, self.load_error)
            self.on_load_error(self.load_error)

    async def score(self, request: Request, query: str, texts: Sequence[str], field: str) -> Scored:
        """Score the texts of a request, unless its client goes away.

        Args:
            request: Whose trace is continued, and whose connection is watched.
            query: Of all texts.
            texts: What to score.
            field: What the body calls the texts.

        Returns:
            Raw scores, in the order of `texts`.

        Raises:
            Refusal: Too long a text, too many requests, a failure of the model, a client gone.
        """
        check_characters(query, texts, field, self.limits)
        attributes: dict[str, str | int | float] = {
            "http.route": request.url.path,
            "rerank.documents": len(texts),
            "rerank.characters": len(query) + sum(map(len, texts)),
        }
        with telemetry.span(
            f"POST {request.url.path}",
            kind="server",
            attributes=attributes,
            carrier=request.headers,
        ):
            try:
                scored = self._queue.submit([(query, text) for text in texts])
                return await _unless_gone(scored, request.receive)
            except QueueFullError as error:
                headers = {"retry-after": str(error.retry_after)}
                raise Refusal(503, str(error), headers) from error
            except StoppedError as error:
                raise Refusal(503, str(error), {"retry-after": "1"}) from error
            except RerankError as error:
                logger.exception("a request could not be scored")
                raise Refusal(500, str(error)) from error

    @staticmethod
    def order(scores: Sequence[float], top_n: int | None = None) -> list[int]:
        """Places of the best scores, best first; ties keep the order of the request."""
        return best_first(scores)[:top_n]


async def _unless_gone(scored: asyncio.Future[Scored], receive: Receive) -> Scored:
    """Wait for scores; give them up as soon as the client hangs up.

    Raises:
        Refusal: It did, and nobody will read this.
    """

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scored.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await scored
    except asyncio.CancelledError:
        if watcher.done():
            raise Refusal(CLIENT_GONE, "the client went away") from None
        raise
    finally:
        watcher.cancel()
