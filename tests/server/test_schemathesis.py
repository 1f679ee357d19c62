"""Generated requests, right and wrong ones, against the OpenAPI that the service gives."""

from __future__ import annotations

from collections import Counter

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

CHECKS = [not_a_server_error, response_schema_conformance, status_code_conformance]


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("path", ["/v2/rerank", "/rerank"])
def test_no_request_ends_in_a_server_error_or_an_undocumented_reply(lengths, path, mode):
    api = schemathesis.openapi.from_dict(lengths.get("/openapi.json").json())
    statuses: Counter[int] = Counter()

    @seed(1)
    @settings(
        max_examples=40,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=api[path]["POST"].as_strategy(generation_mode=mode))
    def ask(case):
        reply = case.call_and_validate(base_url=str(lengths.base_url), checks=CHECKS)
        statuses[reply.status_code] += 1

    ask()
    assert set(statuses) <= {200, 413, 415, 422}
    if mode is GenerationMode.POSITIVE:
        assert statuses[200] > 0, "else nothing was tried but refusals"
