"""OpenTelemetry spans, where its API is installed; else nothing.

The API alone does nothing either, until an app configures an SDK, so no setting is needed here.
Spans hold names, counts and times, never texts.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, Protocol

try:
    # Now, not at the first span: a child that is forked during another thread's import would wait
    # for its end for ever.
    from opentelemetry import propagate, trace
except ImportError:
    _INSTALLED = False
else:
    _INSTALLED = True

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_NAME = "langchain_rerank"


class Span(Protocol):
    """The part of OpenTelemetry's span that is used here."""

    def set_attribute(self, key: str, value: str | float) -> None:
        """Note a value under a name."""


class _NoSpan:
    def set_attribute(self, key: str, value: str | float) -> None:
        """Note nothing."""


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
    if not _INSTALLED:
        yield _NoSpan()
        return
    context = propagate.extract(carrier) if carrier is not None else None
    with trace.get_tracer(_NAME).start_as_current_span(
        name,
        context,
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
    if _INSTALLED:
        propagate.inject(headers)
