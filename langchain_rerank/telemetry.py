"""OpenTelemetry spans, which hold names, counts and times, never texts.

Its API does nothing until an app configures an SDK, so no setting is needed here. It is imported
with this module, before any call: a child that is forked while another thread imports it would
wait for that import for ever.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from opentelemetry import propagate, trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Span = trace.Span


@contextmanager
def span(
    name: str,
    *,
    kind: Literal["internal", "client", "server"] = "internal",
    attributes: Mapping[str, str | int | float] | None = None,
    carrier: Mapping[str, str] | None = None,
) -> Iterator[Span]:
    """Run a block as a span under the caller's, and note the kind of error that ends it.

    Args:
        name: Of the span.
        kind: What side of a call it is.
        attributes: Values known at its start.
        carrier: Headers of an incoming request, whose trace it continues.
    """
    with trace.get_tracer("langchain_rerank").start_as_current_span(
        name,
        propagate.extract(carrier) if carrier is not None else None,
        trace.SpanKind[kind.upper()],
        attributes,
        # Both would hold the error's message, which may quote a text or a server.
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except BaseException as error:
            current.set_attribute("error.type", type(error).__name__)
            current.set_status(trace.StatusCode.ERROR, type(error).__name__)
            raise


def inject(headers: dict[str, str]) -> None:
    """Add the current trace context to the headers of an outgoing request."""
    propagate.inject(headers)
