"""OpenTelemetry spans, which do nothing until an app configures an SDK.

They hold names, counts and times, never texts.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.context import Context


@contextmanager
def span(
    name: str,
    kind: trace.SpanKind,
    attributes: Mapping[str, str | int],
    context: Context | None = None,
) -> Iterator[trace.Span]:
    """Run a block as a span under the caller's, or `context`'s; note the kind of its error."""
    with trace.get_tracer("langchain_rerank").start_as_current_span(
        name,
        context,
        kind,
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
