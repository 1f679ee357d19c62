"""Spans go to whatever OpenTelemetry setup the app has."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
from opentelemetry import propagate, trace
from langchain_rerank import RemoteCrossEncoder, telemetry
before = set(sys.modules)
with telemetry.span("rerank", trace.SpanKind.CLIENT, {}):
    propagate.inject({})
print([name for name in sys.modules if name not in before])
"""


def test_no_span_imports_anything():
    """A child that is forked during another thread's first span would wait for ever."""
    done = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
