"""Joint scoring as its clients see it: who is scored with whom, and what a failure touches."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest

from langchain_rerank.server.fair_queue import FairQueue, Job, cost_of
from langchain_rerank.server.limits import Limits
from tests.server.serving import GatedCrossEncoder, client_of
from tests.support import wait_until

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
    return len(client.app.state.batcher)


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


COST = cost_of(("q", "text"))


@pytest.fixture
def jobs():
    """Make requests of so many equal pairs each, in a queue."""
    line = FairQueue()
    loop = asyncio.new_event_loop()

    def add(*sizes: int) -> list[Job]:
        made = [Job([("q", "text")] * size, loop.create_future()) for size in sizes]
        for job in made:
            line.add(job)
        return made

    yield line, add
    loop.close()


def score(taken: list[Job]) -> list[int]:
    """End a pass, and tell how many pairs it had of each request."""
    sizes = [len(job.chunk) for job in taken]
    for job, size in zip(taken, sizes, strict=True):
        job.add([0.0] * size, None)
    return sizes


def test_a_small_newcomer_is_whole_in_the_next_pass_beside_four_large_ones(jobs):
    line, add = jobs
    large = add(1000, 1000, 1000, 1000)
    assert sum(score(line.take(100 * COST))) == 100
    (small,) = add(10)
    taken = line.take(100 * COST)
    assert score(taken)[taken.index(small)] == 10
    assert small.future.done()
    assert 108 <= sum(len(job.scores) for job in large) <= 125, "no more than the newcomer's share"


def test_a_flood_of_small_requests_leaves_half_of_each_pass_to_a_large_one(jobs):
    line, add = jobs
    (large,) = add(1000)
    score(line.take(100 * COST))
    for number in range(1, 5):
        add(*[10] * 20)
        score(line.take(100 * COST))
        assert len(large.scores) == 100 + 50 * number


def test_large_requests_share_passes_evenly_and_all_end(jobs):
    line, add = jobs
    large = add(400, 400, 400)
    while not any(job.future.done() for job in large):
        assert sum(score(line.take(96 * COST))) <= 96
    assert min(len(job.scores) for job in large) > 300
    while len(line):
        score(line.take(96 * COST))
    assert all(job.future.done() for job in large)


@pytest.mark.parametrize("room", [0, COST / 2])
def test_a_pass_has_at_least_a_pair_of_an_old_request_however_dear_it_is(jobs, room):
    line, add = jobs
    (old,) = add(3)
    score(line.take(COST))
    add(5)
    assert score(line.take(room or COST)).count(1) >= 1
    assert len(old.scores) == 2


def test_without_joint_scoring_a_pass_is_one_whole_request(jobs):
    line, add = jobs
    add(300, 1)
    assert score(line.take_alone()) == [300]
    assert score(line.take_alone()) == [1]
    assert len(line) == 0


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
    requests.client.app.state.batcher._pass_seconds = 1e-9
    big = requests.send(["poison", *["x"] * 300])
    model.open()
    assert big.result().status_code == 500
    assert model.passes[1:] == [["poison"]], "a pair a pass, and no more of them"


def test_a_score_that_is_not_finite_fails_its_request_alone(requests, model):
    requests.occupy(model)
    broken = requests.send(["fine", "NaN"])
    good = requests.send(["good"])
    model.open()
    assert broken.result().status_code == 500
    assert "score nan for document 1" in broken.result().json()["message"]
    assert scores_of(good.result()) == {0: 4}


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
    requests.client.app.state.batcher._pass_seconds = 1e-9  # a pair a pass
    with httpx.Client(base_url=requests.client.base_url) as client:
        body = {"query": "q", "documents": ["gone"] * 1000}
        asked = requests.pool.submit(client.post, "/v2/rerank", json=body, timeout=1)
        for number in range(1, 4):
            wait_until(lambda number=number: len(model.passes) == number, "a pass")
            model.let_pass()
        assert isinstance(asked.exception(), httpx.ReadTimeout)
    wait_until(lambda: waiting_at(requests.client) == 0, "the place to be freed")
    model.open()
    assert scores_of(post(requests.client, ["after"])) == {0: 5}
    assert sum(texts.count("gone") for texts in model.passes) < 1000


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
        client.app.state.batcher._on_pass = _fails
        assert scores_of(post(client, ["one"])) == {0: 3}
        assert scores_of(post(client, ["three"])) == {0: 5}


def _fails(_: object) -> None:
    msg = "no place for another number"
    raise ValueError(msg)
