"""Which of several servers is asked, by a clock that the test turns."""

from __future__ import annotations

import contextlib
from collections import Counter

import pytest

from langchain_rerank.cross_encoders.remote import addresses
from langchain_rerank.cross_encoders.remote.attempt import retry_after
from langchain_rerank.cross_encoders.remote.endpoints import Endpoint, Endpoints


def servers(count: int) -> Endpoints:
    return Endpoints([addresses.parse(f"http://host{number}") for number in range(count)])


def fail(endpoints: Endpoints, endpoint: Endpoint, now: float, **more: float) -> None:
    endpoints.failed(endpoint, now, now, **more)


def test_equals_are_asked_in_turn():
    endpoints = servers(3)
    asked = []
    for _ in range(9):
        asked.append(endpoints.choose(0.0))
        with endpoints.use(asked[-1]):
            pass
    assert set(Counter(asked).values()) == {3}
    assert len(set(asked[:3])) == 3


def test_the_one_with_the_fewest_requests_is_asked():
    endpoints = servers(3)
    busy, less, idle = endpoints.all
    with contextlib.ExitStack() as running:
        for endpoint in (busy, busy, less):
            running.enter_context(endpoints.use(endpoint))
        assert endpoints.choose(0.0) is idle
        with endpoints.use(idle), endpoints.use(idle):
            assert endpoints.choose(0.0) is less


def test_one_that_failed_is_left_out_for_twice_as_long_each_time():
    endpoints = servers(2)
    bad, good = endpoints.all
    now = 0.0
    for out in (1, 2, 4, 8, 16, 32, 60, 60):
        fail(endpoints, bad, now)
        with endpoints.use(good):
            assert endpoints.choose(now + out - 0.01) is good
            now += out
            assert endpoints.choose(now) is bad
    endpoints.answered(bad, started=now)
    fail(endpoints, bad, now)
    assert not bad.is_available(now + 0.99)
    assert bad.is_available(now + 1)


def test_one_that_comes_back_gets_one_request_at_first():
    endpoints = servers(2)
    back, busy = endpoints.all
    fail(endpoints, back, 0.0)
    with endpoints.use(busy), endpoints.use(busy):
        assert endpoints.choose(2.0) is back
        with endpoints.use(back):
            assert endpoints.choose(2.0) is busy
            endpoints.answered(back, started=2.0)
            assert endpoints.choose(2.0) is back


def test_requests_that_fail_together_count_once():
    endpoints = servers(2)
    bad, _ = endpoints.all
    for _ in range(8):
        endpoints.failed(bad, started=0.0, now=5.0)
    assert bad.is_available(6.0)


def test_it_stays_out_as_long_as_it_asks():
    endpoints = servers(2)
    bad, _ = endpoints.all
    fail(endpoints, bad, 0.0, retry_after=30.0)
    assert not bad.is_available(29.0)
    assert bad.is_available(30.0)
    fail(endpoints, bad, 30.0, retry_after=float("inf"))
    assert bad.is_available(30.0 + 3600)


def test_if_all_are_out_the_one_due_next_is_asked():
    endpoints = servers(3)
    first, second, third = endpoints.all
    for endpoint, wait in ((first, 9.0), (second, 3.0), (third, 6.0)):
        fail(endpoints, endpoint, 0.0, retry_after=wait)
    assert endpoints.choose(1.0) is second


def test_another_than_those_tried_goes_first_where_it_can():
    endpoints = servers(2)
    one, another = endpoints.all
    with endpoints.use(another):
        assert endpoints.choose(0.0, tried=[one]) is another
    fail(endpoints, another, 0.0)
    assert endpoints.choose(0.0, tried=[one]) is one


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("9" * 400, float("inf")),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 2015 07:28:00", 0.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        (None, None),
        ("²", None),
    ],
)
def test_retry_after_is_read(header, seconds):
    assert retry_after(header) == seconds


def test_retry_after_of_a_coming_date_is_the_time_until_then():
    assert retry_after("Fri, 01 Jan 2100 00:00:00 GMT") > 3600
