"""Spans go to whatever OpenTelemetry setup the app has."""

from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry import trace

from langchain_rerank import telemetry


def test_headers_carry_a_trace_from_one_side_to_the_other(spans):
    headers: dict[str, str] = {}
    with telemetry.span("rerank", kind="client", attributes={"documents": 3}):
        telemetry.inject(headers)
    with telemetry.span("serve", kind="server", carrier=headers) as served:
        served.set_attribute("status", 200)
    client, server = spans.get_finished_spans()
    assert client.attributes == {"documents": 3}
    assert server.attributes == {"status": 200}
    assert (client.kind, server.kind) == (trace.SpanKind.CLIENT, trace.SpanKind.SERVER)
    assert server.context.trace_id == client.context.trace_id
    assert server.parent.span_id == client.context.span_id


def test_an_error_ends_its_span_and_goes_on(spans):
    with pytest.raises(ZeroDivisionError), telemetry.span("rerank"):
        1 / 0  # noqa: B018  # the error is the point
    (failed,) = spans.get_finished_spans()
    assert failed.status.status_code is trace.StatusCode.ERROR


def test_no_span_imports_anything():
    """A child that is forked during another thread's first span would wait for ever."""
    code = """
import sys
from langchain_rerank import RemoteCrossEncoder, telemetry
before = set(sys.modules)
with telemetry.span("rerank", kind="client"):
    telemetry.inject({})
print([name for name in sys.modules if name not in before])
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_without_the_api_nothing_happens():
    code = """
import sys
sys.modules["opentelemetry"] = None
from langchain_rerank import telemetry
headers = {}
with telemetry.span("rerank", kind="client") as span:
    span.set_attribute("documents", 3)
    telemetry.inject(headers)
assert headers == {}
"""
    subprocess.run([sys.executable, "-c", code], check=True)
