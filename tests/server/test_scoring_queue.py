"""Joint scoring as its clients see it: who is scored with whom, and what a failure touches."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest

from langchain_rerank.server.limits import Limits
from langchain_rerank.server.waiting_line import PASS_PAIRS, QUANTUM_PAIRS
from tests.server.serving import GatedCrossEncoder, client_of, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


class Requests:
    """Requests sent from threads, each counted in before the next is sent."""

    def __init__(self, client: httpx.Client, pool: ThreadPoolExecutor) -> None:
        self.client = client
        self.pool = pool
        self.waiting = 0

    def send(self, documents: list[str]):
        """Send a request that has to wait, and come back when it does."""
        self.waiting += 1
        sent = self.pool.submit(post, self.client, documents)
        wait_until(lambda: waiting_at(self.client) == self.waiting, "the request to wait")
        return sent

    def occupy(self, model: GatedCrossEncoder):
        """Send a request that the model holds until its gate opens."""
        passes = len(model.passes)
        sent = self.pool.submit(post, self.client, ["first"])
        wait_until(lambda: len(model.passes) > passes, "the model to be called")
        return sent


def post(client: httpx.Client, documents: list[str]) -> httpx.Response:
    return client.post("/v2/rerank", json={"query": "q", "documents": documents}, timeout=60)


def waiting_at(client: httpx.Client) -> int:
    return len(client.app.state.service._queue)


def scores_of(reply: httpx.Response) -> dict[int, float]:
    assert reply.status_code == 200, reply.text
    return {result["index"]: result["relevance_score"] for result in reply.json()["results"]}


@pytest.fixture
def model():
    model = GatedCrossEncoder()
    yield model
    model.open()


@pytest.fixture
def requests(model) -> Iterator[Requests]:
    with client_of(model) as client, ThreadPoolExecutor(64) as pool:
        yield Requests(client, pool)
        model.open()


def test_requests_that_wait_are_scored_in_one_pass(requests, model):
    first = requests.occupy(model)
    sent = [requests.send(["x" * (i + 1), "y" * (i + 2)]) for i in range(10)]
    model.open()
    for i, one in enumerate(sent):
        assert scores_of(one.result()) == {0: i + 1, 1: i + 2}
    assert scores_of(first.result()) == {0: 5}
    assert len(model.passes) == 2
    assert model.passes[1] == [t for i in range(10) for t in ("x" * (i + 1), "y" * (i + 2))]


def test_a_large_request_does_not_keep_small_ones_waiting(requests, model):
    requests.occupy(model)
    large = [f"large {place}" for place in range(10 * PASS_PAIRS)]
    limits = requests.client.app.state.service.limits
    large = large[: limits.documents]
    big = requests.send(large)
    model.let_pass()
    # The large one now fills a pass alone; those that come meanwhile are in the very next.
    wait_until(lambda: len(model.passes) == 2, "the large request's first pass")
    assert len(model.passes[1]) == PASS_PAIRS
    small = [requests.send([f"small {i}", "other"]) for i in range(5)]
    model.let_pass()
    wait_until(lambda: len(model.passes) == 3, "the next pass")
    assert {f"small {i}" for i in range(5)} <= set(model.passes[2])
    model.let_pass()
    for one in small:
        assert scores_of(one.result())[0] == 7
    assert not big.done()
    model.open()
    assert scores_of(big.result()) == {place: len(text) for place, text in enumerate(large)}
    scored = [text for one in model.passes for text in one if text.startswith("large")]
    assert sorted(scored) == sorted(large), "each once"


def test_no_small_request_is_cut_and_no_pass_overfull(requests, model):
    requests.occupy(model)
    size = QUANTUM_PAIRS - 2
    sent = [requests.send([f"{i}"] * size) for i in range(9)]
    model.open()
    for one in sent:
        assert len(scores_of(one.result())) == size
    assert [len(one) for one in model.passes[1:]] == [4 * size, 4 * size, size]
    assert model.passes[1] == [str(i) for i in range(4) for _ in range(size)]


def test_a_request_that_can_not_be_scored_fails_alone(requests, model):
    requests.occupy(model)
    good = [requests.send([f"good {i}"]) for i in range(3)]
    poisoned = requests.send(["fine", "poison"])
    late = requests.send(["late"])
    model.open()
    assert poisoned.result().status_code == 500
    assert "poisoned" in poisoned.result().json()["message"]
    assert [scores_of(one.result()) for one in [*good, late]] == [{0: 6}, {0: 6}, {0: 6}, {0: 4}]
    assert scores_of(post(requests.client, ["after"])) == {0: 5}


def test_a_failed_large_request_is_not_scored_on(requests, model):
    requests.occupy(model)
    texts = ["poison", *["x"] * (3 * PASS_PAIRS)]
    big = requests.send(texts)
    model.open()
    assert big.result().status_code == 500
    assert len(model.passes) == 2


def test_a_score_that_is_not_finite_fails_its_request_alone(requests, model):
    requests.occupy(model)
    broken = requests.send(["fine", "NaN"])
    good = requests.send(["good"])
    model.open()
    assert broken.result().status_code == 500
    assert "score nan for document 1" in broken.result().json()["message"]
    assert scores_of(good.result()) == {0: 4}


def test_one_after_another_without_joint_scoring():
    model = GatedCrossEncoder()
    with client_of(model, joint_scoring=False) as client, ThreadPoolExecutor(8) as pool:
        requests = Requests(client, pool)
        requests.occupy(model)
        large = requests.send(["large"] * (PASS_PAIRS + 1))
        small = requests.send(["small"])
        model.open()
        assert len(scores_of(large.result())) == PASS_PAIRS + 1
        assert scores_of(small.result()) == {0: 5}
    assert [len(one) for one in model.passes] == [1, PASS_PAIRS + 1, 1]


def test_a_client_that_goes_away_frees_its_place(requests, model):
    requests.occupy(model)
    kept = requests.send(["kept"])
    with pytest.raises(httpx.ReadTimeout):
        requests.client.post(
            "/v2/rerank", json={"query": "q", "documents": ["gone"] * 500}, timeout=0.3
        )
    wait_until(lambda: waiting_at(requests.client) == 1, "the place to be freed")
    model.open()
    assert scores_of(kept.result()) == {0: 4}
    assert scores_of(post(requests.client, ["after"])) == {0: 5}
    assert all("gone" not in texts for texts in model.passes)


def test_a_client_that_leaves_between_passes_is_not_scored_on(requests, model):
    requests.occupy(model)
    leaving = threading.Event()

    def half_asked():
        with httpx.Client(base_url=requests.client.base_url) as client:
            request = {"query": "q", "documents": ["gone"] * 1000}
            with pytest.raises(httpx.ReadTimeout):
                client.post("/v2/rerank", json=request, timeout=1)
        leaving.set()

    asked = requests.pool.submit(half_asked)
    wait_until(lambda: waiting_at(requests.client) == 1, "the large request to wait")
    model.let_pass()
    wait_until(lambda: len(model.passes) == 2, "its first pass")
    wait_until(leaving.is_set, "the client to leave")
    wait_until(lambda: waiting_at(requests.client) == 0, "the place to be freed")
    model.open()
    asked.result()
    assert scores_of(post(requests.client, ["after"])) == {0: 5}
    assert sum(texts.count("gone") for texts in model.passes) == PASS_PAIRS


def test_too_many_waiting_requests_are_sent_away_until_there_is_room():
    model = GatedCrossEncoder()
    with (
        client_of(model, limits=Limits(waiting=3)) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        requests = Requests(client, pool)
        requests.occupy(model)
        sent = [requests.send(["waits"]) for _ in range(3)]
        refused = post(client, ["too many"])
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert "3 requests wait already" in refused.json()["message"]
        model.open()
        assert [scores_of(one.result()) for one in sent] == [{0: 5}] * 3
        assert scores_of(post(client, ["after"])) == {0: 5}
    assert all("too many" not in texts for texts in model.passes)


class _Panics(GatedCrossEncoder):
    """Raises what is no Exception, as a panic of a tokenizer in Rust is none."""

    def score(self, text_pairs):
        if any("panic" in passage for _, passage in text_pairs):
            raise SystemExit(3)
        return super().score(text_pairs)


def test_what_is_no_exception_does_not_end_the_server():
    with client_of(_Panics(is_open=True)) as client:
        failed = post(client, ["panic"])
        assert failed.status_code == 500
        assert "SystemExit" in failed.json()["message"]
        assert scores_of(post(client, ["after"])) == {0: 5}


class _Miscounts(GatedCrossEncoder):
    def score(self, text_pairs):
        return super().score(text_pairs)[:-1]


def test_a_model_that_gives_too_few_scores_is_never_misaligned():
    with client_of(_Miscounts(is_open=True)) as client:
        failed = post(client, ["a", "b"])
        assert failed.status_code == 500
        assert "gave 1 scores for 2 pairs" in failed.json()["message"]


def test_a_pass_that_can_not_be_counted_does_not_end_the_scoring():
    with client_of(GatedCrossEncoder(is_open=True)) as client:
        client.app.state.service._queue._on_pass = _fails
        assert scores_of(post(client, ["one"])) == {0: 3}
        assert scores_of(post(client, ["three"])) == {0: 5}


def _fails(_: object) -> None:
    msg = "no place for another number"
    raise ValueError(msg)
